"""The schema of bars: what every price frame must satisfy, and the words for each way of breaking it."""

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from pandera.pandas import DataFrameSchema

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


@cache
def bars_schema() -> "DataFrameSchema":
    """The pandera schema of bars; importing pandera waits until the first call."""
    import pandera.pandas as pa

    def finite() -> pa.Check:
        return pa.Check(lambda values: np.isfinite(values), name="finite", ignore_na=False)

    def price() -> pa.Column:
        return pa.Column("float64", [finite(), pa.Check(lambda values: ~(values <= 0), name="positive")], nullable=True)

    date = pa.Column(
        "datetime64[s]",
        [
            pa.Check(lambda dates: ~dates.duplicated(), name="unique"),
            pa.Check(lambda dates: ~(dates.diff() < pd.Timedelta(0)), name="ascending"),
        ],
    )
    volume = pa.Column(
        "float64", [finite(), pa.Check(lambda values: ~(values < 0), name="not_negative")], nullable=True
    )
    return pa.DataFrameSchema(
        {"date": date, **{column: price() for column in PRICE_COLUMNS}, "volume": volume},
        checks=pa.Check(lambda bars: ~(bars["high"] < bars["low"]), name="high_at_least_low"),
        ordered=True,
        strict=True,
    )


def first_violation(bars: pd.DataFrame) -> Violation | None:
    """Hold bars against the schema.

    Args:
        bars: Columns `BAR_COLUMNS` of the right types, index 0..n-1.

    Returns:
        The violation in the topmost row, or `None`.
    """
    schema = bars_schema()
    from pandera.errors import SchemaErrors

    try:
        schema.validate(bars, lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases
        rules = list(FAULTS)
        found = {
            (int(position), rules.index(rule), "high" if rule == "high_at_least_low" else str(column))
            for position, rule, column in zip(cases["index"], cases["check"], cases["column"], strict=True)
        }
        position, rule, column = min(found, key=lambda case: (case[0], case[1], BAR_COLUMNS.index(case[2])))
        return Violation(position, column, rules[rule])
    return None
