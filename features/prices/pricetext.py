"""Price files that are text: header, mark between the cells, rows, and the rows of each ticker."""

import csv
import io
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from tickerforge.features.errors import BarsError
from tickerforge.features.prices.cells import is_date_like
from tickerforge.features.prices.dialects import COLUMN_NAMES, SEPARATORS, canonical, locate, tuple_label
from tickerforge.features.prices.pricetable import (
    PriceTable,
    check_columns,
    find_ticker,
    missing_column,
    name_closes,
)
from tickerforge.features.prices.tickers import is_likely

_HEADER_WITHIN = 60
_SAMPLE_CHARACTERS = 1 << 16
_FOOTERS_WITHIN = 30
_LONGEST_NOTE = 500
_FEWEST_NAMES = 3
_PRICES = ("open", "high", "low", "close")
_INDEX_NAMES = frozenset({"", "index", "unnamed0", "price", "ticker", "rownames", "x"})
_TICKER_NAMES = frozenset({"", "ticker", "symbols", "symbol"})
_EVENT = re.compile(r"\d\D*\b(?:dividend|splits?)\b", re.IGNORECASE)
_RULE = re.compile(r"[-:+=|\s]{9,}")
_WRAPPED = re.compile(r"=\".*\"|'.*'?")
_SHARES = frozenset({"EQ", "BE"})
_LETTER = re.compile(r"[^\W\d_]")
_CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2})?")
_LONG_NAMES = frozenset(
    name for column in (*_PRICES, "adj_close", "volume") for name in COLUMN_NAMES[column] if len(name) > 1
)

# Files without a header, by their number of columns: Kraken, Kraken's interface, Binance.
_OF_INSTANTS = {
    7: ("Date", "Open", "High", "Low", "Close", "Volume", ""),
    8: ("Date", "Open", "High", "Low", "Close", "", "Volume", ""),
    12: ("Date", "Open", "High", "Low", "Close", "Volume", "", "", "", "", "", ""),
}


@dataclass(frozen=True)
class Head:
    """What stands before the rows.

    Attributes:
        labels: Name of each column.
        places: Positions of the columns of bars; see `dialects.locate`.
        start: Number of lines before the first row.
        separator: The mark between the cells.
        banner: Lines before the header.
        further: Rows of the header after its first.
        tickers: Ticker of each column, if a table holds several side by side.
        named: Whether the file has a header at all.
    """

    labels: list[str]
    places: Mapping[str, Sequence[int]]
    start: int
    separator: str
    banner: int = 0
    further: int = 0
    tickers: Sequence[str] = ()
    named: bool = True

    def repairs(self) -> dict[str, int]:
        """Count what is unusual around the rows."""
        return {
            "separators": int(self.separator != ","),
            "banner_rows": self.banner,
            "header_rows": self.further,
            "no_header": int(not self.named),
        }


class PriceText:
    """The text of a price file.

    Raises:
        BarsError: If it has neither a header with prices nor a known order of columns, or cannot be split.
    """

    def __init__(self, text: str, *, name: str) -> None:
        self._name = name
        self._head = find_head(text, name=name)
        self._lines = list(io.StringIO(text, newline=""))
        self._groups = self._by_symbol()

    @property
    def separator(self) -> str:
        """The mark between the cells."""
        return self._head.separator

    def tickers(self) -> list[str]:
        """List the tickers that the text names, in its order; none if it names at most one."""
        found = [each for each in dict.fromkeys(self._head.tickers) if each] or list(self._groups)
        return found if len(found) > 1 else []

    def table(self, ticker: str) -> PriceTable:
        """Take the rows of one ticker.

        Raises:
            BarsError: If the text holds several tickers, and not this one, or no rows.
        """
        several, head = self.tickers(), self._head
        wanted = find_ticker(ticker, several, name=self._name) if several else ""
        labels, places, keep = head.labels, head.places, None
        if several and head.tickers:
            keep = [place for place, each in enumerate(head.tickers) if each in (wanted, "")]
            labels = [labels[place] for place in keep]
            places = {"date": (0,)} | dict(locate(labels))
        table = PriceTable(
            labels=list(labels),
            columns=[],
            rows=[],
            places=check_columns(places, labels, name=self._name),
            separator=head.separator,
            repairs=head.repairs(),
        )
        self._fill(table, self._groups.get(wanted) if several else None, keep)
        if len(self._groups) == 1 and not several and not is_likely(ticker, next(iter(self._groups))):
            table.repairs["other_symbols"] = len(table.rows)
        return table

    def piece(self, ticker: str) -> str:
        """Return the lines of one ticker with the header, to tell whether they have changed."""
        several = self.tickers()
        if not several or self._head.tickers:
            return "".join(self._lines)
        numbers = self._groups[find_ticker(ticker, several, name=self._name)]
        return "".join([*self._lines[: self._head.start], *(self._lines[number] for number in numbers)])

    def _rows(self, numbers: Sequence[int] | None = None) -> Iterator[tuple[int, int, list[str]]]:
        """Split the lines of these 0-based numbers, by default all after the header: first and next line, cells."""
        head = self._head
        chosen = islice(self._lines, head.start, None) if numbers is None else (self._lines[each] for each in numbers)
        reader = csv.reader(chosen, delimiter=head.separator, skipinitialspace=True)
        read = 0
        try:
            for cells in reader:
                first = head.start + read if numbers is None else numbers[read]
                read = reader.line_num
                yield first, first + 1 if numbers is not None else head.start + read, cells
        except csv.Error as fault:
            line = (head.start + read if numbers is None else numbers[read]) + 1
            raise BarsError(
                f"{self._name}, row {line}: not readable as CSV ({fault}); save the file as comma-separated text"
            ) from fault

    def _by_symbol(self) -> dict[str, array]:
        """Group the numbers of the lines by ticker; nothing if no column names the ticker."""
        places = self._head.places.get("symbol", ())
        if len(places) != 1 or self._head.tickers:
            return {}
        place, width = places[0], len(self._head.labels)
        groups: dict[str, array] = {}
        for first, after, cells in self._rows():
            if len(cells) >= width and (symbol := cells[place].strip()) and cells != self._head.labels:
                lines = groups.get(symbol)
                if lines is None:
                    lines = groups[symbol] = array("L")
                lines.extend(range(first, after))
        return groups

    def _fill(self, table: PriceTable, numbers: Sequence[int] | None, keep: Sequence[int] | None) -> None:
        """Put the cells into the table; rows of another length than the header are faults."""
        head = self._head
        width, named, first_label = len(head.labels), head.named, head.labels[0].lower()
        rows: list[int] = []
        kept: list[list[str]] = []
        odd: list[tuple[int, list[str]]] = []
        blank = trailing = again = events = ruled = 0
        for first, _, cells in self._rows(numbers):
            if len(cells) > width and not any(map(str.strip, cells[width:])):
                cells = cells[:width]
            if not (cells and cells[0]) and not any(map(str.strip, cells)):
                trailing += 1
                continue
            blank, trailing = blank + trailing, 0
            if _EVENT.search(cells[-1] or "".join(cells[1:])) and sum(map(bool, cells)) == 2:
                events += 1
            elif _RULE.fullmatch("".join(cells)):
                # Markdown and databases draw a line below the header.
                ruled += 1
            elif len(cells) != width:
                odd.append((first + 1, cells))
            elif named and cells[0].lower() == first_label and self._is_header(cells):
                again += 1
            else:
                rows.append(first + 1)
                kept.append(cells)
        table.repairs["blank_rows"] = blank + ruled
        table.repairs["event_rows"] = events
        table.repairs["footer_rows"] = self._without_notes(rows, kept, odd)
        table.repairs["header_rows"] += again
        table.faults = [
            (line, f"the row has {len(cells)} cells and the header has {width}", "correct or delete the row")
            for line, cells in odd
        ]
        if not rows and not odd:
            raise BarsError(f"{self._name}: the file has a header and no rows; it needs one row per session")
        table.repairs["other_series"] = self._only_shares(rows, kept)
        columns = list(zip(*kept, strict=True)) if kept else [()] * width
        if kept and any(map(_WRAPPED.fullmatch, kept[0])):
            columns = [tuple(cell.strip("='\" ") for cell in column) for column in columns]
            table.repairs["wrapped_cells"] = len(rows)
        table.rows = rows
        table.columns = [columns[place] for place in (range(width) if keep is None else keep)]

    def _only_shares(self, rows: list[int], kept: list[list[str]]) -> int:
        """Keep the rows of the series EQ and BE, if a file of the NSE holds others too; count those left out."""
        place = next((place for place, label in enumerate(self._head.labels) if canonical(label) == "series"), None)
        if place is None or not kept or len(series := {cells[place].strip() for cells in kept}) < 2:
            return 0
        if not series & _SHARES:
            return 0
        before = len(rows)
        chosen = [(row, cells) for row, cells in zip(rows, kept, strict=True) if cells[place].strip() in _SHARES]
        rows[:], kept[:] = [row for row, _ in chosen], [cells for _, cells in chosen]
        return before - len(rows)

    def _is_header(self, cells: Sequence[str]) -> bool:
        return list(map(canonical, cells)) == list(map(canonical, self._head.labels))

    def _without_notes(self, rows: list[int], kept: list[list[str]], odd: list[tuple[int, list[str]]]) -> int:
        """Take away lines of words that follow the last prices, such as a source's copyright, and count them."""
        place = (self._head.places.get("date") or (0,))[0]
        for count in range(_FOOTERS_WITHIN):
            is_odd = bool(odd) and (not rows or odd[-1][0] > rows[-1])
            cells = odd[-1][1] if is_odd else kept[-1] if kept else []
            filled = [cell for cell in cells if cell.strip()]
            words = sum(any(map(str.isalpha, cell)) for cell in filled)
            date = cells[place] if len(cells) > place else ""
            if (
                not words
                or len(filled) > max(1, len(self._head.labels) // 2)
                or is_date_like(date)
                or any("\n" in cell or len(cell) > _LONGEST_NOTE for cell in filled)
            ):
                return count
            if is_odd:
                odd.pop()
            else:
                kept.pop()
                rows.pop()
        return _FOOTERS_WITHIN


def find_head(text: str, *, name: str) -> Head:
    """Find the header and the mark between the cells.

    Raises:
        BarsError: If there is neither a header with prices nor a known order of columns.
    """
    sample = text[:_SAMPLE_CHARACTERS]
    best: tuple[int, list[str]] = (0, [next((line for line in sample.splitlines() if line.strip()), "")])
    found: Head | None = None
    for separator in SEPARATORS:
        if separator in sample:
            rows = _sample_rows(sample, separator)
            scores = [_score(cells) for _, _, cells in rows]
            place = scores.index(max(scores)) if scores else 0
            if scores and scores[place] > best[0]:
                best = scores[place], rows[place][2]
                found = _head_at(rows, place, separator) if scores[place] >= _FEWEST_NAMES else None
    if found is None:
        for separator in SEPARATORS:
            if separator in sample and (bare := _without_header(_sample_rows(sample, separator), separator)):
                return bare
    if found is None:
        for separator in SEPARATORS:
            if separator in sample and (closes := _closes_head(_sample_rows(sample, separator), separator)):
                return closes
    if found is None:
        raise missing_column("close" if "date" in locate(best[1]) else "date", best[1], name=name)
    if not found.tickers:
        check_columns(found.places, found.labels, name=name)
    return found


def _sample_rows(sample: str, separator: str) -> list[tuple[int, int, list[str]]]:
    """Split the first rows that are not empty: first line, next line, cells."""
    rows: list[tuple[int, int, list[str]]] = []
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=separator, skipinitialspace=True)
    read = 0
    try:
        for cells in reader:
            first, read = read, reader.line_num
            if any(map(str.strip, cells)):
                rows.append((first, read, [cell.strip() for cell in cells]))
            if len(rows) >= _HEADER_WITHIN:
                break
    except csv.Error:
        # The thorough reading names the row.
        pass
    return rows


def _score(cells: Sequence[str]) -> int:
    """Count the columns of bars that a row names; a row of numbers names none."""
    if not _LETTER.search("".join(cells)) or sum(_LETTER.search(cell) is not None for cell in cells) < 2:
        return 0
    return sum(column in COLUMN_NAMES for column in locate(without_tickers(cells)[0]))


def _head_at(rows: Sequence[tuple[int, int, list[str]]], place: int, separator: str) -> Head:
    """Read the header at a place among the first rows, with those around it that belong to it."""
    labels, tickers = without_tickers(rows[place][2])
    below = [cells for _, _, cells in rows[place + 1 : place + 4]]
    after, banner, further = rows[place][1], place, 0
    if below and len(below[0]) == len(labels) + 1 and below[0][-1] and _fits(["", *labels], below[0]):
        # R writes row names without a label.
        labels, tickers = ["", *labels], ["", *tickers] if tickers else []
    found = locate(labels)
    if "date" not in found or canonical(labels[0]) in ("price", "ticker"):
        # pandas writes levels of columns one below the other, then the name of the index.
        for count, cells in enumerate(below, start=1):
            first = canonical(cells[0])
            if first in _DATES and not any(cells[1:]):
                further, after = count, rows[place + count][1]
                labels = [cells[0], *labels[1:]]
                break
            if is_date_like(cells[0]):
                break
            if first not in _TICKER_NAMES or len(cells) != len(labels):
                break
            further, after = count, rows[place + count][1]
        else:
            further = 0
        levels = [cells for cells in below[:further] if any(cells[1:])]
        above = rows[place - 1][2] if place else []
        if not levels and len(above) == len(labels) and canonical(above[0]) in _TICKER_NAMES and all(above[1:]):
            levels, banner, further = [above], banner - 1, further + 1
        if levels:
            tickers = ["", *levels[0][1:]]
        found = locate(labels)
        first_row = next((cells for first, _, cells in rows if first >= after), [""])
        if "date" not in found and canonical(labels[0]) in _INDEX_NAMES and is_date_like(first_row[0]):
            found = {**found, "date": [0]}
    return Head(
        labels=labels, places=found, start=after, separator=separator, banner=banner, further=further, tickers=tickers
    )


def _fits(labels: Sequence[str], cells: Sequence[str]) -> bool:
    place = locate(labels).get("date", [0])[0]
    return is_date_like(cells[place])


_DATES = frozenset(COLUMN_NAMES["date"])


def without_tickers(cells: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take the tickers out of labels such as `AAPL.Close`, `Close_AAPL` and `('Close', 'AAPL')`.

    Returns:
        Labels, and the ticker of each; no tickers if the labels hold none.
    """
    labels = [cell.strip().lstrip("\ufeff") for cell in cells]
    if len(locate(labels).keys() & set(_PRICES)) >= 2:
        return labels, []
    pairs = [tuple_label(label) or _split_label(label) for label in labels]
    if sum(pair is not None for pair in pairs) < _FEWEST_NAMES:
        return labels, []
    return (
        [pair[0] if pair else label for pair, label in zip(pairs, labels, strict=True)],
        [pair[1] if pair else "" for pair in pairs],
    )


def _split_label(label: str) -> tuple[str, str] | None:
    for mark in ("_", ".", " ", ":", "-"):
        if mark in label:
            for name, ticker in (label.split(mark, 1), reversed(label.rsplit(mark, 1))):
                if canonical(name) in _LONG_NAMES and ticker.strip():
                    return name, ticker.strip()
    return None


def _closes_head(rows: Sequence[tuple[int, int, list[str]]], separator: str) -> Head | None:
    """Recognise the header of a table with dates and closes alone, of one ticker or of several side by side."""
    for place, (_, after, cells) in enumerate(rows[:-1]):
        labels, below = list(cells), rows[place + 1][2]
        found = locate(labels)
        if "date" not in found and canonical(labels[0]) in _INDEX_NAMES and sum(map(bool, labels[1:])):
            found["date"] = [0]
        if (
            len(found.get("date", ())) != 1
            or len(below) < len(labels)
            or not is_date_like(below[found["date"][0]])
            or not any(map(_LETTER.search, labels))
        ):
            continue
        tickers = name_closes(labels, found)
        if tickers:
            labels = ["Close" if ticker else label for label, ticker in zip(labels, tickers, strict=True)]
        if found.keys() & {"close", "adj_close"}:
            return Head(labels=labels, places=found, start=after, separator=separator, banner=place, tickers=tickers)
    return None


def _without_header(rows: Sequence[tuple[int, int, list[str]]], separator: str) -> Head | None:
    """Recognise a known order of columns by the first rows; `None` if they do not prove it."""
    if not rows or len({len(cells) for _, _, cells in rows}) != 1:
        return None
    first = rows[0][2]
    width = len(first)
    lead = ["Date"] if is_date_like(first[0]) else ["Ticker", "Date"] if width > 1 and is_date_like(first[1]) else []
    if lead and width > len(lead) and _CLOCK.fullmatch(first[len(lead)]):
        lead = [*lead, "Time"]
    labels: list[str] = [*lead, "Open", "High", "Low", "Close", "Volume"]
    if lead == ["Date"] and first[0].replace(".", "").isdigit() and len(first[0]) >= 9 and width in _OF_INSTANTS:
        labels = list(_OF_INSTANTS[width])
    if not lead or width not in (len(labels), len(labels) - 1):
        return None
    labels = labels[:width]
    found = locate(labels)
    try:
        for _, _, cells in rows:
            open_, high, low, close = (float(cells[found[each][0]].replace(",", ".")) for each in _PRICES)
            if not low <= min(open_, close) <= max(open_, close) <= high or not is_date_like(cells[found["date"][0]]):
                return None
    except ValueError:
        return None
    return Head(labels=labels, places=found, start=rows[0][0], separator=separator, named=False)
