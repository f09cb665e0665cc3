"""Windows as Parquet files: as they are, or as what is known at each session, from which they are cut when read."""

from pathlib import Path

import pandas as pd
import pyarrow as pa

from tickerforge.features.config import FeatureConfig, FrozenModel
from tickerforge.features.prices.schemas import Columns
from tickerforge.features.splits import split_borders
from tickerforge.features.tables import read_table, to_columns, to_frame, to_table, write_table
from tickerforge.features.windows import cut_windows

_HEADER = b"tickerforge"


class SessionsHeader(FrozenModel):
    """What a file of sessions says about itself.

    Attributes:
        ticker: Name of the ticker.
        config: How windows are cut from the sessions.
    """

    ticker: str
    config: FeatureConfig


def write_sessions(sessions: Columns, path: Path, *, ticker: str, config: FeatureConfig) -> None:
    """Write a ticker's sessions; the borders of the splits are not stored, as `config` gives them.

    Args:
        sessions: From `features.windows.session_columns`, the whole series.
        path: The file.
        ticker: Name of the ticker.
        config: How windows are cut from the sessions.
    """
    header = SessionsHeader(ticker=ticker, config=config)
    write_table(to_table(sessions).replace_schema_metadata({_HEADER: header.model_dump_json()}), path)


def windows_from_file(path: Path) -> pd.DataFrame:
    """Read the windows of a Parquet file of windows or of sessions.

    Returns:
        A frame as `features.windows.build_windows` returns it.
    """
    table = read_table(path)
    header = _header(table)
    if header is not None:
        table = to_table(cut_windows(to_columns(table), ticker=header.ticker, config=header.config))
    return to_frame(table)


def train_rows_from_file(path: Path) -> pd.DataFrame:
    """Read the rows of the train split, `date` and `adj_close`, of a file of sessions or of such rows themselves."""
    table = read_table(path)
    header = _header(table)
    if header is None:
        return to_frame(table)
    train_end = split_borders(len(table), header.config).train_end
    return to_frame(table.select(["date", "adj_close"]).slice(0, train_end))


def _header(table: pa.Table) -> SessionsHeader | None:
    """Read the header of a file of sessions; `None` for any other file."""
    text = (table.schema.metadata or {}).get(_HEADER)
    return SessionsHeader.model_validate_json(text) if text is not None else None
