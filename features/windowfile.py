"""Stored windows: as they are, or as what is known at each session, from which they are cut when they are read.

A ticker's sessions lie in two files, the settled ones and the latest. One more session adds to the latter only, and the
borders of the splits, which it moves, are in neither.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tickerforge.features.config import FeatureConfig, FrozenModel
from tickerforge.features.prices.schemas import Columns
from tickerforge.features.splits import split_borders
from tickerforge.features.tables import to_table
from tickerforge.features.windows import cut_windows

BLOCK = 128
"""Sessions that settle at a time: in files of up to so many, writing costs more than what is written."""

_HEADER = b"tickerforge"


class SessionsHeader(FrozenModel):
    """What the file of the latest sessions says about itself.

    Attributes:
        ticker: Whose sessions they are.
        config: How windows are cut from them.
        settled: The file beside it with the sessions before; empty where there are none.
    """

    ticker: str
    config: FeatureConfig
    settled: str = ""


def settled_rows(n_rows: int) -> int:
    """How many of so many sessions are in the file of settled ones."""
    return n_rows // BLOCK * BLOCK


def sessions_table(sessions: Columns, header: SessionsHeader | None = None) -> pa.Table:
    """Sessions as a table to be written; with a header, the latest ones."""
    table = to_table(sessions)
    return table.replace_schema_metadata({_HEADER: header.model_dump_json()}) if header else table


def read_windows(path: Path) -> pd.DataFrame:
    """The windows of a Parquet file of windows, or of latest sessions with the file that it names beside it.

    Returns:
        A frame as `features.windows.build_windows` returns it; dates are datetime64[ms].
    """
    found = _read(path)
    if found is None:
        return pd.read_parquet(path)
    sessions, header = found
    windows = cut_windows(sessions, ticker=header.ticker, config=header.config)
    return to_table(windows).to_pandas(use_threads=False)


def read_train_rows(path: Path) -> pd.DataFrame:
    """The rows of the train split, `date` and `adj_close`, of a file of sessions or of such rows themselves."""
    found = _read(path)
    if found is None:
        return pd.read_parquet(path)
    sessions, header = found
    train_end = split_borders(len(sessions["date"]), header.config).train_end
    return pd.DataFrame({name: sessions[name][:train_end] for name in ("date", "adj_close")})


def _read(path: Path) -> tuple[Columns, SessionsHeader] | None:
    """All sessions and the header of a file of sessions; `None` for any other."""
    if _HEADER not in (pq.read_schema(path).metadata or {}):
        return None
    latest = pq.read_table(path, use_threads=False)
    header = SessionsHeader.model_validate_json(latest.schema.metadata[_HEADER])
    parts = [latest]
    if header.settled:
        parts.insert(0, pq.read_table(path.with_name(header.settled), use_threads=False))
    return {name: np.concatenate([part[name].to_numpy() for part in parts]) for name in latest.column_names}, header
