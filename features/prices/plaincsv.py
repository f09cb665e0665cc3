"""The fast reader, by pyarrow, of a price file that needs no repair.

A file that is unusual in any way, or that pyarrow cannot read, is left to `pricefile`, which reads every cell as text,
so that `bars` can report what is wrong with it. Files that both can read give the same bars, to the last bit.
"""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from tickerforge.features.errors import BarsError
from tickerforge.features.prices.pricetable import PriceTable, single
from tickerforge.features.prices.pricetext import find_head
from tickerforge.features.prices.schemas import BAR_COLUMNS, YAHOO_COLUMNS, Columns

_HEADERS = tuple(",".join(YAHOO_COLUMNS).encode() + ending for ending in (b"\n", b"\r\n"))
_FEW_ROWS = 64
"""Files with up to this many rows are read faster without pyarrow, because of its start-up time."""

_ROW = re.compile(rb"\d{4}-\d\d-\d\d(?:,\d+(?:\.\d+)?){6}")
_HEAD_BYTES = 1 << 13
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


def plain_table(raw: bytes, *, name: str) -> PriceTable | None:
    """Read the table of a file that holds numbers and ISO dates below any header that `dialects` knows.

    Args:
        raw: The file's content.
        name: Its name in messages.

    Returns:
        The table, with arrays instead of texts; `None` if the file holds anything else, several tickers, or a cell that
        needs a closer look.
    """
    try:
        head = find_head(raw[:_HEAD_BYTES].decode("ascii"), name=name)
    except (UnicodeDecodeError, BarsError):
        return None
    several = len({each for each in head.tickers if each}) > 1 or {"symbol", "clock"} & head.places.keys()
    if several or not head.named or head.separator not in ",\t":
        return None
    lines = raw.split(b"\n", head.start)
    body = lines[-1].replace(b"\r\n", b"\n").rstrip(b"\n")
    mark = head.separator.encode()
    if len(lines) <= head.start or not body or b"\n\n" in body or body.translate(None, _PLAIN + mark):
        return None
    if mark != b"," and b"," in body:
        return None
    places = single(head.places, head.labels, name=name)
    names = [str(place) for place in range(len(head.labels))]
    types = {names[place]: pa.date32() if column == "date" else pa.float64() for column, place in places.items()}
    try:
        table = csv.read_csv(
            pa.py_buffer(body),
            read_options=csv.ReadOptions(use_threads=False, block_size=len(body) + 1, column_names=names),
            parse_options=csv.ParseOptions(delimiter=head.separator),
            convert_options=csv.ConvertOptions(
                column_types=types, include_columns=list(types), null_values=[], strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid:
        return None
    columns: list[Sequence[str] | NDArray] = [()] * len(names)
    for column, place in places.items():
        values = table[names[place]].to_numpy()
        columns[place] = values.astype("datetime64[D]") if column == "date" else np.array(values)
    return PriceTable(
        labels=head.labels,
        columns=columns,
        rows=range(head.start + 1, head.start + 1 + len(table)),
        places=places,
        separator=head.separator,
        repairs=head.repairs(),
    )


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
