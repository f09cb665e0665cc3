"""Windows of many tickers as one set: borders in calendar time that all share, and selections that treat all alike."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from tickerforge.features.splits import Split

POOL = "ALL"
"""What stands in a ticker's place for all of them together; it is no ticker's name."""


class Border(NamedTuple):
    """The last session that a target of a split may lie on, the ticker that set it, and how many windows it cost."""

    split: Split
    last: pd.Timestamp
    ticker: str
    dropped: int


def pool_windows(frames: Sequence[pd.DataFrame]) -> tuple[pd.DataFrame, tuple[Border, ...]]:
    """Put the windows of several tickers together so that no split of one ticker knows the future of another's.

    Each ticker was split by its own rows, and markets move together: a train target of a ticker with a shorter history
    may lie later than a test origin of one with a longer history. So the tickers share the earliest border: a train
    window stays only where its targets end no later than the train targets of every ticker do, and a validation window
    only where they end no later than the validation targets of every ticker do. Since each ticker's own splits are an
    embargo apart, all train targets then lie before every validation origin, and all validation targets before every
    test origin.

    Args:
        frames: Windows frames, one a ticker, as `features.windows.build_windows` returns them.

    Returns:
        One windows frame, sorted by origin and ticker, in which a ticker may lack the train or validation split; and
        the borders of `train` and `validation`.
    """
    windows = pd.concat(frames, ignore_index=True)
    ends = pd.Series(np.stack(list(windows["target_dates"]))[:, -1], index=windows.index)
    late = pd.Series(False, index=windows.index)
    borders = []
    for split in ("train", "validation"):
        inside = windows["split"] == split
        last = ends[inside].groupby(windows.loc[inside, "ticker"]).max()
        beyond = inside & (ends > last.min())
        borders.append(Border(split, pd.Timestamp(last.min()), str(last.idxmin()), int(beyond.sum())))
        late |= beyond
    kept = windows[~late].sort_values(["origin", "ticker"], ignore_index=True)
    return kept, tuple(borders)


def spread(windows: pd.DataFrame, *, at_most: int) -> pd.DataFrame:
    """At most `at_most` windows, evenly spread over the tickers and, within each, over time.

    They are taken at equal distances from the windows in order of ticker, then origin: each ticker gets its share,
    rounded, and its own dates.

    Returns:
        Rows of `windows`, sorted by origin, then ticker; of one ticker the first and the last are among them.
    """
    ordered = windows.sort_values(["ticker", "origin"])
    if len(ordered) > at_most:
        ordered = ordered.iloc[np.linspace(0, len(ordered) - 1, at_most).round().astype(int)]
    return ordered.sort_values(["origin", "ticker"], ignore_index=True)
