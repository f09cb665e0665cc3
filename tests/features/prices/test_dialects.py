"""Price files in the dialects of many sources become the same bars, to the last bit."""

from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from further_sources import CLOSES, FURTHER, Source
from price_sources import (
    ADJUSTED,
    UNADJUSTED,
    Bars,
    Written,
    bars_to_write,
    excel_german,
    excel_german_adjusted,
    long_file,
    plain,
)
from tickerforge.features.errors import BarsError
from tickerforge.features.prices.bars import (
    columns_of,
    interpret,
    parse_columns,
    parse_csv,
    read_csv,
    validate_frame,
)
from tickerforge.features.prices.dialects import REPAIRS
from tickerforge.features.prices.plaincsv import plain_table
from tickerforge.features.prices.pricefile import PriceFile, looks_like_prices


def read(content: Written) -> pd.DataFrame:
    found = parse_csv(content if isinstance(content, bytes) else content.encode(), path="ACME.csv", ticker="ACME")
    assert found.repairs
    assert set(found.repairs) <= set(REPAIRS)
    return found.bars


@pytest.mark.parametrize("write", UNADJUSTED.values(), ids=UNADJUSTED)
def test_a_source_without_an_adjusted_close_is_read_to_the_last_bit(write: Callable[[Bars], Written]) -> None:
    bars = bars_to_write(adjusted=False)
    pd.testing.assert_frame_equal(read(write(bars)), bars, check_exact=True)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_names_in_brackets_are_told_from_a_web_page_in_utf_16(encoding: str) -> None:
    bars = bars_to_write(adjusted=False)
    text = UNADJUSTED["MetaTrader 5"](bars)
    assert isinstance(text, str)
    pd.testing.assert_frame_equal(read(text.encode(encoding)), bars, check_exact=True)
    assert looks_like_prices(text.encode(encoding)[:1000])
    with pytest.raises(BarsError, match="this is a web page"):
        read(f"<html><body>{text}".encode(encoding))


@pytest.mark.parametrize("write", FURTHER.values(), ids=FURTHER)
def test_a_further_source_is_read_to_the_last_bit(write: Source) -> None:
    bars = bars_to_write(sessions=100, adjusted=False).tail(40).reset_index(drop=True)
    pd.testing.assert_frame_equal(read(write(bars)), bars, check_exact=True)


@pytest.mark.parametrize("write", CLOSES.values(), ids=CLOSES)
def test_closes_alone_serve_as_all_prices(write: Source) -> None:
    bars = bars_to_write(adjusted=False)
    expected = bars.assign(open=bars["close"], high=bars["close"], low=bars["close"], volume=0.0)
    found = parse_columns(write(bars), path="ACME.csv", ticker="ACME")
    pd.testing.assert_frame_equal(pd.DataFrame(found.columns), expected, check_exact=True)
    assert found.repairs["close_only"] == 1


def test_frames_of_closes_are_read() -> None:
    bars = bars_to_write(adjusted=False)
    one = bars[["close"]].set_axis(pd.DatetimeIndex(bars["date"]))
    for frame in (one, one.set_axis(["ACME"], axis=1), one.set_axis(["ACME"], axis=1).assign(OTHER=1.5)):
        assert validate_frame(frame, source="ACME")["low"].tolist() == bars["close"].tolist()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("Date,Change %\n2015-01-02,0.1\n", "column Close is missing"),
        ("Date,Volume\n2015-01-02,100\n", "column Close is missing"),
        ("Date,one,two\n2015-01-02,1,2\n", "column Close is missing"),
        ("Date,Open,Close\n2015-01-02,1,2\n", "column High is missing"),
    ],
)
def test_a_table_without_a_clear_close_is_refused(text: str, part: str) -> None:
    assert part in refused(text)


def test_what_tells_two_rows_of_a_date_apart_is_named() -> None:
    lines = plain(bars_to_write(adjusted=False)).splitlines()
    text = "\n".join([f"{lines[0]},BOARDID", *(f"{line},{board}" for line in lines[1:] for board in ("TQBR", "SMAL"))])
    assert "keep the rows of one BOARDID (SMAL, TQBR)" in refused(text)


@pytest.mark.parametrize("write", ADJUSTED.values(), ids=ADJUSTED)
def test_a_source_with_an_adjusted_close_is_read_to_the_last_bit(write: Callable[[Bars], Written]) -> None:
    bars = bars_to_write()
    pd.testing.assert_frame_equal(read(write(bars)), bars, check_exact=True)


def refused(content: Written) -> str:
    with pytest.raises(BarsError) as caught:
        read(content)
    return str(caught.value)


def daily(bars: Bars, dates: str | Sequence[date], *, header: str = "Date,Open,High,Low,Close,Volume") -> str:
    """The same bars on other days, or with their days in another form."""
    days = [f"{each:{dates}}" for each in bars["date"]] if isinstance(dates, str) else [str(each) for each in dates]
    lines = plain(bars, header).splitlines()
    return "\n".join(
        [lines[0], *(f"{day},{line.partition(',')[2]}" for day, line in zip(days, lines[1:], strict=True))]
    )


@pytest.mark.parametrize("order", ["%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%m-%d-%Y", "%m/%d/%y", "%d/%m/%y", "%y/%m/%d"])
def test_a_day_after_the_12th_proves_the_order_of_day_and_month(order: str) -> None:
    bars = bars_to_write(adjusted=False)
    pd.testing.assert_frame_equal(read(daily(bars, order)), bars, check_exact=True)


def test_dates_that_prove_no_order_are_refused_with_both_readings() -> None:
    early = [f"{day:02}/{month:02}/2017" for month in (1, 2, 3) for day in range(1, 13)]
    message = refused(daily(bars_to_write(sessions=len(early) + 100).head(len(early)), [*early]))
    assert "column Date: '02/01/2017' can be 2017-02-01 or 2017-01-02" in message
    assert "write dates as YYYY-MM-DD" in message


def test_a_decimal_mark_that_nothing_proves_is_refused_with_both_readings() -> None:
    rows = [f'2017-01-{day:02},"1,234","1,235","1,233","1,234",100' for day in range(2, 7)]
    message = refused("\n".join(["Date,Open,High,Low,Close,Volume", *rows]))
    assert "'1,234' can be 1.234 or 1234" in message
    proven = "\n".join(["Date,Open,High,Low,Close,Volume", *(row.replace("100", '"1,000,000"') for row in rows)])
    assert read(proven)["close"].tolist() == [1234.0] * 5


def test_marks_that_contradict_each_other_are_refused() -> None:
    lines = excel_german(bars_to_write(adjusted=False)).decode("cp1252").splitlines()
    mixed = [lines[0], *lines[1:50], *(line.replace(",", ".") for line in lines[50:])]
    assert "has a decimal point and" in refused("\n".join(mixed))


def test_one_comma_does_not_make_thousands_of_all_points() -> None:
    rows = [f"2017-01-{day:02};110.{100 + day};111.200;109.100;110.500;100" for day in range(1, 32)]
    rows[7] = rows[7].replace("110.500", "110,5")
    message = refused("\n".join(["Date;Open;High;Low;Close;Volume", *rows]))
    assert "'110,5' has a decimal comma, and '110.101' has none" in message


def test_all_faulty_rows_are_listed_at_once_each_cure_once() -> None:
    lines = plain(bars_to_write()).splitlines()
    for row in range(10, 40):
        lines[row] = lines[row].replace(",", ",-" if row % 2 else ",?", 1)
    message = refused("\n".join(lines)).splitlines()
    assert len(message) == 21
    assert message[0].endswith("write a plain number such as 101.25 or delete the row")
    assert message[1].strip().startswith("row 12, column Open: -")
    assert message[1].endswith("correct the price or delete the row")
    assert message[2].endswith("is not a number")
    assert message[-1] == "  and 10 more faulty rows"


@pytest.mark.parametrize(
    ("dates", "part"),
    [
        (pd.date_range("2015-01-05 09:30", periods=100, freq="h"), "bars of less than a day"),
        (pd.date_range("2010-01-04", periods=100, freq="W-FRI").date, "these are weekly bars, from 2010-01-08"),
        (pd.date_range("2010-01-31", periods=100, freq="ME").date, "these are monthly bars"),
        (pd.date_range("2000-01-01", periods=100, freq="QS").date, "these are quarterly bars"),
        (pd.bdate_range("2015-01-05", periods=100, freq="C", weekmask="Sun Mon Tue Wed Thu").date, "a day early"),
        (pd.bdate_range("2015-01-05", periods=100, freq="C", weekmask="Tue Wed Thu Fri Sat").date, "a day late"),
    ],
)
def test_bars_that_are_not_daily_and_dates_a_day_off_are_named_as_that(dates: Sequence[date], part: str) -> None:
    bars = bars_to_write(adjusted=False)
    for header in ("Date,Open,High,Low,Close,Volume", "date,o,h,l,c,v"):
        assert part in refused(daily(bars, [*dates], header=header))
    frame = bars.assign(date=pd.DatetimeIndex(list(map(pd.Timestamp, dates))).as_unit("s"))
    with pytest.raises(BarsError, match=part):
        validate_frame(frame, source="ACME")


def test_tokyo_sessions_written_in_utc_are_named_and_a_sunday_market_is_not(tmp_path: Path) -> None:
    bars = bars_to_write(adjusted=False)
    utc = bars["date"].dt.tz_localize("Asia/Tokyo").dt.tz_convert("UTC")
    assert "as an Asian session is in UTC" in refused(daily(bars, [each.isoformat() for each in utc]))
    sundays = pd.bdate_range("2015-01-04", periods=100, freq="C", weekmask="Sun Mon Tue Wed Thu").date
    (tmp_path / "2222.SR.csv").write_text(daily(bars, [*sundays]))
    assert len(read_csv(tmp_path / "2222.SR.csv", ticker="2222.SR")) == 100


@pytest.mark.parametrize("content", [long_file(bars_to_write(adjusted=False)), UNADJUSTED["wide"](bars_to_write())])
def test_a_file_of_several_tickers_offers_the_nearest(content: Written) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    assert PriceFile(raw, name="x").tickers() in (["ACME", "OTHER"], ["OTHER", "ACME"])
    three = (
        parse_csv(raw, path="x", ticker="OTHER").bars["close"] / parse_csv(raw, path="x", ticker="acme").bars["close"]
    )
    assert three.round(6).eq(3).all()
    with pytest.raises(BarsError, match=r"the prices are those of .*; did you mean ACME"):
        parse_csv(raw, path="x", ticker="ACNE")


def test_one_tickers_rows_have_a_fingerprint_of_their_own() -> None:
    bars = bars_to_write(adjusted=False)
    first = PriceFile(long_file(bars).encode(), name="x")
    longer = PriceFile((long_file(bars) + "2030-01-01,1,1,1,1,1,OTHER\n").encode(), name="x")
    assert first.fingerprint("ACME") == longer.fingerprint("ACME")
    assert first.fingerprint("OTHER") != longer.fingerprint("OTHER")


@pytest.mark.parametrize("word", ["NaN", "null", "-", "", "N/A", "#N/A", "None"])
def test_rows_without_prices_are_left_out_however_a_source_writes_them(word: str) -> None:
    bars = bars_to_write(adjusted=False)
    lines = plain(bars).splitlines()
    lines[50] = ",".join([lines[50][:10], *[word] * 5])
    found = parse_csv("\n".join(lines).encode(), path="x", ticker="ACME")
    assert found.without_prices == (date.fromisoformat(lines[50][:10]),)
    pd.testing.assert_frame_equal(found.bars, bars.drop(49).reset_index(drop=True), check_exact=True)


def test_the_rows_of_a_long_file_keep_their_numbers() -> None:
    text = long_file(bars_to_write(adjusted=False)).splitlines()
    text[150] = text[150].replace(",", ",oops", 1)
    with pytest.raises(BarsError, match="row 151, column open: 'oops"):
        parse_csv("\n".join(text).encode(), path="x", ticker="OTHER")
    assert len(parse_csv("\n".join(text).encode(), path="x", ticker="ACME").bars) == 100


@pytest.mark.parametrize(
    ("source", "currency"),
    [("Nasdaq.com", "USD"), ("euros", "EUR"), ("Stooq", ""), ("Excel, German", "")],
)
def test_the_currency_that_a_source_writes_is_known(source: str, currency: str) -> None:
    content = UNADJUSTED[source](bars_to_write(adjusted=False))
    raw = content if isinstance(content, bytes) else content.encode()
    assert parse_columns(raw, path="x", ticker="ACME").currency == currency


def test_the_currency_of_a_header_or_a_column_is_known() -> None:
    bars = bars_to_write(adjusted=False)
    for text in (
        plain(bars, "Date,Open (SEK),High (SEK),Low (SEK),Close (SEK),Volume"),
        "\n".join(f"{line},{'SEK' if place else 'Currency'}" for place, line in enumerate(plain(bars).splitlines())),
    ):
        assert parse_columns(text.encode(), path="x", ticker="ACME").currency == "SEK"


@pytest.mark.parametrize(("cells", "currency"), [(("$", "USD"), "USD"), (("GBp", ""), "GBX"), (("SEK", "EUR"), None)])
def test_a_column_of_two_currencies_is_refused(cells: tuple[str, str], currency: str | None) -> None:
    head, *lines = plain(bars_to_write(adjusted=False)).splitlines()
    text = "\n".join([f"{head},Currency", *(f"{line},{cells[row == 9]}" for row, line in enumerate(lines))])
    if currency is not None:
        assert parse_columns(text.encode(), path="x", ticker="ACME").currency == currency
        return
    with pytest.raises(BarsError, match=r"x: column Currency names several currencies \(EUR in row 11, SEK in row"):
        parse_columns(text.encode(), path="x", ticker="ACME")


def test_the_settlement_price_of_a_future_is_its_close() -> None:
    head, *lines = plain(bars_to_write(adjusted=False), "Date,Open,High,Low,Last,Volume").splitlines()
    one = "\n".join([f"{head},Settle", *(f"{line},{line.split(',')[3]}" for line in lines)])
    found = parse_columns(one.encode(), path="x", ticker="ACME").columns
    np.testing.assert_array_equal(found["close"], found["low"])


@pytest.mark.parametrize(
    "label",
    [
        *("Market Cap", "market_cap", "marketCap", "Market Capitalization", "Dividends", "Cash Dividend"),
        *("Stock Splits", "Open Interest", "OpenInterest", "PE Ratio", "peRatio", "P/E", "Put/Call Ratio", "RSI"),
        "RSI(14)",
    ],
)
def test_a_column_of_another_quantity_is_no_close(label: str) -> None:
    with pytest.raises(BarsError, match="must name date, open, high, low and close, or date and close alone"):
        parse_columns(closes_named(label), path="x", ticker="ACME")


@pytest.mark.parametrize(
    "label",
    [
        *("SP500", "Adj. value", "Vanguard Dividend Appreciation", "Horatio Fund", "Split Income Fund", "CAP", "PE"),
        *("Dividend 15 Split Corp", "VERSION", "Settlement", "RSIX"),
    ],
)
def test_a_column_named_after_a_fund_or_a_ticker_is_the_close(label: str) -> None:
    assert len(parse_columns(closes_named(label), path="x", ticker="ACME").columns["close"]) == 100


def closes_named(label: str) -> bytes:
    days = pd.bdate_range("2020-01-01", periods=100)
    return "\n".join([f"Date,{label}", *(f"{day:%Y-%m-%d},{50 + row % 7}.25" for row, day in enumerate(days))]).encode()


def test_the_quick_and_the_thorough_reading_agree_in_everything() -> None:
    quick, bars = [], bars_to_write(adjusted=False)
    for name, write in {**UNADJUSTED, **ADJUSTED, **FURTHER, "German, adjusted": excel_german_adjusted}.items():
        content = write(bars)
        raw = content if isinstance(content, bytes) else content.encode()
        table = plain_table(raw, name="x")
        if table is None:
            continue
        two = columns_of(PriceFile(raw, name="x"), ticker="ACME")
        try:
            one = interpret(table, name="x", ticker="ACME")
        except BarsError:
            # Then `parse_columns` reads thoroughly.
            continue
        quick.append(name)
        assert (one.repairs, one.currency, one.without_prices) == (two.repairs, two.currency, two.without_prices), name
        pd.testing.assert_frame_equal(pd.DataFrame(one.columns), pd.DataFrame(two.columns), check_exact=True)
    assert {"Excel, US", "Excel, German", "German, adjusted", "Ariva", "Alpha Vantage"} <= {*quick}


@pytest.mark.parametrize(
    ("prices", "read"),
    [
        # Groups behind a leading 0, a decimal comma among points, and marks that prove nothing are no quick matter.
        (("0.123", "1.234,5"), None),
        (("110.101",) * 25 + ("110,5",), None),
        (("1.234", "2.345"), None),
        (("1.234,50", "2,25"), [1234.5, 2.25]),
        (("1234", "1,5"), [1234.0, 1.5]),
    ],
)
def test_the_quick_reading_takes_only_proven_numbers(prices: tuple[str, ...], read: list[float] | None) -> None:
    rows = [f"2017-01-{day:02};{each};{each};{each};{each};100" for day, each in enumerate(prices, start=2)]
    table = plain_table("\n".join(["Date;Open;High;Low;Close;Volume", *rows]).encode(), name="x")
    assert (table.columns[4].tolist() if table else None) == read  # type: ignore[union-attr]
