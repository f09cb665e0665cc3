"""Daily bars: read from files and frames of any dialect, validated, and adjusted for splits.

`dialects` lists the dialects, `pricefile` and `priceframe` make tables of cells, and this module makes bars of a table.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tickerforge.features.errors import BarsError, shortened
from tickerforge.features.prices import csvfile
from tickerforge.features.prices.cells import (
    Ambiguous,
    Days,
    Numbers,
    capitals,
    currencies,
    days,
    decimal_mark,
    numbers,
)
from tickerforge.features.prices.dialects import CURRENCY_CODES, CURRENCY_NAMES, MISSING, SUNDAY_MARKETS, canonical
from tickerforge.features.prices.plaincsv import plain_columns, plain_table
from tickerforge.features.prices.pricefile import PriceFile
from tickerforge.features.prices.priceframe import frame_table
from tickerforge.features.prices.pricetable import PriceTable
from tickerforge.features.prices.schemas import (
    BAR_COLUMNS,
    FAULTS,
    PRICE_COLUMNS,
    YAHOO_COLUMNS,
    Columns,
    bar_columns,
    violations,
)
from tickerforge.features.prices.tickers import validate_ticker

MOST_FAULTS = 20
_UNIT = re.compile(r"[(\[]\s*([A-Z]{3})\s*[)\]]")
_CODE = re.compile(r"[A-Z]{3}")
SAME_PRICE = 1e-9
_YAHOO_NAMES = dict(zip(BAR_COLUMNS, YAHOO_COLUMNS, strict=True))
_FEWEST_ROWS = 5
_FEWEST_FOR_WEEKDAYS = 15
_SPANS = {"weekly": (5, 9), "monthly": (26, 35), "quarterly": (80, 100), "yearly": (350, 380)}


class CsvBars(NamedTuple):
    """The bars of a file, the dates of its rows without prices, and how often each of `dialects.REPAIRS` was made."""

    bars: pd.DataFrame
    without_prices: tuple[date, ...] = ()
    repairs: Mapping[str, int] = MappingProxyType({})


class CsvColumns(NamedTuple):
    """The same as `CsvBars`, with the bars as arrays by column, and the code of their currency if the file names it."""

    columns: Columns
    without_prices: tuple[date, ...] = ()
    repairs: Mapping[str, int] = MappingProxyType({})
    currency: str = ""


def read_csv(path: str | Path, *, ticker: str) -> pd.DataFrame:
    """Read the daily bars of one ticker from a price file in any dialect of `dialects`.

    Args:
        path: The file: text or Parquet, also compressed; with the rows of one ticker or of several.
        ticker: Name of the ticker, for messages and to choose its rows.

    Returns:
        Columns `date` (datetime64[s], midnight), `open high low close adj_close` (USD) and `volume` (shares), float64,
        one row per session, oldest first.

    Raises:
        BarsError: The file is missing, unreadable, lacks a column, is not daily, can be read in two ways, or holds
            values that break the schema of bars; the message names file, row as a text editor shows it, column, value
            and what to do.
        TickerNameError: `ticker` is not a valid name.
    """
    return read_csv_with_gaps(path, ticker=ticker).bars


def read_csv_with_gaps(path: str | Path, *, ticker: str) -> CsvBars:
    """Read a file as `read_csv` does, and report which of its rows hold no prices, and what was repaired.

    Sources write a row without prices for a session whose prices they have lost. In such a row all prices are missing
    or 0, and so is the volume. It is left out: the session is missing, as if it had no row. A row that lacks only some
    of its prices is an error.

    Returns:
        Bars, the dates of the rows left out, oldest first, and the repairs that were made.
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
    return CsvBars(pd.DataFrame(found.columns), found.without_prices, found.repairs)


def parse_columns(raw: bytes, *, path: str | Path, ticker: str) -> CsvColumns:
    """Parse the content of a price file without making a frame; see `read_csv_with_gaps`."""
    name = f"{validate_ticker(ticker)}: {path}"
    plain = plain_columns(raw)
    if plain is not None and not violations(plain) and not _misdated(plain["date"], ticker=ticker):
        return CsvColumns(plain)
    if (quick := plain_table(raw, name=name)) is not None:
        try:
            return interpret(quick, name=name, ticker=ticker)
        except BarsError:
            # The thorough reading has the cells as they are written.
            pass
    return columns_of(PriceFile(raw, name=name), ticker=ticker)


def columns_of(file: PriceFile, *, ticker: str) -> CsvColumns:
    """Read the bars of one ticker of an opened file; see `read_csv_with_gaps`."""
    name = file.name if file.name.startswith(f"{ticker}: ") else f"{ticker}: {file.name}"
    return interpret(file.table(ticker), name=name, ticker=ticker)


def validate_frame(frame: pd.DataFrame, *, source: str) -> pd.DataFrame:
    """Validate bars in a frame by the rules of `read_csv`.

    Args:
        frame: Columns as in a price file of any dialect, as `read_csv` returns them (`adj_close`), or as yfinance's
            `download` returns them (each with its ticker). Dates may be the index, and may be strings, dates or
            timestamps (the local date of a zoned timestamp counts).
        source: Name of the frame in messages; of several tickers, the rows or columns of `source` are taken.

    Returns:
        A new frame as `read_csv` returns it.

    Raises:
        BarsError: A column is missing, there are no rows, or a value breaks the schema; rows are counted from 1.
    """
    return frame_bars(frame, source=source).bars


def frame_bars(frame: pd.DataFrame, *, source: str) -> CsvBars:
    """Do the same as `validate_frame`, and report the rows without prices and what was repaired."""
    table = frame_table(frame, ticker=source.partition(" ")[0], name=source)
    found = interpret(table, name=source, ticker=source.partition(" ")[0])
    return CsvBars(pd.DataFrame(found.columns), found.without_prices, found.repairs)


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


# ---- from cells to bars


class _Faults:
    """The faulty rows of a table, collected so that one error names them all."""

    def __init__(self, table: PriceTable, *, name: str) -> None:
        self._name = name
        self._rows = table.rows
        self._labels = {
            column: table.labels[place] or _YAHOO_NAMES[column]
            for column, place in table.places.items()
            if column in _YAHOO_NAMES
        }
        self._found = {row: (f"row {row}: {fault}", cure) for row, fault, cure in table.faults}

    def label(self, column: str) -> str:
        """Return the table's own name of a column of bars."""
        return self._labels.get(column, _YAHOO_NAMES[column])

    def add(self, position: int, column: str, value: object, *, fault: str, cure: str) -> None:
        """Note the fault of a cell; of a row's faults, the first one stays."""
        row = int(self._rows[position])
        self._found.setdefault(row, (f"row {row}, column {self.label(column)}: {shortened(value)} {fault}", cure))

    def check(self) -> None:
        """Raise if there are faults.

        Raises:
            BarsError: Names the first `MOST_FAULTS` faulty rows, each cure once, and counts the other rows.
        """
        if not self._found:
            return
        lines, cures = [], set[str]()
        for _, (text, cure) in sorted(self._found.items())[:MOST_FAULTS]:
            lines.append(text if cure in cures else f"{text}; {cure}")
            cures.add(cure)
        if (more := len(self._found) - len(lines)) > 0:
            lines.append(f"and {more:,} more faulty rows")
        raise BarsError(f"{self._name}, " + "\n  ".join(lines))


def interpret(table: PriceTable, *, name: str, ticker: str) -> CsvColumns:
    """Make bars of a table of cells.

    Args:
        table: The cells of one ticker.
        name: Name of the table in messages.
        ticker: Name of the ticker.

    Raises:
        BarsError: As `read_csv`.
    """
    faults = _Faults(table, name=name)
    repairs = dict(table.repairs)
    if not len(table.rows):
        faults.check()
    places = _chosen_places(table, name=name, repairs=repairs)
    when = _read_dates(table, places, faults, name=name)
    columns = _read_numbers(table, places, faults, name=name, repairs=repairs)
    clocks = when.times
    if "clock" in places:
        clocks = [str(cell) for cell in table.columns[places["clock"]]]
    repairs["date_forms"] = repairs.get("date_forms", 0) + when.unusual
    repairs["times_of_day"] = sum(map(bool, when.times)) if when.instants is None else 0
    _check_daily(when, clocks, table, name=name, ticker=ticker, label=faults.label("date"))
    values: Columns = {"date": when.values.astype("datetime64[s]")}
    values |= {column: columns[column].values for column in columns}
    missing = {column: columns[column].missing for column in columns}
    order = np.arange(len(table.rows))
    dated = values["date"][~np.isnat(values["date"])]
    if len(dated) > 1 and dated[0] > dated[-1] and (dated[1:] <= dated[:-1]).all():
        order = order[::-1]
        repairs["newest_first"] = 1
    order = _without_repeats(values, order, clocks, when.instants, repairs)
    empty, gaps = _without_prices(values, missing, order)
    repairs["rows_without_prices"] = len(gaps)
    order = order[~empty]
    _fill_halts(values, missing, order, repairs)
    lost = missing["volume"] & np.isnan(values["volume"])
    repairs["missing_volumes"] = int(lost[order].sum()) if "volume" in places else 0
    values["volume"][lost] = 0.0
    missing["volume"][:] = False
    for column in PRICE_COLUMNS:
        for position in order[missing[column][order]]:
            cell = table.columns[places[column]][position]
            fault = "is an empty cell" if not str(cell).strip() else "is a missing value"
            cure = "fill in the number or delete the row"
            faults.add(int(position), column, cell, fault=fault, cure=cure)
    if not len(order):
        faults.check()
        raise BarsError(f"{name}: no row has prices; download the prices again")
    bars = {column: np.ascontiguousarray(values[column][order]) for column in BAR_COLUMNS}
    unread = {(bad.position, column) for column, found in columns.items() for bad in found.bad}
    unread |= {(bad.position, "date") for bad in when.bad}
    unread |= {(int(position), column) for column in columns for position in np.flatnonzero(missing[column])}
    for violation in violations(bars):
        position, column = int(order[violation.position]), violation.column
        if (position, column) not in unread:
            value = bars[column][violation.position]
            shown = str(value.astype("datetime64[D]")) if column == "date" else float(value)
            rule = FAULTS[violation.rule]
            faults.add(position, column, shown, fault=rule.fault, cure=rule.cure)
    faults.check()
    counted = {key: int(repairs[key]) for key in sorted(repairs) if repairs[key]}
    return CsvColumns(bars, gaps, counted, _currency(table, places, name=name))


def _chosen_places(table: PriceTable, *, name: str, repairs: dict[str, int]) -> dict[str, int]:
    """Decide which columns serve, and count those of other names and those that are left over."""
    places = {column: place for column, place in table.places.items() if column != "symbol"}
    if "close" not in places:
        places["close"] = places["adj_close"]
        repairs["adjusted_only"] = 1
    if "adj_close" not in places:
        places["adj_close"] = places["close"]
        repairs["no_adjusted_close"] = 1
    for column in ("open", "high", "low"):
        if column not in places:
            places[column] = places["close"]
            repairs["close_only"] = 1
    repairs["no_volume"] = int("volume" not in places)
    known = {place: column for column, place in table.places.items() if column in _YAHOO_NAMES}
    repairs["renamed_columns"] = sum(
        table.labels[place].strip().lower().replace(" ", "_") != column
        for place, column in known.items()
        if repairs.get("no_header", 0) == 0
    )
    repairs["other_columns"] = sum(
        bool(label.strip()) for place, label in enumerate(table.labels) if place not in known
    )
    return places


def _read_dates(table: PriceTable, places: Mapping[str, int], faults: _Faults, *, name: str) -> Days:
    cells = table.columns[places["date"]]
    if isinstance(cells, np.ndarray) and cells.dtype.kind == "M":
        instants = cells.astype("datetime64[s]")
        values = instants.astype("datetime64[D]")
        for position in np.flatnonzero(np.isnat(values)):
            faults.add(int(position), "date", "NaT", fault="is not a date", cure="fill in the date")
        found = Days(values)
        seconds = (instants - values.astype("datetime64[s]")).astype(np.int64)
        if (seconds > 0).any():
            found.times = [f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}" for second in seconds]
        return found
    if isinstance(cells, np.ndarray):
        cells = [("" if np.isnan(cell) else f"{cell:.0f}") for cell in cells]
    try:
        found = days(cells, column=faults.label("date"))
    except Ambiguous as fault:
        raise BarsError(f"{name}, column {faults.label('date')}: {fault}; write dates as YYYY-MM-DD") from fault
    for bad in found.bad:
        faults.add(bad.position, "date", cells[bad.position], fault=bad.fault, cure=bad.cure)
    return found


def _read_numbers(
    table: PriceTable, places: Mapping[str, int], faults: _Faults, *, name: str, repairs: dict[str, int]
) -> dict[str, Numbers]:
    """Read prices and volumes; a file without volumes has 0."""
    texts = {
        place: table.columns[place]
        for column, place in places.items()
        if column in (*PRICE_COLUMNS, "volume") and not isinstance(table.columns[place], np.ndarray)
    }
    mark = "."
    if texts:
        prices = [cell for place, cells in texts.items() if place != places.get("volume") for cell in cells]
        volumes = texts.get(places.get("volume", -1), ())
        try:
            mark = decimal_mark("\n".join(prices), "\n".join(volumes), separator=table.separator)
        except Ambiguous as fault:
            raise BarsError(
                f"{name}: the decimal mark of the prices is not clear: {fault}; write them with a decimal point and "
                "without thousands separators"
            ) from fault
        if len(found := currencies(prices)) > 1:
            raise BarsError(
                f"{name}: the prices are in several currencies ({', '.join(sorted(found))}); keep those of one"
            )
    read: dict[int, Numbers] = {}
    columns: dict[str, Numbers] = {}
    for column in (*PRICE_COLUMNS, "volume"):
        place = places.get(column)
        if place is None:
            columns[column] = Numbers(np.zeros(len(table.rows)), np.zeros(len(table.rows), dtype=bool))
            continue
        if place not in read:
            cells = table.columns[place]
            if isinstance(cells, np.ndarray):
                read[place] = Numbers(cells.astype(np.float64), np.isnan(cells))
            else:
                read[place] = numbers(cells, mark=mark, sizes=column == "volume")
            repairs["number_forms"] = repairs.get("number_forms", 0) + read[place].unusual
            for bad in read[place].bad:
                faults.add(bad.position, column, table.columns[place][bad.position], fault=bad.fault, cure=bad.cure)
        columns[column] = Numbers(read[place].values.copy(), read[place].missing.copy(), read[place].bad)
    return columns


def _currency(table: PriceTable, places: Mapping[str, int], *, name: str) -> str:
    """Return the code of the currency that a column, the header or the prices name; empty if none does.

    Raises:
        BarsError: If the rows of a column name several.
    """
    close = table.columns[places["close"]]
    found = set() if isinstance(close, np.ndarray) else currencies(close)
    if unit := _UNIT.search(table.labels[places["close"]]):
        found |= {unit[1]}
    for label, column in zip(table.labels, table.columns, strict=True):
        if canonical(label) in CURRENCY_NAMES and not isinstance(column, np.ndarray):
            rows = {capitals(cell.strip()): row for cell, row in zip(column, table.rows, strict=True)}
            known = {each: row for each, row in rows.items() if each.lower() not in MISSING}
            named = {CURRENCY_CODES.get(each, each): row for each, row in known.items()}
            if len(named) > 1:
                where = ", ".join(f"{code} in row {row}" for code, row in sorted(named.items()))
                raise BarsError(f"{name}: column {label} names several currencies ({where}); keep the rows of one")
            found |= named.keys()
    codes = {CURRENCY_CODES.get(each, each) for each in found}
    return codes.pop() if len(codes) == 1 and _CODE.fullmatch(next(iter(codes))) else ""


def _without_repeats(
    values: Columns,
    order: NDArray[np.intp],
    clocks: Sequence[str],
    instants: NDArray[np.float64] | None,
    repairs: dict[str, int],
) -> NDArray[np.intp]:
    """Leave out a row that repeats the one before, and the earlier of two rows of the last day."""
    dates = values["date"][order]
    again = np.flatnonzero(dates[1:] == dates[:-1]) + 1
    if not len(again):
        return order
    keep = np.ones(len(order), dtype=bool)
    for place in again:
        one, two = order[place - 1], order[place]
        if all(
            values[column][one] == values[column][two] or np.isnan([values[column][one], values[column][two]]).all()
            for column in (*PRICE_COLUMNS, "volume")
        ):
            keep[place] = False
            repairs["repeated_rows"] = repairs.get("repeated_rows", 0) + 1
        elif place == len(order) - 1 and (
            (instants is not None and instants[two] > instants[one])
            or (instants is None and len(clocks) > 0 and clocks[two] > clocks[one])
        ):
            keep[place - 1] = False
            repairs["earlier_rows"] = 1
    return order[keep]


def _without_prices(
    values: Columns, missing: Mapping[str, NDArray[np.bool_]], order: NDArray[np.intp]
) -> tuple[NDArray[np.bool_], tuple[date, ...]]:
    """Find the rows with a date and no prices: a mask over `order`, and their dates."""
    empty = np.ones(len(order), dtype=bool)
    for column in PRICE_COLUMNS:
        empty &= missing[column][order] | (values[column][order] == 0)
    volume = values["volume"][order]
    empty &= missing["volume"][order] | (volume == 0)
    dates = values["date"][order[empty]]
    return empty, tuple(each.item() for each in dates[~np.isnat(dates)].astype("datetime64[D]"))


def _fill_halts(
    values: Columns, missing: Mapping[str, NDArray[np.bool_]], order: NDArray[np.intp], repairs: dict[str, int]
) -> None:
    """Give a session without trade the close before as open, high and low, if it repeats that close."""
    open_, high, low, close = (values[column][order] for column in ("open", "high", "low", "close"))
    untraded = np.ones(len(order), dtype=bool)
    for column, each in (("open", open_), ("high", high), ("low", low)):
        untraded &= missing[column][order] | (each == 0)
    untraded[1:] &= np.isclose(close[1:], close[:-1], rtol=SAME_PRICE, atol=0)
    untraded[:1] = False
    if not untraded.any():
        return
    places = order[untraded]
    for column in ("open", "high", "low"):
        values[column][places] = values["close"][places]
        missing[column][places] = False
    repairs["halts"] = int(untraded.sum())


def _check_daily(when: Days, clocks: Sequence[str], table: PriceTable, *, name: str, ticker: str, label: str) -> None:
    """Refuse bars that are not daily, and dates that are a day off.

    Raises:
        BarsError: Names what the bars seem to be.
    """
    known = when.values[~np.isnat(when.values)]
    if len(known) < _FEWEST_ROWS:
        return
    each = np.unique(known)
    if len(each) <= 0.6 * len(known):
        per_day = len(known) / len(each)
        if len(clocks):
            what = "bars of less than a day; add them up to daily bars, or download daily ones"
        elif apart := _apart(when, table):
            what = f"several series; keep the rows of one {apart}"
        else:
            what = "several tickers without a column that names them; give it a column Symbol"
        raise BarsError(f"{name}: {label} repeats each date {per_day:.3g} times: these are {what}")
    if problem := _misdated(each, ticker=ticker):
        raise BarsError(f"{name}: {problem}")


def _apart(when: Days, table: PriceTable) -> str:
    """Name the column that tells the rows of one date apart, with its values; empty if none does."""
    for label, column in zip(table.labels, table.columns, strict=True):
        values = set(map(str, column))
        if (
            label.strip()
            and 1 < len(values) <= MOST_FAULTS
            and len(set(zip(when.values, column, strict=True))) == len(table.rows)
        ):
            return f"{label} ({shortened(', '.join(sorted(values)), at_most=200)})".replace("'", "")
    return ""


def _misdated(dates: NDArray[np.datetime64], *, ticker: str) -> str:
    """Say why dates, ascending, are not those of daily sessions; empty if they can be."""
    each = dates.astype("datetime64[D]")
    if len(each) < _FEWEST_ROWS:
        return ""
    steps = np.diff(each).astype(np.int64)
    usual = float(np.median(steps))
    for span, (least, most) in _SPANS.items():
        if least <= usual <= most and np.mean((steps >= least) & (steps <= most)) > 0.8:
            return f"these are {span} bars, from {each[0]} to {each[-1]}; download daily ones"
    if len(each) < _FEWEST_FOR_WEEKDAYS or ticker.upper().rpartition(".")[2] in SUNDAY_MARKETS:
        return ""
    # 1970-01-01 was a Thursday: 0 is Monday.
    shares = np.bincount((each.astype(np.int64) + 3) % 7, minlength=7) / len(each)
    monday, friday, saturday, sunday = shares[[0, 4, 5, 6]]
    if sunday > 0.12 and friday < 0.02 and saturday < 0.02:
        return (
            "the dates are those of Sunday to Thursday: these look like sessions of Monday to Friday that are dated a "
            "day early, as an Asian session is in UTC; write the date at the exchange. If the exchange does open on "
            "Sundays, name the ticker with Yahoo's ending, for example 2222.SR"
        )
    if saturday > 0.12 and monday < 0.02 and sunday < 0.02:
        return (
            "the dates are those of Tuesday to Saturday: these look like sessions of Monday to Friday that are dated a "
            "day late, as an American evening is in UTC; write the date at the exchange"
        )
    return ""
