"""The fast reader, by pyarrow, of a price file that needs no repair.

A file that is unusual in any way, or that pyarrow cannot read, is left to `pricefile`, which reads every cell as text,
so that `bars` can report what is wrong with it. Files that both can read give the same bars, to the last bit.
"""

import codecs
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from tickerforge.features.errors import BarsError
from tickerforge.features.prices.cells import days_of
from tickerforge.features.prices.dialects import CURRENCY_NAMES, ENCODINGS, canonical
from tickerforge.features.prices.pricetable import PriceTable, single
from tickerforge.features.prices.pricetext import Head, find_head
from tickerforge.features.prices.schemas import BAR_COLUMNS, YAHOO_COLUMNS, Columns

_HEADERS = tuple(",".join(YAHOO_COLUMNS).encode() + ending for ending in (b"\n", b"\r\n"))
_FEW_ROWS = 64
"""Files with up to this many rows are read faster without pyarrow, because of its start-up time."""

_ROW = re.compile(rb"\d{4}-\d\d-\d\d(?:,\d+(?:\.\d+)?){6}")
_HEAD_BYTES = 1 << 11
_NEWLINE = 10
_STAND_IN = b"\x1e"
_SHAPE = bytes.maketrans(b"012345678", b"999999999")
_OTHER = {b".": b",", b",": b"."}
_NUMBER = {
    mark: re.compile(rb"(?:9{1,3}(?:%s9{3})+|9+)(?:%s9+)?" % (re.escape(other), re.escape(mark)))
    for mark, other in _OTHER.items()
}
_GERMAN_DATE = b"99.99.9999"
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
    """Read the table of a file that holds numbers and dates below any header that `dialects` knows.

    The numbers may have thousands separators or decimal commas, and cells may be quoted. The *shapes* of the cells,
    that is the cells with every digit written as 9, are few, and prove how the numbers are read.

    Args:
        raw: The file's content.
        name: Its name in messages.

    Returns:
        The table, with arrays instead of texts; `None` if the file holds anything else, several tickers, or a cell that
        needs a closer look.
    """
    bare = raw.removeprefix(codecs.BOM_UTF8)
    found = _quick_head(bare, name=name)
    lines = bare.split(b"\n", found[0].start) if found else []
    if found is None or len(lines) <= found[0].start:
        return None
    head, encoding = found
    body = lines[-1].replace(b"\r\n", b"\n").rstrip(b"\n")
    places, mark = single(head.places, head.labels, name=name), head.separator.encode()
    if not body or b"\n\n" in body or not body.isascii():
        return None
    plain = mark in b",\t" and not body.translate(None, _PLAIN + mark) and (mark == b"," or b"," not in body)
    cleaned = _Cleaned(body) if plain else _cleaned(body, mark, len(head.labels), places)
    if cleaned is None:
        return None
    names = [str(place) for place in range(len(head.labels))]
    types = {names[place]: pa.float64() for place in places.values()} | {names[places["date"]]: cleaned.dates}
    currencies = [names[place] for place, label in enumerate(head.labels) if canonical(label) in CURRENCY_NAMES]
    types |= dict.fromkeys(currencies, pa.string())
    try:
        table = csv.read_csv(
            pa.py_buffer(cleaned.body),
            read_options=csv.ReadOptions(use_threads=False, block_size=len(body) + 1, column_names=names),
            parse_options=csv.ParseOptions(delimiter=head.separator, quote_char=False),
            convert_options=csv.ConvertOptions(
                column_types=types, include_columns=list(types), null_values=[], strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid:
        return None
    columns: list[Sequence[str] | NDArray] = [()] * len(names)
    for column, place in places.items():
        values = table[names[place]]
        columns[place] = _dates(values, cleaned.dates) if column == "date" else np.array(values.to_numpy())
    for label in currencies:
        columns[int(label)] = table[label].to_pylist()
    repairs = {"byte_order_marks": int(bare is not raw), "encodings": int(encoding == "cp1252")}
    repairs |= {"number_forms": cleaned.changed, "date_forms": len(table) if pa.types.is_integer(cleaned.dates) else 0}
    return PriceTable(
        labels=head.labels,
        columns=columns,
        rows=range(head.start + 1, head.start + 1 + len(table)),
        places=places,
        separator=head.separator,
        repairs=head.repairs() | repairs,
    )


def _quick_head(raw: bytes, *, name: str) -> tuple[Head, str] | None:
    """Find a header near the start, and its encoding; `None` if the rows below it are not one ticker's daily bars."""
    start = raw[: raw.rfind(b"\n", 0, _HEAD_BYTES) + 1]
    for encoding in ENCODINGS[:2]:
        try:
            head = find_head(start.decode(encoding), name=name)
        except UnicodeDecodeError:
            continue
        except BarsError:
            return None
        several = len({each for each in head.tickers if each}) > 1 or {"symbol", "clock"} & head.places.keys()
        usable = head.named and head.separator in ",;\t" and "series" not in map(canonical, head.labels)
        return (head, encoding) if usable and not several else None
    return None


class _Cleaned(NamedTuple):
    """Rows whose numbers are plain: the bytes, the type of the dates, and how many numbers were not plain before."""

    body: bytes
    dates: pa.DataType = pa.date32()
    changed: int = 0


def _cleaned(body: bytes, separator: bytes, width: int, places: Mapping[str, int]) -> _Cleaned | None:
    """Write rows with plain numbers; `None` if their shapes do not prove how they are read."""
    text = _unquoted(body, separator) if b'"' in body else body
    if text is None or not _is_even(text + b"\n", separator, width):
        return None
    shapes = text.translate(_SHAPE).replace(b"\n", separator).split(separator)
    found = {place: _counted(shapes[place::width]) for place in {*places.values()}}
    comma = _STAND_IN if separator == b"," else b","
    numbers = {
        column: {shape.replace(comma, b","): count for shape, count in found[place].items()}
        for column, place in places.items()
        if column != "date"
    }
    mark = _decimal_mark(numbers, separator)
    if mark is None:
        return None
    other, kind = _OTHER[mark], pa.string()
    dates = found[places["date"]]
    if dates.keys() == {b"9999-99-99"}:
        kind = pa.date32()
    elif mark == b"," and any(b"." in shape for shape in dates):
        if dates.keys() != {_GERMAN_DATE}:
            return None
        kind = pa.int32()
    each = [(shape, count) for column in numbers.values() for shape, count in column.items()]
    if any(other in shape for shape, _ in each):
        grouped = b"." if other == b"." else comma
        if separator + b"0" + grouped in text or b"\n0" + grouped in text or text.startswith(b"0" + grouped):
            return None
        text = text.replace(grouped, b"")
    elif kind == pa.int32():
        text = text.replace(b".", b"")
    changed = sum(count for shape, count in each if b"," in shape or (mark == b"," and b"." in shape))
    return _Cleaned(text.replace(comma, b".") if mark == b"," else text, kind, changed)


def _counted(shapes: list[bytes]) -> dict[bytes, int]:
    """Count each shape; without a mark in any, or with one shape alone, that takes no look at each cell."""
    kinds = set(shapes)
    if len(kinds) == 1 or not any(mark in kind for kind in kinds for mark in (b",", b".", _STAND_IN)):
        return dict.fromkeys(kinds, len(shapes))
    return Counter(shapes)


def _is_even(text: bytes, separator: bytes, width: int) -> bool:
    """Return whether each line has the same number of cells."""
    characters = np.frombuffer(text, dtype=np.uint8)
    marks = characters[(characters == separator[0]) | (characters == _NEWLINE)] == _NEWLINE
    return len(marks) % width == 0 and bool((marks.reshape(-1, width) == (np.arange(width) == width - 1)).all())


def _unquoted(body: bytes, separator: bytes) -> bytes | None:
    """Take the quotes away; a comma inside becomes `_STAND_IN` if commas separate cells. `None` for other quotes."""
    edges = sum(map(body.count, (separator + b'"', b'"' + separator, b'\n"', b'"\n')))
    if edges + body.startswith(b'"') + body.endswith(b'"') != body.count(b'"') or b'""' in body:
        return None
    parts = body.split(b'"')
    inside = b"\0".join(parts[1::2])
    if b"\n" in inside or _STAND_IN in body or (separator in inside and separator != b","):
        return None
    parts[1::2] = inside.replace(b",", _STAND_IN).split(b"\0") if separator == b"," else parts[1::2]
    return b"".join(parts)


def _decimal_mark(numbers: Mapping[str, Mapping[bytes, int]], separator: bytes) -> bytes | None:
    """Decide as `cells.decimal_mark` does, if all shapes agree; `None` if they do not, or the prices prove nothing."""
    prices = [each for column, shapes in numbers.items() if column != "volume" for each in shapes.items()]
    every = {shape for shapes in numbers.values() for shape in shapes}
    fitting = [mark for mark, form in _NUMBER.items() if all(map(form.fullmatch, every))]
    if not any(b"," in shape or (separator == b";" and b"." in shape) for shape in every):
        return b"." if b"." in fitting else None
    for mark in fitting:
        other = _OTHER[mark]
        counts = {each: sum(count * shape.count(each) for shape, count in prices) for each in (mark, other)}
        proven = not all(_NUMBER[other].fullmatch(shape) for shape, _ in prices)
        if proven and 20 * counts[mark] >= counts[other]:
            return mark
    return None


def _dates(values: pa.ChunkedArray, kind: pa.DataType) -> Sequence[str] | NDArray:
    if kind == pa.string():
        return values.to_pylist()
    days = values.to_numpy()
    if kind != pa.int32():
        return days.astype("datetime64[D]")
    # 31.12.2017 without its points.
    return days_of(days % 10_000, days // 10_000 % 100, days // 1_000_000)


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
