"""The schema of bars: the rules for every price frame, and the error message for each broken rule."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Columns = dict[str, NDArray]
"""Values by column, all of one length."""

PRICE_COLUMNS = ("open", "high", "low", "close", "adj_close")
BAR_COLUMNS = ("date", *PRICE_COLUMNS, "volume")
YAHOO_COLUMNS = ("Date", "Open", "High", "Low", "Close", "Adj Close", "Volume")
"""The same columns as price files name them."""

SMALLEST_PRICE, LARGEST_PRICE = 1e-9, 1e15
"""USD. Below the smallest, TA-Lib sees no daily moves; above the largest, rounding loses the cents."""

FAR = 1.5
"""Open and close may lie outside low and high, as rounding and late corrections leave them, but not by this factor."""

_FIRST_DAY, _LAST_DAY = np.datetime64("1800-01-01"), np.datetime64("2199-12-31")


class Fault(NamedTuple):
    """A broken rule in words: what is wrong with the value, and what to do about it."""

    fault: str
    cure: str


FAULTS: dict[str, Fault] = {
    "finite": Fault("is not a finite number", "fill in the number or delete the row"),
    "positive": Fault("is not a positive price", "correct the price or delete the row"),
    "plausible": Fault(
        f"is not a plausible price (they lie within {SMALLEST_PRICE:g} and {LARGEST_PRICE:g})",
        "correct the price, or state all prices of the file in another unit",
    ),
    "not_negative": Fault("is a negative volume", "correct the volume or delete the row"),
    "of_our_times": Fault("is not a plausible date", "write dates from 1800 to 2199 as YYYY-MM-DD"),
    "unique": Fault("is a date that an earlier row already has", "keep one row per date"),
    "ascending": Fault("is earlier than the date of the row before", "sort the rows by date, oldest first"),
    "high_at_least_low": Fault("is lower than the low of the same row", "correct high and low or delete the row"),
    "near_range": Fault(
        "is far outside low and high of the same row",
        "correct the row; if these closes are adjusted and the others are not, name their column Adj Close",
    ),
}


class Violation(NamedTuple):
    """A broken rule: 0-based position of the row, column, and key into `FAULTS`."""

    position: int
    column: str
    rule: str


def bar_columns(bars: pd.DataFrame | Mapping[str, NDArray]) -> Columns:
    """Take the columns of bars as arrays: a column lookup in a frame costs as much as the arithmetic on it."""
    return {column: np.asarray(bars[column]) for column in BAR_COLUMNS}


def violations(bars: pd.DataFrame | Mapping[str, NDArray]) -> list[Violation]:
    """Check bars against the rules.

    Args:
        bars: Columns `BAR_COLUMNS`, dates as datetime64[s] and numbers as float64.

    Returns:
        Every broken rule of every row, the topmost row first, and in a row by the order of `FAULTS`.
    """
    values = bar_columns(bars)
    dates = values.pop("date")
    broken: dict[tuple[str, str], NDArray[np.bool_]] = {
        **{("finite", column): ~np.isfinite(each) for column, each in values.items()},
        **{("positive", column): values[column] <= 0 for column in PRICE_COLUMNS},
        **{
            ("plausible", column): (values[column] < SMALLEST_PRICE) | (values[column] > LARGEST_PRICE)
            for column in PRICE_COLUMNS
        },
        ("not_negative", "volume"): values["volume"] < 0,
        ("of_our_times", "date"): (dates < _FIRST_DAY) | (dates > _LAST_DAY),
        **{
            ("near_range", column): (values[column] > FAR * values["high"]) | (FAR * values[column] < values["low"])
            for column in ("open", "close")
        },
        ("high_at_least_low", "high"): values["high"] < values["low"],
    }
    if not (dates[1:] > dates[:-1]).all():
        broken["unique", "date"] = pd.Series(dates).duplicated().to_numpy()
        broken["ascending", "date"] = np.concatenate([[False], dates[1:] < dates[:-1]])
    rules = list(FAULTS)
    found = [
        (int(position), rules.index(rule), BAR_COLUMNS.index(column))
        for (rule, column), rows in broken.items()
        if rows.any()
        for position in np.flatnonzero(rows)
    ]
    return [Violation(position, BAR_COLUMNS[column], rules[rule]) for position, rule, column in sorted(found)]
