"""Bars of one ticker, from a folder of CSV files or from the synthetic market, as a stored artifact."""

import json
from collections.abc import Callable, Mapping
from datetime import date, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from prefect import task
from pydantic import Field

from tickerforge.features.config import FrozenModel, QualityConfig, SyntheticConfig
from tickerforge.features.prices.bars import CsvColumns, columns_of, parse_columns, read_content
from tickerforge.features.prices.dialects import in_words
from tickerforge.features.prices.history import history_change
from tickerforge.features.prices.jumps import find_jumps, without_jumps
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
from tickerforge.tasks.prices.folders import csv_path, opened
from tickerforge.tasks.prices.freshness import is_running
from tickerforge.tasks.prices.quality import HISTORY, REPAIR_COUNTS, assess_bars, hold_to_limits, with_history
from tickerforge.tasks.prices.sessions import calendar_of
from tickerforge.tasks.store.artifacts import ArtifactRef, Scalar, Store, code_version

_MODULES = (
    "tickerforge.features.prices.bars",
    "tickerforge.features.prices.cells",
    "tickerforge.features.prices.csvfile",
    "tickerforge.features.prices.dialects",
    "tickerforge.features.prices.jumps",
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
    """A folder with one price file per ticker, or one file with the rows of many tickers."""

    kind: Literal["folder"] = "folder"
    folder: Path


class SyntheticSource(FrozenModel):
    """The seeded synthetic market; every ticker gets the series that the configuration describes."""

    kind: Literal["synthetic"] = "synthetic"
    config: SyntheticConfig = SyntheticConfig()


MarketSource = Annotated[FolderSource | SyntheticSource, Field(discriminator="kind")]


@task(name="fetch-bars", task_run_name="fetch-bars {stock}", **TASK_OPTIONS)
def fetch_bars(
    source: MarketSource,
    stock: str,
    *,
    store: Store,
    quality: QualityConfig = QualityConfig(),
    now: datetime | None = None,
    until: date | None = None,
) -> ArtifactRef:
    """Read and validate one ticker's bars, store them as `bars.parquet`, and store a quality report beside them.

    Args:
        source: Where the prices are.
        stock: Name of the ticker.
        store: Where the artifacts go.
        quality: Limits for the prices, and what to do with jumps.
        now: The current time, with a time zone: a session that has not closed by then is left out.
        until: Later prices of a file or folder are left out, before anything is checked.

    Returns:
        Artifact of the stage `bars`. Its meta holds `ticker`, `rows`, `first` and `last` session. Rows without prices
        are left out: `without_prices` counts them and `dates_without_prices` lists them. As JSON it holds the counts of
        all `repairs` and, if the former bars of the ticker had another past, `history`.

    Raises:
        FeaturesError: If the ticker's name or its prices are not valid, or worse than `quality` allows.
        MarketDataError: If the source holds nothing for the ticker up to `until`, or the exchange is unknown.
    """
    return fetch_with_quality(source, stock, store=store, quality=quality, now=now, until=until)[0]


def fetch_with_quality(
    source: MarketSource,
    stock: str,
    *,
    store: Store,
    quality: QualityConfig,
    now: datetime | None = None,
    until: date | None = None,
) -> tuple[ArtifactRef, QualityReport | None]:
    """Do the same as `fetch_bars` and return the quality report too; the synthetic market has none."""
    ticker = validate_ticker(stock)
    if isinstance(source, SyntheticSource):
        config = source.config.model_copy(update={"ticker": ticker})

        def simulate() -> CsvColumns:
            return CsvColumns(bar_columns(market(config)))

        return _stored({"synthetic": config}, simulate, ticker=ticker, store=store), None
    # Bars up to a past day are not the latest ones, with which the next are compared.
    name = "" if until else f"{ticker}.csv"
    digest, content = _content(source.folder, ticker)
    parse = (lambda: _until(until, content(), ticker=ticker)) if until else content
    read = cache(lambda: _repaired(parse()) if quality.jumps == "repair" else parse())
    inputs = {"csv": digest, "ticker": ticker} | ({"jumps": "repair"} if quality.jumps == "repair" else {})
    inputs |= {"until": until.isoformat()} if until else {}
    made = _stored(inputs, read, ticker=ticker, store=store, name=name)
    if now is not None and _ends_running(made, read, now=now, exchange=quality.exchange):
        whole = read
        read = cache(lambda: _without_last(whole()))
        made = _stored(inputs | {"without": made.meta["last"]}, read, ticker=ticker, store=store, name=name)
    _say_repairs(made, ticker=ticker)
    _, report = assess_bars(made, lambda: read().columns, config=quality, store=store)
    report = with_history(report, made)
    if name:
        store.note(made, name)
    hold_to_limits(report, quality)
    return made, report


def _ends_running(bars: ArtifactRef, read: Callable[[], CsvColumns], *, now: datetime, exchange: str) -> bool:
    """Return whether the last session has not closed. The prices are read only if it is about today's."""
    last = date.fromisoformat(str(bars.meta["last"]))
    if abs((last - now.date()).days) > 1 or int(str(bars.meta["rows"])) < 2:
        return False
    dates = pd.Series(read().columns["date"])
    calendar = calendar_of(str(bars.meta["ticker"]), dates, exchange=exchange)
    return calendar is not None and is_running(last, now, calendar=calendar)


def _until(day: date, read: CsvColumns, *, ticker: str) -> CsvColumns:
    """Leave out the prices after a day."""
    days = read.columns["date"].astype("datetime64[D]")
    if days[0] > np.datetime64(day):
        raise MarketDataError(f"the prices of {ticker} begin on {days[0]}, after {day}: name a later day")
    kept = {name: values[days <= np.datetime64(day)] for name, values in read.columns.items()}
    return read._replace(columns=kept, without_prices=tuple(each for each in read.without_prices if each <= day))


def _without_last(read: CsvColumns) -> CsvColumns:
    return read._replace(
        columns={name: values[:-1] for name, values in read.columns.items()},
        repairs={**read.repairs, "running_session": 1},
    )


def _repaired(read: CsvColumns) -> CsvColumns:
    """Remove the jumps by a certain factor, and count them."""
    certain = [jump for jump in find_jumps(read.columns) if jump.repair is not None]
    if not certain:
        return read
    return read._replace(
        columns=without_jumps(read.columns, certain), repairs={**read.repairs, "repaired_jumps": len(certain)}
    )


def _say_repairs(bars: ArtifactRef, *, ticker: str) -> None:
    """Log once, in words, what was repaired; the rows that hold no prices as a warning."""
    repairs = json.loads(str(bars.meta[REPAIR_COUNTS]))
    if others := {name: count for name, count in repairs.items() if name != "rows_without_prices"}:
        run_logger(__name__).info("%s: read with repairs: %s", ticker, in_words(others))
    if bars.meta["without_prices"]:
        run_logger(__name__).warning(
            "%s: rows without prices, left out: %s (%s)",
            ticker,
            bars.meta["without_prices"],
            bars.meta["dates_without_prices"],
        )


def _content(source: Path, ticker: str) -> tuple[str, Callable[[], CsvColumns]]:
    """Find a ticker's prices: their hash, and what reads them. What is hashed is read, even if the file changes."""
    path = csv_path(source, ticker)
    if source.is_file() and (file := opened(source)).tickers():
        return file.fingerprint(ticker), lambda: columns_of(file, ticker=ticker)
    content = read_content(path, ticker=ticker)
    return sha256(content).hexdigest(), lambda: parse_columns(content, path=path, ticker=ticker)


def _stored(
    inputs: Mapping[str, object], read: Callable[[], CsvColumns], *, ticker: str, store: Store, name: str = ""
) -> ArtifactRef:
    """Store bars; if a name is given, compare them with the latest bars noted under it."""

    def build(folder: Path) -> dict[str, Scalar]:
        bars, gaps, repairs, currency = read()
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
            **({"currency": currency} if currency else {}),
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
