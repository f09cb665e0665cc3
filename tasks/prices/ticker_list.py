"""A list of tickers in a file, as people keep it: one per line, or a column of a CSV file."""

import csv
import io
import re
from pathlib import Path

from tickerforge.features.errors import BarsError
from tickerforge.features.prices.csvfile import read_bytes
from tickerforge.features.prices.dialects import canonical, locate
from tickerforge.tasks.base.errors import MarketDataError
from tickerforge.tasks.prices.sessions import YAHOO_ENDINGS

_COMMENT = re.compile(r"\s*#.*")
_CLASS = re.compile(r"([A-Z]+)[./]([A-Z])")


def read_ticker_list(path: Path) -> list[str]:
    """Read the tickers of a file, each once, in its order.

    A file with a header that names a column Symbol or Ticker gives that column, as lists of an index do. Else every
    word of every line is a ticker, apart from comments after `#`. A class of shares such as `BRK.B` becomes `BRK-B`,
    as Yahoo writes it.

    Raises:
        BarsError: If the file cannot be read.
        MarketDataError: If it is not text, or holds no tickers.
    """
    raw = read_bytes(path, error=BarsError)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise MarketDataError(f"{path} is not UTF-8 text: save it as text, with one ticker per line") from fault
    rows = list(csv.reader(io.StringIO(text)))
    header = rows[0] if rows else []
    # COIN is a ticker too, so a file of one column needs a plain name.
    plain = len(header) == 1 and canonical(header[0]) in ("symbol", "symbols", "ticker", "tickers")
    places = [0] if plain else locate(header).get("symbol", []) if len(header) > 1 else []
    if places:
        words = [row[places[0]] for row in rows[1:] if len(row) > places[0]]
    else:
        words = [word for line in text.splitlines() for word in re.split(r"[\s,;]+", _COMMENT.sub("", line))]
    found = list(dict.fromkeys(_as_yahoo_writes(word.strip()) for word in words if word.strip()))
    if not found:
        raise MarketDataError(f"{path} holds no tickers: write one per line, for example AAPL")
    return found


def _as_yahoo_writes(ticker: str) -> str:
    match = _CLASS.fullmatch(ticker.upper())
    return f"{match[1]}-{match[2]}" if match and match[2] not in YAHOO_ENDINGS else ticker
