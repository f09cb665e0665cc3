"""Cells of price tables: texts to numbers and dates, in the forms that `dialects` lists."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tickerforge.features.errors import shortened
from tickerforge.features.prices.dialects import CURRENCY, MISSING, MONTHS, SUFFIXES

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
        # Cells that only fit a decimal point, and those that only fit a decimal comma.
        proof = {mark: _proof(text, mark) for mark in ",."}
        few = sum(map(len, proof.values())) // 20
        for mark, other in ((",", "."), (".", ",")):
            # The few cells that contradict all others are faults of their own.
            if proof[mark] and len(proof[other]) <= few:
                return mark
        if any(proof.values()):
            raise Ambiguous(f"{proof['.'][0]!r} has a decimal point and {proof[','][0]!r} a decimal comma")
    unclear = next((line for line in prices.split("\n") if "," in line), "") or next(
        (line for line in prices.split("\n") if "." in line and separator == ";"), ""
    )
    if not unclear:
        # Prices without any mark: what stands in the volumes are thousands.
        return "." if "," in volumes or "." in prices else ","
    read = unclear.replace(",", ".").strip()
    raise Ambiguous(f"{unclear!r} can be {read} or {read.replace('.', '')}")


def _proof(text: str, mark: str) -> list[str]:
    """Return the lines that can be read with this decimal mark alone."""
    other = "." if mark == "," else ","
    found = [line for line in text.split("\n") if mark in line and mark in _GROUPS[mark].sub("", line)]
    return found + [line for line in text.split("\n") if other in line and _CERTAIN_GROUPS[other].search(line)]


def currencies(cells: Sequence[str]) -> set[str]:
    """Find the currency signs of price cells."""
    joined = "\n".join(cells)
    if not joined.translate(_PLAIN):
        return set()
    return {match[1].upper() for match in _BEFORE.findall(joined)} | {sign.upper() for sign in _AFTER.findall(joined)}


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
    texts = _plain_texts(joined, mark=mark).split("\n")
    if len(texts) != len(cells):
        # A cell of several lines: each cell on its own.
        texts = [_plain_texts(cell.replace("\n", "\0"), mark=mark) for cell in cells]
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
    text = _AFTER.sub("", _BEFORE.sub(r"\1", text))
    other = "." if mark == "," else ","
    if other in text:
        text = _GROUPS[other].sub(lambda match: match["whole"].replace(other, ""), text)
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
    r"\s*(?:Z|[A-Z]{2,5})?\s*(?:[+-]\d{2}:?(?:\d{2})?(?::\d{2})?)?(?:\[[\w/+-]+\])?))?"
)
_WEEKDAY = r"(?:[^\W\d_]{2,10}\.?,?\s+)?"
_ISO = re.compile(r"(?:\d{4}-\d\d-\d\d(?:\n|$))+", re.ASCII)
_FORMS = {
    name: re.compile(rf"\s*{pattern}{_TIME}\s*")
    for name, pattern in {
        "year first": r"(?P<y>\d{4})\s?[-/.年년]\s?(?P<m>\d{1,2})\s?[-/.月월]\s?(?P<d>\d{1,2})[日일]?",
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
    sample = [cell for cell in cells if cell.strip()][:: max(1, len(cells) // 25)][:30]
    counts = sum(bool(_COUNT.fullmatch(cell)) for cell in sample)
    best = max(_FORMS, key=lambda name: sum(bool(_FORMS[name].fullmatch(cell)) for cell in sample))
    if counts > sum(bool(_FORMS[best].fullmatch(cell)) for cell in sample):
        return _counted(cells)
    return _written(cells, best, column=column)


def _written(cells: Sequence[str], name: str, *, column: str) -> Days:
    matches = [_FORMS[name].fullmatch(cell) for cell in cells]
    found = Days(np.full(len(cells), np.datetime64("NaT"), dtype="datetime64[D]"))
    fields = [match.groupdict() if match else {} for match in matches]
    if name == "year last":
        _settle_order(cells, fields, column=column)
    texts: list[str] = []
    for position, field_ in enumerate(fields):
        text = _iso(field_) if field_ else None
        if text is None:
            found.bad.append(BadCell(position, "is not a date", PLAIN_DATE))
        texts.append(text or "NaT")
    try:
        found.values = np.array(texts, dtype="datetime64[D]")
    except ValueError:
        for position, text in enumerate(texts):
            try:
                found.values[position] = np.datetime64(text, "D")
            except ValueError:
                found.bad.append(BadCell(position, "is not a date", PLAIN_DATE))
    times = [field_.get("time") or "" for field_ in fields]
    if any(times):
        found.times = times
    usual = name == "year first"
    found.unusual = sum(
        not (usual and cell.strip()[:10] == text) for cell, text in zip(cells, texts, strict=True) if text != "NaT"
    )
    return found


def _iso(field_: dict[str, str | None]) -> str | None:
    year, month, day = str(field_["y"]), str(field_["m"]), str(field_["d"])
    if not month.isdigit():
        word = month.casefold()
        number = next((MONTHS[word[:size]] for size in (5, 4, 3) if word[:size] in MONTHS), None)
        if number is None:
            return None
        month = str(number)
    if len(year) == 2:
        # As POSIX reads years of two digits.
        year = f"{19 if int(year) >= 69 else 20}{year}"
    return f"{year}-{month:0>2}-{day:0>2}"


def _settle_order(cells: Sequence[str], fields: Sequence[dict[str, str | None]], *, column: str) -> None:
    """Decide for the whole file whether the day or the month comes first, and name the fields so."""
    places = [place for place, field_ in enumerate(fields) if field_]
    first, second, last = (np.array([int(str(fields[place][key])) for place in places]) for key in "aby")
    if len(str(fields[places[0]]["y"])) == 2 and _is_year_first(first, second, last):
        for place in places:
            field_ = fields[place]
            field_["y"], field_["m"], field_["d"] = field_["a"], field_["b"], field_["y"]
        return
    day_first, month_first = first > 12, second > 12
    if not day_first.any() and not month_first.any() and (first != second).any():
        place = places[int((first != second).argmax())]
        year, one, two = fields[place]["y"], fields[place]["a"], fields[place]["b"]
        read = [_iso({"y": year, "m": month, "d": day}) for month, day in ((one, two), (two, one))]
        raise Ambiguous(
            f"{cells[place].strip()!r} can be {read[0]} or {read[1]}, and no row of column {shortened(column)} has a "
            "day after the 12th that proves which"
        )
    if day_first.sum() == month_first.sum() and day_first.any():
        one, two = (cells[places[int(which.argmax())]].strip() for which in (day_first, month_first))
        raise Ambiguous(f"{one!r} has the day first and {two!r} the month")
    # The rarer order is the mistake: its cells are reported one by one, as months after the 12th.
    day, month = ("a", "b") if day_first.sum() > month_first.sum() else ("b", "a")
    for place in places:
        fields[place]["d"], fields[place]["m"] = fields[place][day], fields[place][month]


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
