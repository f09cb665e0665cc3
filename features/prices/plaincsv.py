"""The fast reader, by pyarrow, of a price file that needs no repair.

A file that is unusual in any way, or that pyarrow cannot read, is left to `bars`, which reads every cell as text and
reports what is wrong with it. Files that both can read give the same bars, to the last bit.
"""

import re

import numpy as np
import pyarrow as pa
from pyarrow import csv

from tickerforge.features.prices.schemas import BAR_COLUMNS, YAHOO_COLUMNS, Columns

_HEADERS = tuple(",".join(YAHOO_COLUMNS).encode() + ending for ending in (b"\n", b"\r\n"))
_FEW_ROWS = 64
"""Files with up to this many rows are read faster without pyarrow, because of its start-up time."""

_ROW = re.compile(rb"\d{4}-\d\d-\d\d(?:,\d+(?:\.\d+)?){6}")
_PLAIN = b"0123456789.,+-eE\n"
_TYPES = {name: pa.date32() if name == "date" else pa.float64() for name in BAR_COLUMNS}


def plain_columns(raw: bytes) -> Columns | None:
    """Read the bars of a file that holds Yahoo's header, numbers and ISO dates, and nothing else.

    Args:
        raw: The file's content.

    Returns:
        Columns `date` (datetime64[s]) and float64 `open high low close adj_close` (USD) and `volume` (shares), one row
        per row of the file, not yet checked against the schema of bars; `None` if the file is not as plain as that.
    """
    header = next((header for header in _HEADERS if raw.startswith(header)), None)
    if header is None:
        return None
    body = raw[len(header) :]
    if header.endswith(b"\r\n"):
        body = body.replace(b"\r\n", b"\n")
    if not body or body.startswith(b"\n") or b"\n\n" in body.rstrip(b"\n") or body.translate(None, _PLAIN):
        return None
    if body.count(b"\n") <= _FEW_ROWS and (few := _few_rows(body.rstrip(b"\n").split(b"\n"))):
        return few
    try:
        table = csv.read_csv(
            pa.py_buffer(body),
            read_options=csv.ReadOptions(use_threads=False, block_size=len(body) + 1, column_names=list(BAR_COLUMNS)),
            convert_options=csv.ConvertOptions(column_types=_TYPES, null_values=[], strings_can_be_null=False),
        )
    except pa.ArrowInvalid:
        return None
    days = table["date"].to_numpy().astype("datetime64[s]")
    return {"date": days, **{name: np.ascontiguousarray(table[name].to_numpy()) for name in BAR_COLUMNS[1:]}}


def _few_rows(rows: list[bytes]) -> Columns | None:
    """Read rows of digits and points only, as `plain_columns` does; `None` if there are others."""
    if not all(map(_ROW.fullmatch, rows)):
        return None
    cells = [row.decode().split(",") for row in rows]
    try:
        days = np.array([each[0] for each in cells], dtype="datetime64[s]")
    except ValueError:
        return None
    numbers = np.array([each[1:] for each in cells], dtype=float).T
    return {"date": days, **dict(zip(BAR_COLUMNS[1:], map(np.ascontiguousarray, numbers), strict=True))}
