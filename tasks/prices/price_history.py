"""Going on from a ticker's latest bars: of a price file only what is new is read, and a changed past is said."""

import json
from collections.abc import Mapping
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tickerforge.features.prices.bars import CsvColumns, parse_columns
from tickerforge.features.prices.history import HistoryChange, history_change
from tickerforge.features.prices.plaincsv import HEADERS, plain_columns
from tickerforge.features.prices.schemas import Columns, first_violation
from tickerforge.tasks.base.disk import file_sha256
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.base.parquet import read_columns
from tickerforge.tasks.base.paths import BARS_FILE
from tickerforge.tasks.store.manifest import Manifest

CSV, BYTES = "csv", "bytes"
REPAIRS, DATES_WITHOUT_PRICES = "repairs", "dates_without_prices"
STAYING_REPAIRS = {"rows_without_prices"}
"""Repairs of earlier rows that later rows have no part in."""


class PriceRows(NamedTuple):
    """What a price file holds, and how its history differs from the latest bars'."""

    found: CsvColumns
    change: HistoryChange | None = None


def described(content: bytes) -> dict[str, Any]:
    """A price file's content as inputs of an artifact; a later one is compared with them."""
    return {CSV: sha256(content).hexdigest(), BYTES: len(content)}


def read_rows(content: bytes, *, path: Path, ticker: str, latest: tuple[Path, Manifest] | None) -> PriceRows:
    """The rows of a price file, the same to the last bit whether or not there are latest bars to go on from.

    Args:
        content: The file's content.
        path: The file, for messages.
        ticker: Whose prices they are.
        latest: Folder and manifest of the ticker's latest bars, made by this very code from a price file.

    Raises:
        BarsError: As `features.prices.bars.read_csv`.
    """
    before = _stored(*latest, ticker=ticker) if latest else None
    if latest is None or before is None:
        return PriceRows(parse_columns(content, path=path, ticker=ticker))
    manifest = latest[1]
    longer = _with_more(before, content, manifest) if _goes_on(content, manifest.inputs, manifest.meta) else None
    if longer is not None:
        gaps = str(manifest.meta[DATES_WITHOUT_PRICES]).split()
        return PriceRows(CsvColumns(longer, tuple(map(date.fromisoformat, gaps)), _repairs(manifest.meta)))
    found = parse_columns(content, path=path, ticker=ticker)
    change = history_change(before, found.columns)
    if change:
        run_logger(__name__).warning("%s: %s; all of it is made anew", ticker, change)
    return PriceRows(found, change)


def _stored(folder: Path, manifest: Manifest, *, ticker: str) -> Columns | None:
    path = folder / BARS_FILE
    if path.is_file() and file_sha256(path) == manifest.files.get(BARS_FILE):
        return read_columns(path)
    run_logger(__name__).warning("%s: the latest bars, %s, are damaged: reading all prices anew", ticker, path)
    return None


def _goes_on(content: bytes, inputs: Mapping[str, Any], meta: Mapping[str, Any]) -> bool:
    """Whether a file begins with the one that is known, and its other rows can be read apart from those."""
    size = int(inputs[BYTES])
    last = content[content.rfind(b"\n", 0, size - 1) + 1 : size]
    return (
        content.startswith(HEADERS)
        # A quoted cell could reach from what is known into what is new.
        and b'"' not in content
        and last.endswith(b"\n")
        and bool(last.strip())
        and set(_repairs(meta)) <= STAYING_REPAIRS
        and sha256(memoryview(content)[:size]).hexdigest() == inputs[CSV]
    )


def _with_more(before: Columns, content: bytes, manifest: Manifest) -> Columns | None:
    """The bars that are known and those of the rows behind them; `None` where these are not plain or not in order."""
    more = content[int(manifest.inputs[BYTES]) :]
    if not more:
        return before
    header = next(each for each in HEADERS if content.startswith(each))
    added = plain_columns(header + more)
    if added is None:
        return None
    longer = {name: np.concatenate([before[name].astype(each.dtype), each]) for name, each in added.items()}
    from_last = {name: each[-len(added["date"]) - 1 :] for name, each in longer.items()}
    return longer if first_violation(from_last) is None else None


def _repairs(meta: Mapping[str, Any]) -> dict[str, int]:
    return dict(json.loads(str(meta[REPAIRS])))
