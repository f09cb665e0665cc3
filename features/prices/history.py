"""Changes of a known history in newer bars: adjusted for a split or a dividend, or rewritten."""

from datetime import date
from typing import Literal

import numpy as np

from tickerforge.features.config import FrozenModel
from tickerforge.features.prices.schemas import Columns

OTHERS = ("open", "high", "low", "close", "volume")


class HistoryChange(FrozenModel):
    """How the older rows of bars differ from the former ones.

    Attributes:
        kind: "adjusted" if adjusted closes changed, as after a split or a dividend; else "rewritten".
        rows: Number of rows that changed or are missing now.
        first: Session of the first of them.
        last: Session of the last of them.
        factor: Median factor of the adjusted closes that changed; `None` if none changed.
    """

    kind: Literal["adjusted", "rewritten"]
    rows: int
    first: date
    last: date
    factor: float | None = None

    def __str__(self) -> str:
        span = f"{self.rows:,} rows from {self.first} to {self.last}"
        if self.factor is None:
            return f"rewritten history: {span} changed or are missing now"
        return f"adjusted history: Adj Close of {span} changed, by a factor of {self.factor:.6g}"


def history_change(before: Columns, after: Columns) -> HistoryChange | None:
    """Compare a ticker's bars with its former ones.

    Args:
        before: Columns of the former bars.
        after: Columns of the new bars; sessions that `before` lacks do not count.

    Returns:
        What has changed, or `None` if nothing has.
    """
    before, after = ({**each, "date": each["date"].astype("datetime64[D]")} for each in (before, after))
    dates, old, new = np.intersect1d(before["date"], after["date"], assume_unique=True, return_indices=True)
    ratio = after["adj_close"][new] / before["adj_close"][old]
    adjusted = dates[ratio != 1]
    if len(adjusted):
        factor = float(np.median(ratio[ratio != 1]))
        return HistoryChange(
            kind="adjusted", rows=len(adjusted), first=adjusted[0].item(), last=adjusted[-1].item(), factor=factor
        )
    other = np.logical_or.reduce([after[name][new] != before[name][old] for name in OTHERS])
    changed = np.union1d(dates[other], np.setdiff1d(before["date"], dates, assume_unique=True))
    if not len(changed):
        return None
    return HistoryChange(kind="rewritten", rows=len(changed), first=changed[0].item(), last=changed[-1].item())
