"""Bars of one ticker, from a folder of CSV files or from the synthetic market, as a stored artifact."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

from prefect import task
from pydantic import Field

from tickerforge.features.config import FrozenModel, QualityConfig, SyntheticConfig
from tickerforge.features.pooling import POOL
from tickerforge.features.prices.bars import CsvColumns, parse_columns, read_content
from tickerforge.features.prices.history import history_change
from tickerforge.features.prices.quality import QualityReport
from tickerforge.features.prices.schemas import Columns, bar_columns
from tickerforge.features.prices.tickers import validate_ticker
from tickerforge.features.synthetic import market
from tickerforge.features.tables import read_table, to_columns, to_table, write_table
from tickerforge.tasks.base.disk import file_sha256
from tickerforge.tasks.base.errors import MarketDataError
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.base.paths import BARS_FILE
from tickerforge.tasks.base.retries import TASK_OPTIONS
from tickerforge.tasks.prices.quality import HISTORY, REPAIR_COUNTS, assess_bars, hold_to_limits, with_history
from tickerforge.tasks.store.artifacts import ArtifactRef, Scalar, Store, code_version

_NAMED_TICKERS = 8
_MODULES = (
    "tickerforge.features.prices.bars",
    "tickerforge.features.prices.cells",
    "tickerforge.features.prices.csvfile",
    "tickerforge.features.prices.dialects",
    "tickerforge.features.prices.plaincsv",
    "tickerforge.features.prices.pricefile",
    "tickerforge.features.prices.priceframe",
    "tickerforge.features.prices.pricetable",
    "tickerforge.features.prices.pricetext",
    "tickerforge.features.prices.schemas",
    "tickerforge.features.synthetic",
    "tickerforge.features.tables",
)


class FolderSource(FrozenModel):
    """A folder with one `{STOCK}.csv` per ticker, in Yahoo's columns."""

    kind: Literal["folder"] = "folder"
    folder: Path


class SyntheticSource(FrozenModel):
    """The seeded synthetic market; every ticker gets the series that the configuration describes."""

    kind: Literal["synthetic"] = "synthetic"
    config: SyntheticConfig = SyntheticConfig()


MarketSource = Annotated[FolderSource | SyntheticSource, Field(discriminator="kind")]


def list_tickers(folder: Path) -> list[str]:
    """List the tickers that a folder holds a CSV file for, sorted; the log names folders and broken links.

    Raises:
        MarketDataError: If there is no such folder.
    """
    if not folder.is_dir():
        raise MarketDataError(f"no folder {folder}: --data names a folder with one STOCK.csv per ticker")
    found = sorted(folder.glob("*.csv"))
    files = [path for path in found if path.is_file()]
    if len(files) < len(found):
        others = ", ".join(path.name for path in found if path not in files)
        run_logger(__name__).warning("%s: left out, as folders or broken links: %s", folder, others)
    return [path.stem for path in files]


def pool_tickers(folder: Path) -> list[str]:
    """List the tickers of a folder for the pool.

    Raises:
        MarketDataError: If the folder is missing, holds a ticker with the pool's own name, or fewer than two tickers.
    """
    tickers = list_tickers(folder)
    if POOL in tickers:
        raise MarketDataError(_reserved(folder / f"{POOL}.csv"))
    if len(tickers) < 2:
        raise MarketDataError(
            f"--stock {POOL} trains on all tickers of a folder together, and {folder} holds {len(tickers)}: put two or "
            "more STOCK.csv there, or name the only one with --stock"
        )
    return tickers


def _reserved(path: Path) -> str:
    return (
        f"{path} cannot be used: {POOL} stands for all tickers together and cannot name one. Rename the file, for "
        f"example to {POOL}-US.csv; its ticker is then {POOL}-US."
    )


@task(name="fetch-bars", task_run_name="fetch-bars {stock}", **TASK_OPTIONS)
def fetch_bars(
    source: MarketSource, stock: str, *, store: Store, quality: QualityConfig = QualityConfig()
) -> ArtifactRef:
    """Read and validate one ticker's bars, store them as `bars.parquet`, and store a quality report beside them.

    Returns:
        Artifact of the stage `bars`. Its meta holds `ticker`, `rows`, `first` and `last` session. Rows without prices
        are left out: `without_prices` counts them and `dates_without_prices` lists them. As JSON it holds the counts of
        all `repairs` and, if the former bars of the ticker had another past, `history`.

    Raises:
        FeaturesError: If the ticker's name or its prices are not valid, or worse than `quality` allows.
        MarketDataError: If the source holds nothing for the ticker, or there is no such exchange.
    """
    return fetch_with_quality(source, stock, store=store, quality=quality)[0]


def fetch_with_quality(
    source: MarketSource, stock: str, *, store: Store, quality: QualityConfig
) -> tuple[ArtifactRef, QualityReport | None]:
    """Do the same as `fetch_bars` and return the quality report too; the synthetic market has none."""
    ticker = validate_ticker(stock)
    if isinstance(source, SyntheticSource):
        config = source.config.model_copy(update={"ticker": ticker})

        def simulate() -> CsvColumns:
            return CsvColumns(bar_columns(market(config)))

        return _stored({"synthetic": config}, simulate, ticker=ticker, store=store), None
    path = csv_path(source.folder, ticker)
    # What is hashed is what is read, even if the file changes meanwhile.
    content = read_content(path, ticker=ticker)
    name = f"{ticker}.csv"

    @cache
    def read() -> CsvColumns:
        return parse_columns(content, path=path, ticker=ticker)

    inputs = {"csv": sha256(content).hexdigest(), "ticker": ticker}
    made = _stored(inputs, read, ticker=ticker, store=store, name=name)
    if made.meta["without_prices"]:
        run_logger(__name__).warning(
            "%s: rows without prices, left out: %s (%s)",
            ticker,
            made.meta["without_prices"],
            made.meta["dates_without_prices"],
        )
    _, report = assess_bars(made, lambda: read().columns, config=quality, store=store)
    report = with_history(report, made)
    store.note(made, name)
    hold_to_limits(report, quality)
    return made, report


def _stored(
    inputs: Mapping[str, object], read: Callable[[], CsvColumns], *, ticker: str, store: Store, name: str = ""
) -> ArtifactRef:
    """Store bars; if a name is given, compare them with the latest bars noted under it."""

    def build(folder: Path) -> dict[str, Scalar]:
        bars, gaps, repairs = read()
        before = _latest(name, ticker=ticker, store=store) if name else None
        change = history_change(before, bars) if before else None
        if change:
            run_logger(__name__).warning("%s: %s; its windows are made again", ticker, change)
        write_table(to_table(bars), folder / BARS_FILE)
        first, last = bars["date"][[0, -1]].astype("datetime64[D]").tolist()
        return {
            "ticker": ticker,
            "rows": len(bars["date"]),
            "first": first.isoformat(),
            "last": last.isoformat(),
            "without_prices": len(gaps),
            "dates_without_prices": " ".join(each.isoformat() for each in gaps),
            REPAIR_COUNTS: json.dumps(dict(repairs)),
            **({HISTORY: change.model_dump_json()} if change else {}),
        }

    return store.build("bars", inputs, build, code=_code())


def _latest(name: str, *, ticker: str, store: Store) -> Columns | None:
    """Read the latest bars noted under a name, if this code made them and they are undamaged."""
    latest = store.latest("bars", name)
    if latest is None or latest[1].code != _code():
        return None
    path = latest[0] / BARS_FILE
    if path.is_file() and file_sha256(path) == latest[1].files.get(BARS_FILE):
        return to_columns(read_table(path))
    run_logger(__name__).warning(
        "%s: the former bars, %s, are damaged: the new ones cannot be compared with them", ticker, path
    )
    return None


def _code() -> str:
    return code_version(*_MODULES, libraries=("pandas", "numpy", "pyarrow"))


def csv_path(folder: Path, stock: str) -> Path:
    """Find the CSV file of one ticker in a folder.

    Raises:
        TickerNameError: If the name could lead out of the folder.
        MarketDataError: If the folder or the file is missing; names some tickers that are there. Also for the name of
            the pool, which is not a ticker.
    """
    ticker = validate_ticker(stock)
    path = folder / f"{ticker}.csv"
    if ticker == POOL:
        cure = f"name one of its tickers. {POOL} is for `tickerforge run` and `tickerforge stage`."
        raise MarketDataError(
            _reserved(path) if path.is_file() else f"{POOL} stands for all tickers of {folder} together: {cure}"
        )
    if path.is_file():
        return path
    there = list_tickers(folder)
    if path.is_symlink() or path.exists():
        raise MarketDataError(f"no prices for {ticker}: {path} is a folder or a broken link; put a file there")
    if not there:
        raise MarketDataError(f"{folder} holds no CSV files: put one STOCK.csv per ticker there")
    more = f" and {len(there) - _NAMED_TICKERS} more" if len(there) > _NAMED_TICKERS else ""
    named = ", ".join(there[:_NAMED_TICKERS])
    raise MarketDataError(f"no prices for {ticker} in {folder}: {ticker}.csv is missing. There are {named}{more}.")
