"""Frames and columns as Parquet files, and back; a session in them is a `datetime64[s]`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tickerforge.features.prices.schemas import Columns


def to_table(columns: Mapping[str, NDArray]) -> pa.Table:
    """Make the table that a frame of these columns would become, without a detour over Python objects.

    Args:
        columns: Name → values of shape `(n,)`, or `(n, k)` for a column of lists; texts as object arrays.
    """
    return pa.table({name: _array(values) for name, values in columns.items()})


def _array(values: NDArray) -> pa.Array:
    if values.dtype.kind not in "fiuM":
        return pa.array(values, type=pa.large_string())
    if values.ndim == 1:
        return pa.array(values)
    n, length = values.shape
    return pa.ListArray.from_arrays(
        pa.array(np.arange(n + 1, dtype=np.int32) * length), pa.array(np.ascontiguousarray(values).reshape(-1))
    )


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table to a file.

    Only texts get a dictionary: prices hardly repeat, so that the search for repetitions takes longer than the rest
    of the writing and makes the file larger.
    """
    texts = [field.name for field in table.schema if pa.types.is_large_string(field.type)]
    written = pa.BufferOutputStream()
    pq.write_table(table, written, use_dictionary=texts, compression="zstd", compression_level=1)
    path.write_bytes(written.getvalue())


def read_table(path: Path) -> pa.Table:
    """Read a file on one thread; timestamps, which Parquet keeps in milliseconds or finer, become seconds."""
    # Not `pq.read_table`, which first plans a search over many files.
    with pq.ParquetFile(path) as file:
        table = file.read(use_threads=False)
    fields = [field.with_type(_in_seconds(field.type)) for field in table.schema]
    return table.cast(pa.schema(fields, metadata=table.schema.metadata))


def _in_seconds(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(_in_seconds(kind.value_type))
    return pa.timestamp("s", kind.tz) if pa.types.is_timestamp(kind) else kind


def to_columns(table: pa.Table) -> Columns:
    """Take the columns of a table as arrays."""
    return {name: table[name].to_numpy() for name in table.column_names}


def read_frame(path: Path) -> pd.DataFrame:
    """Read a file as a frame; sessions, also those in lists, are datetime64[s]."""
    return to_frame(read_table(path))


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Make a frame of a table, on one thread."""
    return table.to_pandas(use_threads=False)
