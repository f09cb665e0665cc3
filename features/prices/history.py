"""What became of a known history in newer bars: adjusted for a split or a dividend, rewritten, or as it was."""

from datetime import date
from typing import Literal

import numpy as np

from tickerforge.features.config import FrozenModel
from tickerforge.features.prices.schemas import Columns

OTHERS = ("open", "high", "low", "close", "volume")


class HistoryChange(FrozenModel):
    """How the older rows of bars differ from what they were.

    Attributes:
        kind: "adjusted" where adjusted closes changed, as after a split or a dividend; else "rewritten".
        rows: Rows that changed or are gone.
        first: Session of the first of them.
        last: Session of the last of them.
        factor: What most adjusted closes that changed were multiplied by, the median; `None` where none changed.
    """

    kind: Literal["adjusted", "rewritten"]
    rows: int
    first: date
    last: date
    factor: float | None = None

    def __str__(self) -> str:
        span = f"{self.rows:,} rows from {self.first} to {self.last}"
        if self.factor is None:
            return f"rewritten history: {span} changed or are gone"
        return f"adjusted history: Adj Close of {span} changed, by a factor of {self.factor:.6g}"


def history_change(before: Columns, after: Columns) -> HistoryChange | None:
    """Compare bars with what the same ticker's were.

    Args:
        before: Columns of bars as they were.
        after: Columns of bars as they are; sessions that `before` lacks do not count.

    Returns:
        What has changed, or `None`.
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
