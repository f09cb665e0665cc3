"""Price files as their sources hand them out: the header, the forms of numbers and dates, and what stands around them.

Each function writes the same bars in one source's dialect, made up here after its documentation.
"""

import bz2
import gzip
import io
import zipfile
from collections.abc import Callable, Sequence
from datetime import date

import pandas as pd

from tickerforge.features.config import SyntheticConfig
from tickerforge.features.prices.schemas import YAHOO_COLUMNS
from tickerforge.features.synthetic import market

Bars = pd.DataFrame
Written = str | bytes


def bars_to_write(*, sessions: int = 100, adjusted: bool = True) -> Bars:
    """Bars with two decimals and whole volumes, so that every dialect keeps their digits."""
    bars = market(SyntheticConfig(sessions=sessions))
    prices = ["open", "high", "low", "close"]
    bars[prices] = bars[prices].round(2)
    bars["volume"] = (bars["volume"] // 100 * 100 + 1_000_000).round()
    bars["adj_close"] = (bars["close"] * 0.9).round(2) if adjusted else bars["close"]
    return bars


def table(bars: Bars, header: str, row: Callable[..., str], *, newest_first: bool = False, end: str = "\n") -> str:
    """Write a header and one line per bar; `row` gets date, open, high, low, close, adj_close, volume."""
    columns = ("date", "open", "high", "low", "close", "adj_close", "volume")
    lines = [row(day.date(), *values) for day, *values in zip(*(bars[column] for column in columns), strict=True)]
    return end.join([header, *(reversed(lines) if newest_first else lines)]) + end


def plain(bars: Bars, header: str = "Date,Open,High,Low,Close,Volume", *, separator: str = ",") -> str:
    return table(
        bars, header,
        lambda day, o, h, low, c, a, v: separator.join([str(day), f"{o:.2f}", f"{h:.2f}", f"{low:.2f}", f"{c:.2f}",
                                                        f"{v:.0f}"]),
    )  # fmt: skip


def comma(value: float, decimals: int = 2) -> str:
    """A number as German programs write it."""
    return f"{value:,.{decimals}f}".translate(str.maketrans(",.", ".,"))


def yfinance(bars: Bars, *, tickers: Sequence[str] = ("ACME",), adjusted: bool = False) -> str:
    """What `yfinance.download(...).to_csv()` writes."""
    prices = ["Close", "High", "Low", "Open", "Volume"] if adjusted else ["Adj Close", "Close", "High", "Low", "Open",
                                                                            "Volume"]  # fmt: skip
    names = {"Adj Close": "adj_close"} | {name: name.lower() for name in prices if name != "Adj Close"}
    frames = {
        (name, ticker): bars[names[name]] * (1 if ticker == "ACME" else 3) for name in prices for ticker in tickers
    }
    frame = pd.DataFrame(frames).set_index(pd.DatetimeIndex(bars["date"], name="Date"))
    frame.columns.names = ["Price", "Ticker"]
    return frame.to_csv()


def yfinance_history(bars: Bars) -> str:
    frame = bars.rename(columns=str.title).drop(columns="Adj_Close").assign(Dividends=0.0, **{"Stock Splits": 0.0})
    return frame.assign(Date=frame["Date"].dt.tz_localize("America/New_York")).to_csv(index=False)


def nasdaq(bars: Bars) -> str:
    return table(
        bars, "Date,Close/Last,Volume,Open,High,Low",
        lambda day, o, h, low, c, a, v: f"{day:%m/%d/%Y},${c:.2f},{v:.0f},${o:.2f},${h:.2f},${low:.2f}",
        newest_first=True,
    )  # fmt: skip


def investing(bars: Bars) -> str:
    return "\ufeff" + table(
        bars, '"Date","Price","Open","High","Low","Vol.","Change %"',
        lambda day, o, h, low, c, a, v: ",".join(
            f'"{cell}"' for cell in (f"{day:%m/%d/%Y}", f"{c:,.2f}", f"{o:,.2f}", f"{h:,.2f}", f"{low:,.2f}",
                                     f"{v / 1e6:.4f}M", "-0.53%")),
        newest_first=True,
    )  # fmt: skip


def investing_german(bars: Bars) -> str:
    return "\ufeff" + table(
        bars, '"Datum","Zuletzt","Eröffn.","Hoch","Tief","Vol.","+/- %"',
        lambda day, o, h, low, c, a, v: ",".join(
            f'"{cell}"' for cell in (f"{day:%d.%m.%Y}", comma(c), comma(o), comma(h), comma(low),
                                     f"{comma(v / 1e6, 4)}M", "-0,53%")),
        newest_first=True,
    )  # fmt: skip


def stooq_bulk(bars: Bars) -> str:
    return table(
        bars, "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>",
        lambda day, o, h, low, c, a, v: f"ACME.US,D,{day:%Y%m%d},000000,{o},{h},{low},{c},{v:.0f},0", end="\r\n",
    )  # fmt: skip


def alpha_vantage(bars: Bars) -> str:
    return table(
        bars, "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient",
        lambda day, o, h, low, c, a, v: f"{day},{o},{h},{low},{c},{a},{v:.0f},0.0000,1.0", newest_first=True,
    )  # fmt: skip


def tiingo(bars: Bars) -> str:
    return table(
        bars,
        "date,close,high,low,open,volume,adjClose,adjHigh,adjLow,adjOpen,adjVolume,divCash,splitFactor",
        lambda day, o, h, low, c, a, v: (
            f"{day}T00:00:00.000Z,{c},{h},{low},{o},{v:.0f},{a},{h * 0.9},{low * 0.9},{o * 0.9},{v},0.0,1.0"
        ),
    )


def excel_german(bars: Bars) -> bytes:
    return table(
        bars, "Datum;Eröffnung;Hoch;Tief;Schlusskurs;Volumen",
        lambda day, o, h, low, c, a, v: ";".join([f"{day:%d.%m.%Y}", comma(o), comma(h), comma(low), comma(c),
                                                  comma(v, 0)]),
        end="\r\n",
    ).encode("cp1252")  # fmt: skip


def excel_german_adjusted(bars: Bars) -> bytes:
    """The same with an adjusted close and all digits."""
    return table(
        bars, "Datum;Eröffnung;Hoch;Tief;Schlusskurs;Adj Close;Volumen",
        lambda day, o, h, low, c, a, v: ";".join([f"{day:%d.%m.%Y}", *(comma(each, 6) for each in (o, h, low, c, a)),
                                                  comma(v, 0)]),
        end="\r\n",
    ).encode("cp1252")  # fmt: skip


def as_yahoo(bars: Bars) -> str:
    return bars.set_axis(list(YAHOO_COLUMNS), axis=1).to_csv(index=False, date_format="%Y-%m-%d")


def excel_us(bars: Bars) -> str:
    return table(
        bars, "Date,Open,High,Low,Close,Adj Close,Volume",
        lambda day, o, h, low, c, a, v: f'{day.month}/{day.day}/{day.year},{o},{h},{low},{c},{a},"{v:,.0f}"',
        end="\r\n",
    )  # fmt: skip


def epoch(day: date, hour: int = 0) -> int:
    return int(pd.Timestamp(day).timestamp()) + 3600 * hour


def long_file(bars: Bars, *, other: str = "OTHER") -> str:
    """Like the Kaggle files of the S&P 500: all tickers below each other."""
    own = table(bars, "date,open,high,low,close,volume,Name",
                lambda day, o, h, low, c, a, v: f"{day},{o},{h},{low},{c},{v:.0f},ACME")  # fmt: skip
    more = table(bars, "", lambda day, o, h, low, c, a, v: f"{day},{o * 3},{h * 3},{low * 3},{c * 3},{v:.0f},{other}")
    return own + more.lstrip("\n")


def zipped(text: str | bytes, name: str = "acme.csv") -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, text)
    return packed.getvalue()


def parquet(frame: pd.DataFrame) -> bytes:
    written = io.BytesIO()
    frame.to_parquet(written)
    return written.getvalue()


UNADJUSTED: dict[str, Callable[[Bars], Written]] = {
    "yfinance download, adjusted": lambda bars: yfinance(bars, adjusted=True),
    "yfinance history": yfinance_history,
    "Nasdaq.com": nasdaq,
    "Investing.com": investing,
    "Investing.com, German": investing_german,
    "Stooq": plain,
    "Stooq, Polish": lambda bars: plain(bars, "Data,Otwarcie,Najwyzszy,Najnizszy,Zamkniecie,Wolumen"),
    "Stooq, bulk": stooq_bulk,
    "Excel, German": excel_german,
    "TradingView": lambda bars: table(
        bars, "time,open,high,low,close,Volume",
        lambda day, o, h, low, c, a, v: f"{epoch(day, 14)},{o},{h},{low},{c},{v:.0f}"),
    "TradingView, ISO time": lambda bars: table(
        bars, "time,open,high,low,close,Volume,Volume MA",
        lambda day, o, h, low, c, a, v: f"{day}T09:30:00-05:00,{o},{h},{low},{c},{v:.0f},1"),
    "MetaTrader 5": lambda bars: table(
        bars, "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<VOL>\t<SPREAD>",
        lambda day, o, h, low, c, a, v: f"{day:%Y.%m.%d}\t00:00:00\t{o}\t{h}\t{low}\t{c}\t{v:.0f}\t2"),
    "MetaTrader 4": lambda bars: table(
        bars, "", lambda day, o, h, low, c, a, v: f"{day:%Y.%m.%d},00:00,{o},{h},{low},{c},{v:.0f}"),
    "Finam": lambda bars: table(
        bars, "<TICKER>;<PER>;<DATE>;<TIME>;<OPEN>;<HIGH>;<LOW>;<CLOSE>;<VOL>",
        lambda day, o, h, low, c, a, v: f"ACME;D;{day:%Y%m%d};000000;{o};{h};{low};{c};{v:.0f}"),
    "Polygon, flat file": lambda bars: table(
        bars, "ticker,volume,open,close,high,low,window_start,transactions",
        lambda day, o, h, low, c, a, v: f"ACME,{v:.0f},{o},{c},{h},{low},{epoch(day, 5)}000000000,77"),
    "Polygon, aggregates": lambda bars: table(
        bars, "v,vw,o,c,h,l,t,n", lambda day, o, h, low, c, a, v: f"{v},1.5,{o},{c},{h},{low},{epoch(day, 5)}000,9"),
    "Kraken": lambda bars: table(
        bars, "", lambda day, o, h, low, c, a, v: f"{epoch(day)},{o},{h},{low},{c},{v:.0f},321"),
    "Binance": lambda bars: table(
        bars, "", lambda day, o, h, low, c, a, v: f"{epoch(day)}000,{o},{h},{low},{c},{v:.0f},{epoch(day) + 86399}999,"
        "1.5,9,1.0,1.0,0"),
    "Binance, with header": lambda bars: table(
        bars, "open_time,open,high,low,close,volume,close_time,quote_volume,count,ignore",
        lambda day, o, h, low, c, a, v: f"{epoch(day)}000000,{o},{h},{low},{c},{v:.0f},{epoch(day)}999999,1.5,9,0"),
    "CryptoDataDownload": lambda bars: "https://www.example.com\n" + table(
        bars, "unix,date,symbol,open,high,low,close,Volume BTC,Volume USD",
        lambda day, o, h, low, c, a, v: f"{epoch(day)},{day} 00:00:00,BTC/USD,{o},{h},{low},{c},{v:.0f},1.5",
        newest_first=True),
    "Bloomberg": lambda bars: "Security,ACME US Equity\nStart Date,1/2/2015\n\n" + table(
        bars, "Date,PX_OPEN,PX_HIGH,PX_LOW,PX_LAST,PX_VOLUME",
        lambda day, o, h, low, c, a, v: f"{day:%m/%d/%Y},{o},{h},{low},{c},{v:.0f}", newest_first=True),
    "Refinitiv": lambda bars: table(
        bars, "Exchange Date,Close,Net,%Chg,Open,Low,High,Volume,Turnover - USD",
        lambda day, o, h, low, c, a, v: f'{day:%d-%b-%Y},{c},0.5,+0.1%,{o},{low},{h},"{v:,.0f}","1,234,567.89"',
        newest_first=True),
    "NSE": lambda bars: table(
        bars, '"Date ","series ","OPEN ","HIGH ","LOW ","PREV. CLOSE ","ltp ","close ","vwap ","52W H","VOLUME "',
        lambda day, o, h, low, c, a, v: f'"{day:%d-%b-%Y}","EQ","{o}","{h}","{low}","{c}","{c}","{c}","{c}","9",'
        f'"{str(int(v))[:-5]},{str(int(v))[-5:-3]},{str(int(v))[-3:]}"', newest_first=True),
    "Wall Street Journal": lambda bars: table(
        bars, "Date, Open, High, Low, Close, Volume",
        lambda day, o, h, low, c, a, v: f"{day:%m/%d/%y}, {o}, {h}, {low}, {c}, {v:.0f}", newest_first=True),
    "Yahoo's page, copied": lambda bars: table(
        bars, "Date\tOpen\tHigh\tLow\tClose*\tVolume",
        lambda day, o, h, low, c, a, v: f"{day:%b} {day.day}, {day.year}\t{o}\t{h}\t{low}\t{c:,.2f}\t{v:,.0f}",
        newest_first=True),
    "Twelve Data": lambda bars: plain(bars, "datetime;open;high;low;close;volume", separator=";"),
    "quantmod": lambda bars: plain(bars, '"","ACME.Open","ACME.High","ACME.Low","ACME.Close","ACME.Volume"'),
    "R, row names": lambda bars: plain(bars, '"Open","High","Low","Close","Volume"'),
    "pandas, index without name": lambda bars: plain(bars, ",Open,High,Low,Close,Volume"),
    "pandas, numbered rows": lambda bars: bars.drop(columns="adj_close").to_csv(),
    "pandas, flattened levels": lambda bars: plain(bars, "Date,Open_ACME,High_ACME,Low_ACME,Close_ACME,Volume_ACME"),
    "pandas, tuples": lambda bars: plain(
        bars, "Date," + ",".join(f"\"('{name}', 'ACME')\"" for name in ("Open", "High", "Low", "Close", "Volume"))),
    "Chinese": lambda bars: plain(bars, "日期,开盘,最高,最低,收盘,成交量").encode("gb18030"),
    "Japanese": lambda bars: table(
        bars, '"日付","終値","始値","高値","安値","出来高","変化率 %"',
        lambda day, o, h, low, c, a, v: f'"{day.year}年{day.month:02}月{day.day:02}日","{c}","{o}","{h}","{low}",'
        f'"{v / 1e6:.4f}M","0.1%"', newest_first=True),
    "French": lambda bars: table(
        bars, "Date;Dernier;Ouv.;Plus Haut;Plus Bas;Vol.",
        lambda day, o, h, low, c, a, v: ";".join([f"{day:%d/%m/%Y}", *(f"{each:.2f}".replace(".", ",")
                                                  for each in (c, o, h, low)), f"{v:,.0f}".replace(",", "\u202f")])),
    "Swiss": lambda bars: table(
        bars, "Date;Open;High;Low;Close;Volume",
        lambda day, o, h, low, c, a, v: ";".join([f"{day:%d.%m.%Y}", *(f"{each:,.2f}".replace(",", "'")
                                                  for each in (o, h, low, c)), f"{v:,.0f}".replace(",", "’")])),
    "euros": lambda bars: table(
        bars, "Date\tOpen\tHigh\tLow\tClose\tVolume",
        lambda day, o, h, low, c, a, v: "\t".join([f"{day.day}. {day:%B} {day.year}", *(f"{comma(each)} €"
                                                   for each in (o, h, low, c)), comma(v, 0)])),
    "trailing commas": lambda bars: table(
        bars, "Date,Open,High,Low,Close,Volume,", lambda day, o, h, low, c, a, v: f"{day},{o},{h},{low},{c},{v:.0f},,"),
    "a note below": lambda bars: plain(bars) + '\n"Downloaded from example.com, 2026"\n(c) Example\n',
    "headers in between": lambda bars: plain(bars[:40]) + plain(bars[40:]),
    "UTF-16": lambda bars: plain(bars).encode("utf-16"),
    "UTF-16 without mark": lambda bars: plain(bars).encode("utf-16-le"),
    "gzip": lambda bars: gzip.compress(plain(bars).encode()),
    "bzip2": lambda bars: bz2.compress(plain(bars).encode()),
    "zip": lambda bars: zipped(plain(bars)),
    "Parquet": lambda bars: parquet(bars.drop(columns="adj_close")),
    "Parquet with dates as index": lambda bars: parquet(
        bars.drop(columns=["adj_close", "date"]).set_index(pd.DatetimeIndex(bars["date"]).tz_localize("Asia/Tokyo"))),
    "Excel's serial days": lambda bars: table(
        bars, "Date,Open,High,Low,Close,Volume",
        lambda day, o, h, low, c, a, v: f"{(day - date(1899, 12, 30)).days},{o},{h},{low},{c},{v:.0f}"),
    "long": long_file,
    "wide": lambda bars: yfinance(bars, tickers=("OTHER", "ACME"), adjusted=True),
}  # fmt: skip
"""Sources without an adjusted close."""

ADJUSTED: dict[str, Callable[[Bars], Written]] = {
    "yfinance download": yfinance,
    "yfinance download, by ticker": lambda bars: pd.read_csv(
        io.StringIO(yfinance(bars, tickers=("OTHER", "ACME"))), header=[0, 1], index_col=0
    ).swaplevel(axis=1).sort_index(axis=1).to_csv(),
    "Alpha Vantage": alpha_vantage,
    "Tiingo": tiingo,
    "Excel, US": excel_us,
    "EODHD": lambda bars: table(
        bars, "Date,Open,High,Low,Close,Adjusted_close,Volume",
        lambda day, o, h, low, c, a, v: f"{day},{o},{h},{low},{c},{a},{v:.0f}"),
    "Quandl": lambda bars: table(
        bars, "Date,Open,High,Low,Close,Volume,Ex-Dividend,Split Ratio,Adj. Open,Adj. High,Adj. Low,Adj. Close,"
        "Adj. Volume", lambda day, o, h, low, c, a, v: f"{day},{o},{h},{low},{c},{v},0.0,1.0,9,9,9,{a},{v}"),
    "Marketstack": lambda bars: table(
        bars, "open,high,low,close,volume,adj_close,adj_volume,split_factor,symbol,exchange,date",
        lambda day, o, h, low, c, a, v: f"{o},{h},{low},{c},{v},{a},{v},1.0,ACME,XNAS,{day}T00:00:00+0000",
        newest_first=True),
    "R, adjusted": lambda bars: table(
        bars, "Index,ACME.Open,ACME.High,ACME.Low,ACME.Close,ACME.Volume,ACME.Adjusted",
        lambda day, o, h, low, c, a, v: f"{day},{o},{h},{low},{c},{v},{a}"),
    "Yahoo's page": lambda bars: table(
        bars, "Date\tOpen\tHigh\tLow\tClose \tAdj Close**\tVolume",
        lambda day, o, h, low, c, a, v: f"{day:%b %d, %Y}\t{o}\t{h}\t{low}\t{c}\t{a}\t{v:,.0f}", newest_first=True),
}  # fmt: skip
"""Sources with an adjusted close beside the close."""
