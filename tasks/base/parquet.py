"""How frames are written as Parquet and read again, in one manner for all that preprocessing stores."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tickerforge.features.prices.schemas import Columns


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table to a file.

    Only texts get a dictionary: prices hardly repeat, and looking for that takes longer than all the rest of the
    writing and makes the file larger.
    """
    texts = [field.name for field in table.schema if pa.types.is_large_string(field.type)]
    written = pa.BufferOutputStream()
    pq.write_table(table, written, use_dictionary=texts, compression="zstd", compression_level=1)
    path.write_bytes(written.getvalue())


def read_columns(path: Path) -> Columns:
    """The columns of a small file as arrays."""
    # Not `read_table`, which plans a search over many files first.
    table = pq.ParquetFile(pa.BufferReader(path.read_bytes())).read(use_threads=False)
    return {name: table[name].to_numpy() for name in table.column_names}


def read_frame(path: Path) -> pd.DataFrame:
    """Read a small file on one thread."""
    return pq.read_table(path, use_threads=False).to_pandas(use_threads=False)
