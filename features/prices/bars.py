"""Daily bars: read from CSV, validated with errors that name row, column and value, and adjusted for splits."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tickerforge.features.errors import BarsError, TickerNameError, shortened
from tickerforge.features.prices import csvfile
from tickerforge.features.prices.plaincsv import plain_columns
from tickerforge.features.prices.schemas import (
    BAR_COLUMNS,
    FAULTS,
    PRICE_COLUMNS,
    YAHOO_COLUMNS,
    Columns,
    bar_columns,
    first_violation,
)

LONGEST_TICKER = 32

REPAIRS: dict[str, str] = {
    "rows_without_prices": "rows with a date and no prices, left out",
    "blank_rows": "empty rows, left out",
    "byte_order_marks": "byte order marks before the header, left out",
    "times_of_day": "times of day and time zones after a date, left out: the date as written counts",
    "other_columns": "columns other than Yahoo's, ignored",
}
"""What is repaired in a price file, in words; every other fault is an error."""

_TICKER = re.compile(r"[A-Za-z0-9_^=-][A-Za-z0-9._^=-]*", re.ASCII)
_NUMERIC_CELL = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*", re.ASCII)
_DATE = re.compile(r"\s*(\d{4}-\d{2}-\d{2})(?:[T ][\d:.,+-]*Z?)?\s*", re.ASCII)
_NO_VALUE = frozenset({"", "null"})
_NO_TRADE = _NO_VALUE | {"0"}


class CsvBars(NamedTuple):
    """The bars of a file, the dates of its rows without prices, and how often each of `REPAIRS` was made."""

    bars: pd.DataFrame
    without_prices: tuple[date, ...] = ()
    repairs: Mapping[str, int] = MappingProxyType({})


class CsvColumns(NamedTuple):
    """The same as `CsvBars`, with the bars as arrays by column."""

    columns: Columns
    without_prices: tuple[date, ...] = ()
    repairs: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class _Source:
    """The origin of values, for messages: a name, the row to show for each position, the columns' own names."""

    name: str
    rows: Sequence[int]
    labels: dict[str, str]

    def error(self, position: int, column: str, value: object, *, fault: str, cure: str) -> BarsError:
        place = f"{self.name}, row {self.rows[position]}, column {self.labels[column]}"
        return BarsError(f"{place}: {shortened(value)} {fault}; {cure}")


def validate_ticker(name: str) -> str:
    """Return `name` if it is safe as part of a file name.

    Raises:
        TickerNameError: Empty, longer than 32 characters, starting with a dot, or with a character other than ASCII
            letters, digits, `.`, `-`, `_`, `^`, `=`.
    """
    if isinstance(name, str) and len(name) <= LONGEST_TICKER and _TICKER.fullmatch(name):
        return name
    raise TickerNameError(
        f"{shortened(name)} is not a ticker name: use 1 to {LONGEST_TICKER} ASCII letters, digits and . - _ ^ =, "
        "not starting with a dot (for example AAPL, BRK-A, ^GSPC)"
    )


def read_csv(path: str | Path, *, ticker: str) -> pd.DataFrame:
    """Read the daily bars of one ticker from a CSV file with Yahoo's columns.

    Args:
        path: File with the columns `Date, Open, High, Low, Close, Adj Close, Volume` in any order and case; others are
            ignored. Dates are `YYYY-MM-DD`; a time of day after the date is dropped.
        ticker: Name of the ticker, for messages.

    Returns:
        Columns `date` (datetime64[s], midnight), `open high low close adj_close` (USD) and `volume` (shares), float64,
        one row per session, oldest first.

    Raises:
        BarsError: The file is missing, unreadable, lacks a column, or holds a value that breaks the schema of bars; the
            message names file, row as a text editor shows it, column, value and what to do.
        TickerNameError: `ticker` is not a valid name.
    """
    return read_csv_with_gaps(path, ticker=ticker).bars


def read_csv_with_gaps(path: str | Path, *, ticker: str) -> CsvBars:
    """Read a file as `read_csv` does, and report which of its rows hold no prices, and what was repaired.

    Yahoo writes a row of `null` for a session whose prices it has lost. In such a row all prices are `null` or empty,
    and the volume is that or 0. It is left out: the session is missing, as if it had no row. A row that lacks only some
    of its values is an error.

    Returns:
        Bars, the dates of the rows left out, in the file's order, and the repairs that were made.
    """
    validate_ticker(ticker)
    return parse_csv(read_content(path, ticker=ticker), path=path, ticker=ticker)


def read_content(path: str | Path, *, ticker: str) -> bytes:
    """Read the content of a price file, for `parse_csv`.

    Raises:
        BarsError: The file is missing, not an ordinary file, unreadable or too large.
    """
    try:
        return csvfile.read_bytes(path, error=BarsError)
    except BarsError as fault:
        raise BarsError(f"{ticker}: {fault}") from fault


def parse_csv(raw: bytes, *, path: str | Path, ticker: str) -> CsvBars:
    """Parse the content of a price file; see `read_csv_with_gaps`."""
    found = parse_columns(raw, path=path, ticker=ticker)
    return CsvBars(pd.DataFrame(found.columns), *found[1:])


def parse_columns(raw: bytes, *, path: str | Path, ticker: str) -> CsvColumns:
    """Parse the content of a price file without making a frame; see `read_csv_with_gaps`."""
    name = f"{validate_ticker(ticker)}: {path}"
    plain = plain_columns(raw)
    if plain is not None and first_violation(plain) is None:
        return CsvColumns(plain)
    try:
        table = csvfile.parse_text(raw, path=path, error=BarsError)
    except BarsError as fault:
        raise BarsError(f"{ticker}: {fault}") from fault
    labels = _locate(table.header, name=name)
    columns = list(zip(*table.rows, strict=True))
    cells: dict[str, Sequence[Any]] = {column: columns[table.header.index(label)] for column, label in labels.items()}
    gaps = _rows_without_prices(cells)
    dates = _dates(cells["date"], _Source(name, table.lines, labels))
    repairs = {
        "rows_without_prices": len(gaps),
        "blank_rows": table.blank_rows,
        "byte_order_marks": int(table.byte_order_mark),
        "times_of_day": sum(len(cell.strip()) > len("2017-09-01") for cell in cells["date"]),
        "other_columns": sum(bool(label) for label in table.header) - len(labels),
    }
    kept = [row for row in range(len(table.rows)) if row not in gaps]
    if not kept:
        raise BarsError(f"{name}: no row has prices; download the file again")
    source = _Source(name, [table.lines[row] for row in kept], labels)
    cells = {column: [cells[column][row] for row in kept] for column in BAR_COLUMNS}
    bars = _checked(
        {
            column: dates[kept] if column == "date" else _numbers(cells[column], column, source)
            for column in BAR_COLUMNS
        },
        source,
    )
    return CsvColumns(
        bars,
        tuple(dates[row].item() for row in sorted(gaps)),
        {name: count for name, count in repairs.items() if count},
    )


def validate_frame(frame: pd.DataFrame, *, source: str) -> pd.DataFrame:
    """Validate bars in a frame by the rules of `read_csv`; rows without prices are left out.

    Args:
        frame: Columns as in a CSV file (`Adj Close`), as `read_csv` returns them (`adj_close`), or as yfinance's
            `download` returns them (each with its ticker), in any case. Dates may be the index, and may be strings,
            dates or timestamps (the local date of a zoned timestamp counts).
        source: Name of the frame in messages; of the columns of several tickers, those of `source` are taken.

    Returns:
        A new frame as `read_csv` returns it.

    Raises:
        BarsError: A column is missing, there are no rows, or a value breaks the schema; rows are counted from 1.
    """
    frame = _of_one_ticker(frame, source=source)
    dated = isinstance(frame.index, pd.DatetimeIndex) or _canonical(str(frame.index.name)) == "date"
    if dated and "date" not in {_canonical(str(name)) for name in frame.columns}:
        frame = frame.rename_axis("Date").reset_index()
    if frame.empty:
        raise BarsError(f"{source}: the frame has no rows; it needs one row per session")
    labels = _locate([str(name) for name in frame.columns], name=source)
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    gaps = _rows_without_prices({column: _cells(frame[label]) for column, label in labels.items() if column != "date"})
    kept = [row for row in range(len(frame)) if row not in gaps]
    if not kept:
        raise BarsError(f"{source}: no row has prices; download the prices again")
    frame = frame.iloc[kept]
    shown = _Source(source, [row + 1 for row in kept], labels)
    values: dict[str, NDArray] = {}
    for column, label in labels.items():
        series = frame[label]
        if column == "date" and isinstance(series.dtype, (np.dtype, pd.DatetimeTZDtype)) and series.dtype.kind == "M":
            series = series if series.dt.tz is None else series.dt.tz_localize(None)
            missing = np.flatnonzero(series.isna())
            if len(missing):
                raise shown.error(int(missing[0]), "date", "NaT", fault="is not a date", cure="fill in the date")
            values[column] = series.to_numpy(dtype="datetime64[D]")
        elif column != "date" and pd.api.types.is_numeric_dtype(series.dtype):
            values[column] = series.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            values[column] = (
                _dates(_cells(series), shown) if column == "date" else _numbers(_cells(series), column, shown)
            )
    return pd.DataFrame(_checked(values, shown))


def _of_one_ticker(frame: pd.DataFrame, *, source: str) -> pd.DataFrame:
    """Return the columns of one ticker, without its name, from a frame whose columns have one beside their own."""
    if not isinstance(frame.columns, pd.MultiIndex):
        return frame
    levels = [frame.columns.get_level_values(level) for level in range(frame.columns.nlevels)]
    named = [{_canonical(str(name)) for name in level} for level in levels]
    place = next((place for place, names in enumerate(named) if "close" in names), None)
    if place is None or len(levels) != 2:
        raise BarsError(f"{source}: the columns have {len(levels)} names each; pass a frame with one name per column")
    tickers = [name for name in dict.fromkeys(levels[1 - place]) if name]
    wanted = source if source in tickers or len(tickers) != 1 else tickers[0]
    if wanted not in tickers:
        raise BarsError(
            f"{source}: the columns are those of {shortened(', '.join(map(str, tickers)))}; pass those of {source}"
        )
    return frame.loc[:, [name in (wanted, "") for name in levels[1 - place]]].droplevel(1 - place, axis=1)


def _cells(series: pd.Series) -> list[str]:
    """Write the values of a frame as a price file would."""
    text = "{:g}".format if pd.api.types.is_float_dtype(series.dtype) else str
    return ["" if missing else text(cell) for cell, missing in zip(series, series.isna(), strict=True)]


def adjust(bars: pd.DataFrame) -> pd.DataFrame:
    """Scale open, high and low by Adj Close / Close, so that splits and dividends cause no jumps.

    Args:
        bars: As `read_csv` returns them.

    Returns:
        Columns `date open high low close volume`; `close` is the adjusted close, USD.
    """
    return pd.DataFrame(adjusted_columns(bar_columns(bars)), index=bars.index)


def adjusted_columns(values: Columns) -> Columns:
    """Do the same as `adjust` with arrays by column."""
    factor = values["adj_close"] / values["close"]
    scaled = {column: values[column] * factor for column in ("open", "high", "low")}
    return {"date": values["date"], **scaled, "close": values["adj_close"], "volume": values["volume"]}


def _canonical(name: str) -> str:
    return name.strip().lower().replace(" ", "_")


def _locate(header: Sequence[str], *, name: str) -> dict[str, str]:
    """Find the header's own name of each bar column."""
    labels: dict[str, str] = {}
    for label in header:
        column = _canonical(label)
        if column in labels:
            raise BarsError(f"{name}: column {shortened(label)} appears twice in the header; keep one of them")
        if column in BAR_COLUMNS:
            labels[column] = label
    for column, yahoo in zip(BAR_COLUMNS, YAHOO_COLUMNS, strict=True):
        if column not in labels:
            hint = (
                " (download prices unadjusted, with an Adj Close beside the Close; in yfinance: auto_adjust=False)"
                if column == "adj_close"
                else ""
            )
            raise BarsError(
                f"{name}: column {yahoo} is missing{hint}; the header reads "
                f"{shortened(', '.join(header), at_most=200)} and must have {','.join(YAHOO_COLUMNS)}, separated by "
                "commas"
            )
    return {column: labels[column] for column in BAR_COLUMNS}


def _rows_without_prices(cells: Mapping[str, Sequence[str]]) -> set[int]:
    """Positions of rows with a date and no prices."""
    prices = zip(*(cells[column] for column in PRICE_COLUMNS), strict=True)
    return {
        row
        for row, (values, volume) in enumerate(zip(prices, cells["volume"], strict=True))
        if volume.strip() in _NO_TRADE and all(value.strip() in _NO_VALUE for value in values)
    }


def _numbers(cells: Sequence[str], column: str, source: _Source) -> NDArray[np.float64]:
    if not all(map(_NUMERIC_CELL.fullmatch, cells)):
        position = next(row for row, cell in enumerate(cells) if not _NUMERIC_CELL.fullmatch(cell))
        cell = cells[position]
        fault = "is not a number" if cell.strip() else "is an empty cell"
        cure = "write a plain number such as 101.25 or delete the row"
        if cell.strip() == "null":
            cure = "Yahoo writes null if it has no price: fill it in or delete the row"
        raise source.error(position, column, cell, fault=fault, cure=cure)
    return np.array(list(map(float, cells)))


def _dates(cells: Sequence[str], source: _Source) -> NDArray[np.datetime64]:
    matches = map(_DATE.fullmatch, cells)
    texts = [match[1] if match else "unreadable" for match in matches]
    try:
        return np.array(texts, dtype="datetime64[D]")
    except ValueError as fault:
        position = next(row for row, text in enumerate(texts) if not _is_day(text))
        cure = "write dates as YYYY-MM-DD, for example 2017-09-01"
        raise source.error(position, "date", cells[position], fault="is not a date", cure=cure) from fault


def _is_day(text: str) -> bool:
    try:
        np.datetime64(text, "D")
    except ValueError:
        return False
    return True


def _checked(values: Columns, source: _Source) -> Columns:
    columns = bar_columns({**values, "date": values["date"].astype("datetime64[s]")})
    violation = first_violation(columns)
    if violation is None:
        return columns
    position, column, rule = violation
    value = columns[column][position]
    shown = str(value.astype("datetime64[D]")) if column == "date" else float(value)
    raise source.error(position, column, shown, fault=FAULTS[rule].fault, cure=FAULTS[rule].cure)
