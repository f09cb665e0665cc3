"""The schema of bars: what every price frame must satisfy, and the words for each way of breaking it."""

from typing import NamedTuple

import numpy as np
import pandas as pd

PRICE_COLUMNS = ("open", "high", "low", "close", "adj_close")
BAR_COLUMNS = ("date", *PRICE_COLUMNS, "volume")


class Fault(NamedTuple):
    """A broken rule in words: what is wrong with the value, and what to do about it."""

    fault: str
    cure: str


FAULTS: dict[str, Fault] = {
    "finite": Fault("is not a finite number", "fill in the number or delete the row"),
    "positive": Fault("is not a positive price", "correct the price or delete the row"),
    "not_negative": Fault("is a negative volume", "correct the volume or delete the row"),
    "unique": Fault("is a date that an earlier row has already", "keep one row for each date"),
    "ascending": Fault("is earlier than the date of the row before", "sort the rows by date, oldest first"),
    "high_at_least_low": Fault("is lower than the low of the same row", "correct high and low or delete the row"),
}


class Violation(NamedTuple):
    """The first broken rule of a frame: 0-based position of the row, column, and key into `FAULTS`."""

    position: int
    column: str
    rule: str


def first_violation(bars: pd.DataFrame) -> Violation | None:
    """Hold bars against the rules.

    Args:
        bars: Columns `BAR_COLUMNS`, dates as datetime64[s] and numbers as float64, index 0..n-1.

    Returns:
        The violation in the topmost row, there the first rule of `FAULTS`, or `None`.
    """
    dates = bars["date"]
    broken: dict[tuple[str, str], pd.Series] = {
        **{("finite", column): ~np.isfinite(bars[column]) for column in (*PRICE_COLUMNS, "volume")},
        **{("positive", column): bars[column] <= 0 for column in PRICE_COLUMNS},
        ("not_negative", "volume"): bars["volume"] < 0,
        ("unique", "date"): dates.duplicated(),
        ("ascending", "date"): dates.diff() < pd.Timedelta(0),
        ("high_at_least_low", "high"): bars["high"] < bars["low"],
    }
    rules = list(FAULTS)
    found = [
        (int(rows.to_numpy().argmax()), rules.index(rule), BAR_COLUMNS.index(column))
        for (rule, column), rows in broken.items()
        if rows.any()
    ]
    if not found:
        return None
    position, rule, column = min(found)
    return Violation(position, BAR_COLUMNS[column], rules[rule])
