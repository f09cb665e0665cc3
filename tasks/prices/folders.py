"""Where the prices of a ticker are: a file in a folder, or the rows of one file that holds many tickers."""

import re
from functools import lru_cache
from pathlib import Path

from tickerforge.features.errors import BarsError
from tickerforge.features.pooling import POOL
from tickerforge.features.prices.bars import read_content
from tickerforge.features.prices.pricefile import PriceFile, looks_like_prices
from tickerforge.features.prices.pricetable import nearest
from tickerforge.features.prices.tickers import matching_ticker, spelled, ticker_of_file
from tickerforge.tasks.base.errors import MarketDataError
from tickerforge.tasks.base.logs import run_logger

_NAMED_TICKERS = 8
# Text files that are not prices may lie beside some that are.
_UNSURE = (".txt", ".asc", ".prn")
_PEEKED_BYTES = 1 << 14
# Names of downloads that name no ticker: "HistoricalData_1700000000000", "prices", "table (1)".
_NO_TICKER = re.compile(r"\d{6}|^(?:prices?|data|download|table|quotes?|history|export|stocks?|ohlcv?|chart)\b", re.I)


def list_tickers(source: Path) -> list[str]:
    """List the tickers of a folder of price files, or of a file that holds several, sorted.

    The log names folders and broken links among the files.

    Raises:
        MarketDataError: If there is neither such a folder nor such a file.
        BarsError: If the file is not a table of prices.
    """
    if source.is_file():
        names = opened(source).tickers()
        return sorted({_spelled(name) for name in names}) if names else [ticker_of_file(source.name) or source.stem]
    return sorted(_files(source))


def csv_path(source: Path, stock: str) -> Path:
    """Find the price file of one ticker: in a folder, or the file itself if it holds the ticker.

    A file counts for the ticker that its name stands for: `AAPL.csv`, `aapl.us.txt`, `AAPL Historical Data.csv`.

    Raises:
        TickerNameError: If the name could lead out of the folder.
        MarketDataError: If there is no such file, or there are several; offers the nearest ticker. Also for the name of
            the pool, which is not a ticker.
        BarsError: If `source` is a file, and not a table of prices.
    """
    ticker = spelled(stock)
    usual = source / f"{ticker}.csv"
    if ticker != POOL and usual.is_file():
        # With many tickers, it takes long to list the folder for each.
        return usual
    there = {name: [source] for name in list_tickers(source)} if source.is_file() else _files(source)
    if ticker == POOL:
        raise MarketDataError(
            _reserved(there[POOL][0])
            if POOL in there
            else f"{POOL} stands for all tickers of {source} together: name one of its tickers. {POOL} is for "
            "`tickerforge run` and `tickerforge stage`."
        )
    found = matching_ticker(ticker, list(there))
    if found is None and source.is_file() and len(there) == 1 and _NO_TICKER.search(source.stem):
        # The file's own name is that of a download, so it is the one that the user means.
        return source
    if found is not None:
        paths = there[found]
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            raise MarketDataError(f"{source} holds several files of {ticker}: {names}. Keep one, as {ticker}.csv.")
        if found != ticker:
            run_logger(__name__).info("%s: read as %s from %s", ticker, found, paths[0].name)
        return paths[0]
    path = source / f"{ticker}.csv"
    if not source.is_file() and (path.is_symlink() or path.exists()):
        raise MarketDataError(f"no prices for {ticker}: {path} is a folder or a broken link; put a file there")
    if not there:
        raise MarketDataError(f"{source} holds no price files: put one STOCK.csv per ticker there")
    hint = nearest(ticker, there)
    named = ", ".join(list(there)[:_NAMED_TICKERS])
    more = f" and {len(there) - _NAMED_TICKERS} more" if len(there) > _NAMED_TICKERS else ""
    missing = "" if source.is_file() else f": {ticker}.csv is missing"
    raise MarketDataError(
        f"no prices for {ticker} in {source}{missing}. {f'Did you mean {hint}? ' if hint else ''}There are "
        f"{named}{more}."
    )


def pool_tickers(source: Path) -> list[str]:
    """List the tickers of a folder or file for the pool.

    Raises:
        MarketDataError: If it is missing, holds a ticker with the pool's own name, or fewer than two tickers.
    """
    tickers = list_tickers(source)
    if POOL in tickers:
        raise MarketDataError(_reserved(source if source.is_file() else _files(source)[POOL][0]))
    if len(tickers) < 2:
        raise MarketDataError(
            f"--stock {POOL} trains on all tickers of a folder together, and {source} holds {len(tickers)}: put two or "
            "more STOCK.csv there, or name the only one with --stock"
        )
    return tickers


def opened(path: Path) -> PriceFile:
    """Open a price file; one with many tickers is read once for all of them.

    Raises:
        BarsError: If it cannot be read.
    """
    try:
        state = path.stat()
    except OSError as fault:
        raise BarsError(f"{path}: the file cannot be read ({fault.strerror}); check the path") from fault
    return _opened(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1)
def _opened(path: Path, _changed: int, _size: int) -> PriceFile:
    return PriceFile(read_content(path, ticker=path.stem), name=str(path))


def _files(folder: Path) -> dict[str, list[Path]]:
    """Find the price files of a folder by ticker; `TICKER.csv` comes before files with other names."""
    if not folder.is_dir():
        raise MarketDataError(
            f"no folder {folder}: --data names a folder with one STOCK.csv per ticker, or a file with all of them"
        )
    found: dict[str, list[Path]] = {}
    others: list[str] = []
    for path in sorted(folder.iterdir()):
        ticker = ticker_of_file(path.name)
        if ticker is None:
            continue
        if not path.is_file():
            others += [path.name] if path.suffix == ".csv" else []
        elif path.suffix.lower() not in _UNSURE or _may_be_prices(path):
            found.setdefault(ticker, []).append(path)
    if others:
        run_logger(__name__).warning("%s: left out, as folders or broken links: %s", folder, ", ".join(others))
    return {
        ticker: [path for path in paths if path.name == f"{ticker}.csv"] or paths
        for ticker, paths in sorted(found.items())
    }


def _may_be_prices(path: Path) -> bool:
    with path.open("rb") as file:
        return looks_like_prices(file.read(_PEEKED_BYTES))


def _spelled(name: str) -> str:
    """Spell the ticker of a long file; a name that is not a ticker's is refused where its prices are read."""
    try:
        return spelled(name.strip())
    except ValueError:
        return name


def _reserved(path: Path) -> str:
    return (
        f"{path} cannot be used: {POOL} stands for all tickers together and cannot name one. Rename the file, for "
        f"example to {POOL}-US.csv; its ticker is then {POOL}-US."
    )
