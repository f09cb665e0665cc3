"""The desk's rows, one record per ticker, and its files: the page and the table of the latest forecasts."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tickerforge.evaluation.report.desk import DeskRow, forecasts_frame, render_desk
from tickerforge.features.atomic import write_atomically
from tickerforge.tasks.base.disk import os_errors_as_publish_error
from tickerforge.tasks.base.errors import StoreError
from tickerforge.tasks.base.paths import DESK_FILE, FORECASTS_CSV_FILE, LATEST_FORECASTS_FILE
from tickerforge.tasks.outputs.pruning import read_prunable
from tickerforge.tasks.store.ledger import head
from tickerforge.tasks.store.records import list_records, read_record, write_record

logger = logging.getLogger(__name__)

_DESK = "desk"


@dataclass(frozen=True)
class DeskFiles:
    """The files of the desk."""

    page: Path
    parquet: Path
    csv: Path


def keep_rows(rows: Iterable[DeskRow]) -> None:
    """Keep the rows of some tickers; each replaces the former one.

    Raises:
        StoreError: If they cannot be written.
    """
    for row in rows:
        write_record(_DESK, row.ticker, row)


def read_row(ticker: str) -> DeskRow | None:
    """Return the row of a ticker; `None` if there is none, or if another version of TickerForge wrote it.

    Raises:
        StoreError: If the records cannot be read.
    """
    try:
        return read_record(_DESK, ticker, DeskRow)
    except StoreError as error:
        logger.warning("the desk shows %s again after its next forecast: %s", ticker, error)
        return None


def read_rows() -> list[DeskRow]:
    """Return the rows of all tickers, sorted by ticker.

    Raises:
        StoreError: If the records cannot be read.
    """
    return [row for name in list_records(_DESK) if (row := read_row(name)) is not None]


def desk_page(rows: list[DeskRow], *, at: datetime) -> str:
    """Return the page over these rows, with the end of the record of issued forecasts and what a prune would remove.

    Raises:
        StoreError: If that record cannot be read.
    """
    return render_desk(rows, written_at=at, end=str(head() or ""), notes=_notes())


def _notes() -> list[str]:
    try:
        found = read_prunable()
    except StoreError as error:
        logger.warning("the desk does not show what `tickerforge prune` would remove: %s", error)
        return []
    return [found.text] if found is not None and found.text else []


def write_desk(rows: list[DeskRow], *, folder: Path, at: datetime) -> DeskFiles:
    """Write `desk.html`, `latest.parquet` and `latest.csv`; each file is complete or the former one.

    Args:
        rows: From `read_rows`.
        folder: Folder for the files; created if missing.
        at: Now.

    Raises:
        StoreError: If the record of issued forecasts cannot be read.
        PublishError: If a file cannot be written.
    """
    files = DeskFiles(folder / DESK_FILE, folder / LATEST_FORECASTS_FILE, folder / FORECASTS_CSV_FILE)
    page, frame = desk_page(rows, at=at), forecasts_frame(rows)
    with os_errors_as_publish_error(folder, doing="writing the desk"):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(files.page, page)
        write_atomically(files.parquet, frame.to_parquet(index=False))
        write_atomically(files.csv, frame.to_csv(index=False))
    return files
