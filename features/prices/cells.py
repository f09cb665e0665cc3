"""Cells of price tables: texts to numbers and dates, in the forms that `dialects` lists."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from operator import ne
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tickerforge.features.errors import shortened
from tickerforge.features.prices.dialects import CURRENCY, MISSING, MONTHS, PENCE, SUFFIXES

PLAIN_NUMBER = "write a plain number such as 101.25 or delete the row"
PLAIN_DATE = "write dates as YYYY-MM-DD, for example 2017-09-01"


class Ambiguous(ValueError):
    """Cells with two readings, or with marks that contradict each other; the text shows both."""


class BadCell(NamedTuple):
    """A cell that cannot be read: 0-based position, what is wrong, and what to do about it."""

    position: int
    fault: str
    cure: str


@dataclass
class Numbers:
    """A column of numbers: NaN for `missing` and `bad` cells, and how many cells were not plain."""

    values: NDArray[np.float64]
    missing: NDArray[np.bool_]
    bad: list[BadCell] = field(default_factory=list)
    unusual: int = 0


@dataclass
class Days:
    """A column of dates.

    Attributes:
        values: The dates as written (datetime64[D]), NaT for bad cells.
        bad: The cells that are not dates.
        times: The texts after the dates; empty if no cell has one.
        instants: Seconds since 1970, if the cells count them; only for the order of rows of one day.
        unusual: How many cells are not written as YYYY-MM-DD, apart from a time.
    """

    values: NDArray[np.datetime64]
    bad: list[BadCell] = field(default_factory=list)
    times: list[str] = field(default_factory=list)
    instants: NDArray[np.float64] | None = None
    unusual: int = 0


# ---- numbers

_PLAIN = {ord(character): None for character in "0123456789.+-eE \n"}
_PLAIN_OR_GROUPED = _PLAIN | {ord(","): None}
_MARKS = str.maketrans({"−": "-", "–": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "’": "'", "`": "'", "´": "'"})
_NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*", re.ASCII)
_GROUPS = {
    mark: re.compile(
        rf"(?<![\d.,])(?P<whole>[1-9]\d{{0,2}}(?:{re.escape(mark)}\d{{2,3}})*{re.escape(mark)}\d{{3}})"
        rf"(?![\d{re.escape(mark)}])",
        re.ASCII,
    )
    for mark in ",."
}
_CERTAIN_GROUPS = {
    ",": re.compile(r"\d,\d{2,3},\d{3}(?![\d,])|\d,\d{3}\.\d", re.ASCII),
    ".": re.compile(r"\d\.\d{3}\.\d{3}(?![\d.])|\d\.\d{3},\d", re.ASCII),
}
_MARK_NAMES = {",": "comma", ".": "point"}
_OTHER = {",": ".", ".": ","}
# A mark that stands before other than three digits, or behind a leading 0 or four digits: before decimals, that is.
_LOOSE = {
    mark: re.compile(
        rf"{re.escape(mark)}(?!\d{{3}}(?!\d))|(?<![\d.,])0{re.escape(mark)}|\d{{4}}{re.escape(mark)}", re.ASCII
    )
    for mark in ",."
}
_SPACED = re.compile(r"(?<=\d)[' ](?=\d{3}(?!\d))", re.ASCII)
_BEFORE = re.compile(rf"(?m)^[ ]*([-+]?)[ ]*({CURRENCY})[ ]*(?=[-+]?[\d.,])")
_AFTER = re.compile(rf"(?m)(?<=[\d.,])[ ]*({CURRENCY})[ ]*$")
_SIZED = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*([^\W\d_]{1,4})\.?\s*")


def decimal_mark(prices: str, volumes: str, *, separator: str) -> str:
    """Decide which mark stands before the decimals, from all cells of a file.

    Args:
        prices: The cells with prices, one per line.
        volumes: Those with volumes; they decide only what the prices leave open.
        separator: The mark between cells.

    Returns:
        "." or ",".

    Raises:
        Ambiguous: If the cells contradict each other, or can be read in both ways.
    """
    if "," not in prices + volumes and not (separator == ";" and "." in prices + volumes):
        return "."
    for text in (prices, volumes):
        sure = [mark for mark in ",." if _LOOSE[mark].search(text) or _CERTAIN_GROUPS[_OTHER[mark]].search(text)]
        enough = {
            mark: bool(_CERTAIN_GROUPS[_OTHER[mark]].search(text)) or 20 * text.count(mark) >= text.count(_OTHER[mark])
            for mark in sure
        }
        if len(sure) == 1 and enough[sure[0]]:
            return sure[0]
        # How many cells only fit a decimal point, and how many only a decimal comma, with one of each.
        proof = {mark: _proof(text, mark) for mark in ",."}
        few = sum(count for count, _ in proof.values()) // 20
        for mark, other in ((",", "."), (".", ",")):
            # The few cells that contradict all others are faults of their own.
            if proof[mark][0] and proof[other][0] <= few and enough.get(mark):
                return mark
        if all(count for count, _ in proof.values()):
            raise Ambiguous(f"{proof['.'][1]!r} has a decimal point and {proof[','][1]!r} a decimal comma")
        if len(sure) == 1:
            # One cell must not decide over a thousand others that can be read in both ways.
            cell = next(line for line in text.split("\n") if _OTHER[sure[0]] in line)
            raise Ambiguous(f"{proof[sure[0]][1]!r} has a decimal {_MARK_NAMES[sure[0]]}, and {cell!r} has none")
    unclear = next((line for line in prices.split("\n") if "," in line), "") or next(
        (line for line in prices.split("\n") if "." in line and separator == ";"), ""
    )
    if not unclear:
        # Prices without any mark: what stands in the volumes are thousands.
        return "." if "," in volumes or "." in prices else ","
    read = unclear.replace(",", ".").strip()
    raise Ambiguous(f"{unclear!r} can be {read} or {read.replace('.', '')}")


def _proof(text: str, mark: str) -> tuple[int, str]:
    """Count the lines that can be read with this decimal mark alone, and return the first of them."""
    other = _OTHER[mark]
    count, places = 0, []
    if mark in text and mark in (left := _GROUPS[mark].sub("", text)):
        count += sum(mark in line for line in left.split("\n"))
        places.append(left[: left.index(mark)].count("\n"))
    if other in text and (certain := _CERTAIN_GROUPS[other].findall(text)):
        count += len(certain)
        found = _CERTAIN_GROUPS[other].search(text)
        places.append(text[: found.start()].count("\n") if found else 0)
    return count, text.split("\n")[min(places)] if places else ""


def currencies(cells: Sequence[str]) -> set[str]:
    """Find the currency signs of price cells."""
    joined = "\n".join(cells)
    if not joined.translate(_PLAIN):
        return set()
    return {capitals(match[1]) for match in _BEFORE.findall(joined)} | {capitals(s) for s in _AFTER.findall(joined)}


def capitals(currency: str) -> str:
    """Write a currency in capitals; pence as GBX, because GBP are pounds."""
    return "GBX" if currency in PENCE else currency.upper()


def numbers(cells: Sequence[str], *, mark: str = ".", sizes: bool = False) -> Numbers:
    """Read a column of numbers.

    Args:
        cells: The texts.
        mark: The decimal mark of the file.
        sizes: Whether K, M and B may follow, as in volumes.
    """
    joined = "\n".join(cells)
    if mark == "." and not joined.translate(_PLAIN):
        try:
            values = np.array(list(map(float, cells)))
        except ValueError:
            pass
        else:
            return Numbers(values, np.zeros(len(cells), dtype=bool))
    plain = _plain_texts(joined, mark=mark)
    texts = plain.split("\n")
    if len(texts) != len(cells):
        # A cell of several lines: each cell on its own.
        texts = [_plain_texts(cell.replace("\n", "\0"), mark=mark) for cell in cells]
    elif not plain.translate(_PLAIN):
        try:
            values = np.array(list(map(float, texts)))
        except ValueError:
            pass
        else:
            changed = sum(map(ne, texts, cells))
            return Numbers(values, np.zeros(len(cells), dtype=bool), unusual=changed)
    values = np.full(len(cells), np.nan)
    found = Numbers(values, np.zeros(len(cells), dtype=bool))
    for position, (text, cell) in enumerate(zip(texts, cells, strict=True)):
        if _NUMBER.fullmatch(text):
            values[position] = float(text)
            found.unusual += text is not cell and text.strip() != cell.strip()
        elif cell.strip().lower() in MISSING:
            found.missing[position] = True
        elif sizes and (size := _sized(text)) is not None:
            values[position] = size
            found.unusual += 1
        else:
            found.bad.append(BadCell(position, "is not a number", PLAIN_NUMBER))
    return found


def _plain_texts(joined: str, *, mark: str) -> str:
    text = joined if joined.isascii() else joined.translate(_MARKS)
    if "'" in text or " " in text:
        text = _SPACED.sub("", text)
    if text.translate(_PLAIN_OR_GROUPED):
        text = _AFTER.sub("", _BEFORE.sub(r"\1", text))
    other = _OTHER[mark]
    if other in text:
        if other in _GROUPS[other].sub("", text):
            text = _GROUPS[other].sub(lambda match: match["whole"].replace(other, ""), text)
        else:
            text = text.replace(other, "")
    if mark == ",":
        # A point that is left is not a group of thousands: it must not become a decimal mark.
        text = text.replace(".", "?").replace(",", ".")
    return text


def _sized(text: str) -> float | None:
    match = _SIZED.fullmatch(text)
    factor = SUFFIXES.get(match[2].lower()) if match else None
    if match is None or factor is None:
        return None
    try:
        return float(Decimal(match[1]) * factor)
    except InvalidOperation:
        return None


# ---- dates

_TIME = (
    r"(?:(?:[T ]\s*|\s*,\s*)(?P<time>\d{1,2}[:.]?\d{2}(?:[:.]?\d{2}(?:[.,:]\d+)?)?\s*(?:[AaPp]\.?[Mm]\.?)?"
    r"\s*(?:Z|[A-Z]{2,5})?\s*(?:[+-]\d{2}:?(?:\d{2})?(?::\d{2})?)?(?:\[[\w/+-]+\]|\s*\([\w ]+\))?))?"
)
_WEEKDAY = r"(?:[^\W\d_]{2,10}\.?,?\s+)?"
_ISO = re.compile(r"(?:\d{4}-\d\d-\d\d(?:\n|$))+", re.ASCII)
_FORMS = {
    name: re.compile(rf"\s*{pattern}{_TIME}\s*")
    for name, pattern in {
        "year first": r"(?P<y>\d{4})\s?[-/.年년]\s?(?P<m>\d{1,2})\s?[-/.月월]\s?(?P<d>\d{1,2})[日일]?",
        # Taiwan counts years from 1911.
        "year of the republic": r"(?P<y>1\d{2})(?P<mark>[-/.])(?P<m>\d{1,2})(?P=mark)(?P<d>\d{1,2})",
        "compact": r"(?P<y>(?:17|18|19|20|21)\d{2})(?P<m>\d{2})(?P<d>\d{2})(?:\.0)?",
        "year last": rf"{_WEEKDAY}(?P<a>\d{{1,2}})(?P<mark>[-/.])(?P<b>\d{{1,2}})(?P=mark)(?P<y>\d{{4}}|\d{{2}})",
        "month name": (
            rf"{_WEEKDAY}(?P<m>[^\W\d_]{{3,10}})\.?[\s-]+(?P<d>\d{{1,2}})(?:st|nd|rd|th)?,?[\s-]+(?P<y>\d{{4}})"
        ),
        "name between": (
            rf"{_WEEKDAY}(?P<d>\d{{1,2}})\.?[-/\s]*(?P<m>[^\W\d_]{{3,10}})\.?[-/\s,]*(?P<y>\d{{4}}|\d{{2}})"
        ),
        "year name": r"(?P<y>\d{4})[-/\s]*(?P<m>[^\W\d_]{3,10})\.?[-/\s]*(?P<d>\d{1,2})",
    }.items()
}
_DATE_MARKS = bytes.maketrans(b"/.-\n", b"    ")
_SHAPE = bytes.maketrans(b"023456789", b"111111111")
_DIGITS = re.compile(r"\d+", re.ASCII)
_COUNT = re.compile(r"\s*(\d{5}|\d{9,10}|\d{12,13}|\d{15,16}|\d{18,19})(?:\.\d{1,9})?\s*", re.ASCII)
_PER_SECOND = {9: 1, 10: 1, 12: 10**3, 13: 10**3, 15: 10**6, 16: 10**6, 18: 10**9, 19: 10**9}
_EXCEL_FIRST = np.datetime64("1899-12-30")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def is_date_like(cell: str) -> bool:
    """Return whether a cell is written in one of the forms of dates, sensible or not."""
    return bool(_COUNT.fullmatch(cell)) or any(form.fullmatch(cell) for form in _FORMS.values())


def days(cells: Sequence[str], *, column: str) -> Days:
    """Read a column of dates, all in one form.

    Args:
        cells: The texts.
        column: The column's own name, for messages.

    Raises:
        Ambiguous: If day and month can change places in every date.
    """
    if _ISO.fullmatch("\n".join(cells)):
        try:
            return Days(np.array(cells, dtype="datetime64[D]"))
        except ValueError:
            pass
    step = max(1, len(cells) // 25)
    sample = [cell for cell in cells[::step] if cell.strip()] or [cell for cell in cells if cell.strip()][:30]
    counts = sum(bool(_COUNT.fullmatch(cell)) for cell in sample)
    best = max(_FORMS, key=lambda name: sum(bool(_FORMS[name].fullmatch(cell)) for cell in sample))
    if counts > sum(bool(_FORMS[best].fullmatch(cell)) for cell in sample):
        return _counted(cells)
    return _written(cells, best, column=column)


def _written(cells: Sequence[str], name: str, *, column: str) -> Days:
    form = _FORMS[name]
    keys = ("y", "a", "b") if name == "year last" else ("y", "m", "d")
    found = Days(np.full(len(cells), np.datetime64("NaT"), dtype="datetime64[D]"))
    places = np.arange(len(cells))
    values = _numbers_alone(cells, name)
    if values is None:
        matches = [form.fullmatch(cell) for cell in cells]
        times = [(match["time"] or "") if match else "" for match in matches]
        found.times = times if any(times) else []
        places = np.array([place for place, match in enumerate(matches) if match], dtype=np.intp)
        parts = [part for match in matches if match for part in match.group(*keys)]
        values = np.array(list(map(_month_number, parts)), dtype=np.int64).reshape(-1, 3)
    if len(values):
        match = form.fullmatch(cells[places[0]])
        digits = len(match["y"]) if match else 4
        year, month, day = values.T
        if name == "year last":
            year, month, day = _settle_order(cells, places, *values.T, digits=digits, column=column)
        if digits == 2:
            # As POSIX reads years of two digits.
            year = np.where(year >= 100, year, np.where(year >= 69, 1900, 2000) + year)
        elif name == "year of the republic":
            year = year + 1911
        found.values[places] = days_of(year, month, day)
    bad = np.flatnonzero(np.isnat(found.values))
    found.bad = [BadCell(int(position), "is not a date", PLAIN_DATE) for position in bad]
    usual = sum(len(cell) >= 10 and cell[4] == cell[7] == "-" for cell in cells) if name == "year first" else 0
    found.unusual = len(cells) - len(bad) - usual
    return found


def _numbers_alone(cells: Sequence[str], name: str) -> NDArray[np.int64] | None:
    """Read dates of three numbers, all in one go: year, month and day, or year and the others, shape (n, 3).

    `None` if the cells hold anything else. With every digit written as 1, they have few different shapes.
    """
    joined = "\n".join(cells)
    if name not in ("year first", "year last") or " " in joined or not joined.isascii():
        return None
    raw = joined.encode()
    if not all(
        _FORMS[name].fullmatch(shape) and len(_DIGITS.findall(shape)) == 3
        for shape in set(raw.translate(_SHAPE).decode().split("\n"))
    ):
        return None
    values = np.fromstring(raw.translate(_DATE_MARKS).decode(), dtype=np.int64, sep=" ").reshape(-1, 3)
    return values if name == "year first" else values[:, [2, 0, 1]]


def _month_number(word: str) -> int:
    """Return the number of the month that a word or a number names, or 0."""
    if word.isdigit():
        return int(word)
    text = word.casefold()
    return next((MONTHS[text[:size]] for size in (5, 4, 3) if text[:size] in MONTHS), 0)


def days_of(year: NDArray, month: NDArray, day: NDArray) -> NDArray[np.datetime64]:
    """Make dates of numbers; NaT for days that the calendar does not have."""
    sensible = (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
    months = (np.where(sensible, year, 1970) - 1970).astype("datetime64[Y]").astype("datetime64[M]")
    months = months + np.where(sensible, month - 1, 0)
    dates = months.astype("datetime64[D]") + np.where(sensible, day - 1, 0)
    return np.where(sensible & (dates.astype("datetime64[M]") == months), dates, np.datetime64("NaT", "D"))


def _settle_order(
    cells: Sequence[str], places: NDArray, last: NDArray, first: NDArray, second: NDArray, *, digits: int, column: str
) -> list[NDArray]:
    """Decide for the whole file whether the day or the month comes first; return years, months and days.

    Args:
        cells: All texts.
        places: Positions of those that were read.
        last: Their third numbers, usually the years.
        first: Their first numbers.
        second: Their second numbers.
        digits: Digits of the years.
        column: The column's own name, for messages.

    Raises:
        Ambiguous: If day and month can change places in every date.
    """
    if digits == 2 and _is_year_first(first, second, last):
        return [first, second, last]
    day_first, month_first = first > 12, second > 12
    if not day_first.any() and not month_first.any() and (first != second).any():
        place = int((first != second).argmax())
        year = last[place] if digits == 4 else last[place] + (1900 if last[place] >= 69 else 2000)
        one, two = first[place], second[place]
        raise Ambiguous(
            f"{cells[places[place]].strip()!r} can be {year}-{one:02}-{two:02} or {year}-{two:02}-{one:02}, and no row "
            f"of column {shortened(column)} has a day after the 12th that proves which"
        )
    if day_first.sum() == month_first.sum() and day_first.any():
        texts = [cells[places[int(which.argmax())]].strip() for which in (day_first, month_first)]
        raise Ambiguous(f"{texts[0]!r} has the day first and {texts[1]!r} the month")
    # The rarer order is the mistake: its cells are reported one by one, as months after the 12th.
    return [last, second, first] if day_first.sum() > month_first.sum() else [last, first, second]


def _is_year_first(first: NDArray, second: NDArray, last: NDArray) -> bool:
    """Return whether dates of two digits each, such as 18/01/19, are daily only if the year comes first."""

    def daily(year: NDArray, month: NDArray, day: NDArray) -> bool:
        if (month > 12).any() or (day > 31).any():
            return False
        steps = np.diff(372 * year + 31 * month + day)
        return len(steps) > 0 and float(np.median(np.abs(steps))) <= 7

    return daily(first, second, last) and not daily(last, first, second) and not daily(last, second, first)


def _counted(cells: Sequence[str]) -> Days:
    """Read counts of days since 1899-12-30 (Excel), or of seconds, ms, µs or ns since 1970 (UTC)."""
    found = Days(np.full(len(cells), np.datetime64("NaT"), dtype="datetime64[D]"), unusual=len(cells))
    instants = np.full(len(cells), np.nan)
    times = []
    for position, cell in enumerate(cells):
        match = _COUNT.fullmatch(cell)
        if match is None:
            found.bad.append(BadCell(position, "is not a date", PLAIN_DATE))
            times.append("")
            continue
        count = int(match[1])
        if len(match[1]) == 5:
            found.values[position] = _EXCEL_FIRST + np.timedelta64(count, "D")
            times.append("")
            continue
        seconds = count / _PER_SECOND[len(match[1])]
        instants[position] = seconds
        found.values[position] = np.datetime64(count // (86400 * _PER_SECOND[len(match[1])]), "D")
        times.append((_EPOCH + timedelta(seconds=seconds)).strftime("%H:%M:%SZ"))
    if np.isfinite(instants).any():
        found.instants = instants
        found.times = times
    return found
