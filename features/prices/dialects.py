"""The table of dialects: the names, marks and forms in which sources write daily prices.

Every reader of prices uses this table and nothing else: price files of all commands, parquet files, and the frames that
a registered model gets.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache

COLUMN_NAMES: dict[str, tuple[str, ...]] = {
    "date": (
        *("date", "dates", "tradedate", "traddt", "date1", "observationdate", "timeperiod", "tsevent", "snappedat"),
        *("pricingdate", "tradingdate", "tradingday", "exchangedate", "pricedate", "quotedate", "sessiondate"),
        *("datadate", "effectivedate", "caldt", "day", "datum", "fecha", "data", "giorno", "дата", "日期", "交易日期"),
        *("日付", "날짜", "일자", "datetime", "dateandtime", "dateutc", "timestamp", "timestamputc", "localtime"),
        *("gmttime", "utctime", "windowstart", "opentime", "timeopen", "begin", "time", "unix", "unixtime"),
        *("unixtimestamp", "epoch", "tarih", "ts", "dt", "t"),
    ),
    "open": (
        *("open", "openprice", "priceopen", "opening", "openingprice", "pxopen", "openprc", "prcod", "erster"),
        *("eröffnungspreis", "eröffnung", "eröffn", "eröffnungskurs", "ouverture", "ouv", "apertura", "apert"),
        *("abertura", "abert", "öppen", "açılış", "24hopen", "opnpric", "откр", "открытие", "otwarcie"),
        *("开盘", "开盘价", "開盤", "開盤價", "始値", "시가", "o"),
    ),
    "high": (
        *("high", "highprice", "pricehigh", "dayhigh", "dayshigh", "pxhigh", "askhi", "prchd", "highest"),
        *("highestprice", "high1", "hoch", "tageshoch", "höchst", "höchstkurs", "haut", "plushaut", "máximo"),
        *("maximo", "máx", "max", "massimo", "máxima", "maxima", "макс", "максимум", "najwyższy", "najwyzszy"),
        *("hoog", "högst", "yüksek", "24hhigh", "hghpric", "最高", "最高价", "最高價", "高値", "高", "고가", "h"),
    ),
    "low": (
        *("low", "lowprice", "pricelow", "daylow", "dayslow", "pxlow", "bidlo", "prcld", "lowest", "lowestprice"),
        *("low1", "tief", "tagestief", "tiefst", "tiefstkurs", "bas", "plusbas", "mínimo", "minimo", "mín", "min"),
        *("mínima", "minima", "мин", "минимум", "najniższy", "najnizszy", "最低", "最低价", "最低價", "安値"),
        *("laag", "lägst", "düşük", "24hlow", "lwpric", "低", "저가", "l"),
    ),
    "close": (
        *("close", "closeprice", "priceclose", "closing", "closingprice", "closelast", "pxlast", "prc"),
        *("prccd", "schlusskurs", "schlusspreis", "schluss", "clôture", "cloture", "cierre", "chiusura"),
        *("fechamento", "zamknięcie", "zamkniecie", "закрытие", "收盘", "收盘价", "收盤", "收盤價", "終値", "종가"),
        *("settle", "last", "lastprice", "trdprc1", "zuletzt", "letzter", "dernier", "último", "ultimo"),
        *("ostatnio", "laatste", "senaste", "şimdi", "clspric", "nav", "netassetvalue", "obsvalue", "цена", "price"),
        *("kurs", "ltp", "c"),
    ),
    "adj_close": (
        *("adjclose", "adjustedclose", "adjcloseprice", "adjustedcloseprice", "adjustedclosingprice", "closeadj"),
        *("closeadjusted", "adjustmentclose", "adjusted", "adjprice", "adjprc", "fclose", "bereinigterschlusskurs"),
        *("調整後終値", "終値調整", "复权收盘价", "後復権終値"),
    ),
    "volume": (
        *("volume", "vol", "pxvolume", "totalvolume", "tradingvolume", "sharevolume", "sharestraded", "noofshares"),
        *("numberofshares", "volumetraded", "shares", "cshtrd", "tottrdqty", "umsatzinstück", "stück"),
        *("totaltradequantity", "totaltradedquantity", "quantity", "qty", "stücke", "stuecke", "volumen", "wolumen"),
        *("объём", "объем", "成交量", "出来高", "거래량", "tickvol", "tickvolume", "acvoluns", "cvol", "anzahl"),
        *("ttltrdqnty", "ttltradgvol", "wol", "hac", "交易量", "成交股數", "umsatz", "v"),
    ),
}
"""Column of bars → its names, the best first, as `canonical` writes them."""

SYMBOL_NAMES = (
    *("symbol", "ticker", "tickersymbol", "tic", "tscode", "actsymbol", "stockcode", "stock", "ric", "secid", "code"),
    *("tckrsymb", "instrument", "identifier", "asset", "pair", "coin", "name", "index", "代码", "股票代码", "コード"),
)
"""Names of the column that holds the ticker, if a file holds several; the best first."""

TIME_NAMES = ("time", "timeofday", "zeit", "uhrzeit", "hora", "heure", "ora", "время")
"""Names of a column with the time of day, beside one with the date."""

ADJUSTED_NAMES = {
    column: tuple(f"{prefix}{column}" for prefix in ("adj", "adjusted", "adjustment"))
    for column in ("open", "high", "low")
}
"""Names in a file that holds adjusted prices alone; beside others, these columns are ignored."""

MISSING = frozenset(
    {"", "-", "--", "–", "—", "−", ".", "nan", "null", "none", "na", "n/a", "n.a.", "n.a", "nat", "nil", "<na>", r"\n"}
    | {"#n/a", "#n/a n/a", "#na", "#nv", "#value!", "#ref!", "#div/0!"}
)
"""Cells without a value, in lower case."""

SEPARATORS = (",", ";", "\t", "|", " ")
ENCODINGS = ("utf-8", "cp1252", "gb18030", "cp1251", "shift_jis", "cp949", "cp950")
"""Tried in this order until the header can be read; a byte order mark decides at once."""

SUFFIXES = {
    **{"k": 10**3, "тыс": 10**3, "m": 10**6, "mn": 10**6, "mio": 10**6, "млн": 10**6, "b": 10**9, "bn": 10**9},
    **{"mrd": 10**9, "млрд": 10**9, "t": 10**12, "万": 10**4, "亿": 10**8, "cr": 10**7},
}
"""What a volume is multiplied by."""

CURRENCY = r"(?:[A-Z]{0,3}[$€£¥₹₩₽₺₴฿₫₪₱]|[A-Z]{3}|Rs\.?|kr\.?|zł|Kč|GBp|p)"

CURRENCY_CODES = {
    **{"$": "USD", "US$": "USD", "€": "EUR", "£": "GBP", "₹": "INR", "RS": "INR", "RS.": "INR", "₩": "KRW", "₽": "RUB"},
    **{"C$": "CAD", "CA$": "CAD", "A$": "AUD", "AU$": "AUD", "HK$": "HKD", "S$": "SGD", "R$": "BRL", "NT$": "TWD"},
    **{"₺": "TRY", "฿": "THB", "₫": "VND", "₪": "ILS", "₱": "PHP", "ZŁ": "PLN", "KČ": "CZK", "P": "GBX"},
}
"""Currency sign in capitals → code; a code of three letters stands for itself. Pence are GBX."""

PENCE = ("GBp", "GBx")
"""Other spellings of GBX, which in capitals would be pounds."""

CURRENCY_NAMES = frozenset({"currency", "currencycode", "ccy", "währung", "devise", "moneda", "valuta"})
"""Names of a column with the currency of the prices."""

MONTHS = {
    name: month
    for month, names in enumerate(
        (
            "jan ene gen янв",
            "feb fev fév fevr févr фев",
            "mar mär mrz mär märz maerz мар",
            "apr abr avr апр",
            "may mai mag mei май",
            "jun juin giu июн",
            "jul juil lug июл",
            "aug ago aoû aou août авг",
            "sep sept set сен",
            "oct okt out ott окт",
            "nov ноя",
            "dec dez dic déc дек",
        ),
        start=1,
    )
    for name in names.split()
}
"""First letters of a month's name → its number."""

SUNDAY_MARKETS = frozenset({"SR", "TA", "QA", "KW", "CA", "BH", "OM", "AE", "JO", "AD", "DU"})
"""Endings of tickers whose exchanges trade, or traded, from Sunday to Thursday."""

REPAIRS: dict[str, str] = {
    "rows_without_prices": "rows with a date and no prices, left out",
    "blank_rows": "empty rows, left out",
    "byte_order_marks": "a byte order mark before the header, left out",
    "times_of_day": "times of day and time zones after a date, left out: the date as written counts",
    "other_columns": "columns other than Yahoo's, ignored",
    "encodings": "another encoding than UTF-8, converted",
    "compressed": "packed or binary, unpacked",
    "separators": "another mark than a comma between the cells",
    "banner_rows": "lines before the header, left out",
    "footer_rows": "lines after the prices, left out",
    "header_rows": "further header rows, left out",
    "no_header": "no header: the columns follow a known order",
    "renamed_columns": "columns with another name than Yahoo's, recognised",
    "number_forms": "numbers with currency signs, thousands separators, decimal commas or K, M, B, read as numbers",
    "date_forms": "dates in another form than YYYY-MM-DD, recognised",
    "newest_first": "newest row first, turned round",
    "repeated_rows": "identical repeated rows, left out",
    "earlier_rows": "earlier rows of the last day, replaced by a later one of the same day",
    "close_only": "closes alone: they serve as open, high and low too",
    "event_rows": "rows with a dividend or a split instead of prices, left out",
    "wrapped_cells": 'rows with cells between apostrophes or in ="", taken out of them',
    "other_series": "rows of another series than EQ or BE, left out",
    "halts": "sessions without trade, kept at the close before",
    "missing_volumes": "rows without a volume, read as 0",
    "no_volume": "no volumes, read as 0",
    "no_adjusted_close": "no adjusted close: the close serves as both",
    "adjusted_only": "adjusted prices alone, which serve as both",
    "other_symbols": "rows whose ticker is written as another one than the file's",
    "running_session": "a last row whose session has not closed, left out",
    "repaired_jumps": "jumps by a certain factor, removed from the adjusted prices",
}
"""What is repaired in a price file, in words; every other fault is an error."""

_WHOLE_FILE = frozenset(
    {"byte_order_marks", "encodings", "compressed", "separators", "no_header", "newest_first", "no_volume"}
    | {"no_adjusted_close", "adjusted_only", "close_only", "running_session"}
)


_OF_ROWS = frozenset(
    {"rows_without_prices", "event_rows", "other_series", "repeated_rows", "earlier_rows", "halts", "missing_volumes"}
    | {"running_session", "repaired_jumps"}
)


def repaired_rows(repairs: Mapping[str, int]) -> int:
    """Count the rows that were changed or left out; the other repairs are of the form of the file."""
    return sum(count for name, count in repairs.items() if name in _OF_ROWS)


def in_brief(repairs: Mapping[str, int]) -> str:
    """Write repairs in two words: how many rows were changed or left out, and whether the file has another form."""
    rows = repaired_rows(repairs)
    parts = [f"{rows:,} row{'' if rows == 1 else 's'}"] if rows else []
    return ", ".join([*parts, *(["form"] if repairs.keys() - _OF_ROWS else [])]) or "none"


def in_words(repairs: Mapping[str, int]) -> str:
    """Write repairs for people: how often each was made, if it is not of the whole file, and what it is."""
    return "; ".join(
        REPAIRS[name] if name in _WHOLE_FILE else f"{count:,} {REPAIRS[name]}" for name, count in repairs.items()
    )


_UNIT = re.compile(r"\s*[(\[](.*?)[)\]]\s*$")
_MONEY = re.compile(rf"\s*{CURRENCY}\s*")
_NUMBERED = re.compile(r"^\s*\d+\.\s+")
_TUPLE = re.compile(r"""\(\s*['"](.*?)['"]\s*,\s*['"](.*?)['"]\s*\)""")


@lru_cache(maxsize=1024)
def canonical(label: str) -> str:
    """Write a header's label with lower-case letters and digits alone: `<CLOSE>`, `4. close` and `Close*` are `close`.

    A unit in brackets at the end, as in `Close (USD)`, is left out.
    """
    if label.isascii() and label.isalpha():
        return label.lower()
    text = _NUMBERED.sub("", unicodedata.normalize("NFC", label))
    text = _UNIT.sub("", text) or text
    return "".join(character for character in text.casefold() if character.isalnum())


def tuple_label(label: str) -> tuple[str, str] | None:
    """Split a label that pandas wrote for two levels, `('Close', 'AAPL')`; `None` if it is not one."""
    match = _TUPLE.fullmatch(label.strip())
    return (match[1], match[2]) if match else None


def locate(labels: Sequence[str]) -> dict[str, list[int]]:
    """Find the positions that can be each column of bars, also `symbol` and `clock`, the best names first."""
    names = [canonical(label) for label in labels]
    found: dict[str, list[int]] = {}
    for column, known in (*COLUMN_NAMES.items(), ("symbol", SYMBOL_NAMES), ("clock", TIME_NAMES)):
        if places := sorted(
            (known.index(name), place) for place, name in enumerate(names) if name and name in _KNOWN[column]
        ):
            best = places[0][0]
            found[column] = [place for rank, place in places if rank == best]
    for column, known in ADJUSTED_NAMES.items():
        if column not in found and (near := [place for place, name in enumerate(names) if name in known]):
            found[column] = near
    if "volume" not in found and (near := [place for place, name in enumerate(names) if name.startswith("volume")]):
        found["volume"] = near[:1]
    if len(twins := found.get("volume", [])) > 1 and len({labels[place] for place in twins}) > 1:
        # Shares and turnover under one name, `Umsatz (Stück)` and `Umsatz (€)`.
        shares = [place for place in twins if (unit := _UNIT.search(labels[place])) and not _MONEY.fullmatch(unit[1])]
        found["volume"] = shares if len(shares) == 1 else twins
    if found.get("clock") == found.get("date"):
        found.pop("clock", None)
    return found


_KNOWN = {
    column: frozenset(known)
    for column, known in (*COLUMN_NAMES.items(), ("symbol", SYMBOL_NAMES), ("clock", TIME_NAMES))
}
