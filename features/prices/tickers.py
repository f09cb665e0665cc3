"""Names of tickers: which are allowed, how they are spelled, and which one a file or a symbol stands for."""

import re
from collections.abc import Sequence

from tickerforge.features.errors import TickerNameError, shortened

LONGEST_TICKER = 32
TABLE_ENDINGS = ("csv", "txt", "tsv", "prn", "asc", "parquet", "pq", "zip")
PACKED_ENDINGS = ("gz", "zip", "bz2", "xz")

_TICKER = re.compile(r"[A-Za-z0-9_^=&-][A-Za-z0-9._^=&-]*", re.ASCII)
_ENDING = re.compile(rf"\.(?:{'|'.join(TABLE_ENDINGS)})(?:\.(?:{'|'.join(PACKED_ENDINGS)}))?$", re.IGNORECASE)
_COPY = re.compile(r"\s*\(\d+\)$")
_DECORATIONS = (
    # Investing.com: "AAPL Historical Data.csv"; Yahoo's and others' own words after the name.
    re.compile(r"^(?P<ticker>\S+) (?:Stock Price History|Historical Data|Historical Prices|Price History)$", re.I),
    # Stooq: "aapl.us.txt", in bulk, and "aapl_us_d.csv", from the web.
    re.compile(r"^(?P<ticker>[^.\s]+)\.us$", re.I),
    re.compile(r"^(?P<ticker>[^\s]+?)_us_[dwm]$", re.I),
    # TradingView: "NASDAQ_AAPL, 1D.csv".
    re.compile(r"^[A-Z]+[_:](?P<ticker>[^\s,]+), ?1?D(?:_\w+)?$"),
    # Alpha Vantage: "daily_adjusted_AAPL.csv".
    re.compile(r"^daily(?:_adjusted)?_(?P<ticker>\S+)$", re.I),
    # CryptoDataDownload, Kraken, Binance, MetaTrader, Kaggle.
    re.compile(r"^[A-Z][a-z]+_(?P<ticker>[A-Z0-9]+)_d$"),
    re.compile(r"^(?P<ticker>[A-Z0-9.]+)_1440$", re.I),
    re.compile(r"^(?P<ticker>[A-Z0-9]+)-1d(?:-\d{4}(?:-\d\d)*)?$", re.I),
    re.compile(r"^(?P<ticker>[A-Z0-9.^=&-]+?)_?(?:D1|Daily)(?:_\d+)*$"),
    re.compile(r"^(?P<ticker>[A-Z0-9.^=&-]+)[_ ](?:data|daily|prices|ohlcv?|history|historical)$", re.I),
)
_PAIR = re.compile(r"[A-Za-z0-9][A-Za-z0-9.]*/[A-Za-z0-9]+", re.ASCII)


def validate_ticker(name: str) -> str:
    """Return `name` if it is safe as part of a file name.

    Raises:
        TickerNameError: Empty, longer than 32 characters, starting with a dot, or with a character other than ASCII
            letters, digits, `.`, `-`, `_`, `^`, `=`, `&`.
    """
    if isinstance(name, str) and len(name) <= LONGEST_TICKER and _TICKER.fullmatch(name):
        return name
    raise TickerNameError(
        f"{shortened(name)} is not a ticker name: use 1 to {LONGEST_TICKER} ASCII letters, digits and . - _ ^ = &, "
        "not starting with a dot (for example AAPL, BRK-A, ^GSPC)"
    )


def spelled(name: str) -> str:
    """Spell a ticker as folders, MLflow and Prefect do: in capitals, and `EUR/USD` with a dash instead of the slash.

    Raises:
        TickerNameError: As `validate_ticker`.
    """
    # Only one slash between two names: a path must not become a name.
    pair = isinstance(name, str) and _PAIR.fullmatch(name)
    return validate_ticker(name.replace("/", "-") if pair else name).upper()


def prefect_name(ticker: str) -> str:
    """Write a ticker for the names of Prefect, which must not have an `&`: `M+M.NS`, as no ticker has a plus.

    Raises:
        TickerNameError: As `validate_ticker`.
    """
    return validate_ticker(ticker).replace("&", "+")


def ticker_of_file(name: str) -> str | None:
    """Take the ticker from the name of a price file, as `spelled` does; `None` if it is not that of a price file.

    The part before the ending is taken as it is, if nothing is known of it.
    """
    ending = _ENDING.search(name)
    if ending is None or name.startswith("."):
        return None
    stem = _COPY.sub("", name[: ending.start()])
    for decoration in _DECORATIONS:
        if match := decoration.match(stem):
            stem = match["ticker"]
            break
    try:
        return spelled(stem)
    except TickerNameError:
        return stem


def matching_ticker(ticker: str, names: Sequence[str]) -> str | None:
    """Find the only name that stands for a ticker: itself, in another case, or with another mark in it.

    `BRK-B`, `BRK.B` and `BRK/B` are one ticker, and so are `AAPL`, `AAPL.US`, `NASDAQ:AAPL` and `AAPL US Equity`.

    Returns:
        One of `names`; `None` if none fits, or several do.
    """
    if ticker in names:
        return ticker
    for key in (str.upper, _key, _bare_key):
        found = [name for name in names if key(name) == key(ticker)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def is_likely(ticker: str, symbol: str) -> bool:
    """Return whether a source's symbol can stand for a ticker: `BTCUSDT` for `BTC-USD`, but not `MSFT` for `AAPL`."""
    one, two = (re.sub(r"[^A-Z0-9]", "", _bare_key(name)) for name in (ticker, symbol))
    return one.startswith(two) or two.startswith(one)


def _key(name: str) -> str:
    return re.sub(r"[._/ :-]+", "-", name.strip().upper())


def _bare_key(name: str) -> str:
    """Leave out the exchange and the country that sources write beside a ticker."""
    text = name.strip().upper().rpartition(":")[2]
    text = re.sub(r"\s+(?:US|UN|UW|UQ)?\s*EQUITY$", "", text)
    return _key(re.sub(r"\.(?:US|O|N|OQ|NQ)$", "", text))
