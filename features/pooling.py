"""Windows of many tickers as one set: common borders in calendar time, and selections with a fair share per ticker."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from tickerforge.features.splits import Split

POOL = "ALL"
"""The name of all tickers together, used like a ticker's; no ticker may have it."""


class Border(NamedTuple):
    """The last session of a split's targets, the ticker that sets it, and the number of windows dropped for it."""

    split: Split
    last: pd.Timestamp
    ticker: str
    dropped: int


def pool_windows(frames: Sequence[pd.DataFrame]) -> tuple[pd.DataFrame, tuple[Border, ...]]:
    """Put the windows of several tickers together so that no split of one ticker knows the future of another's.

    Each ticker was split by its own rows, and markets move together: a train target of a ticker with a shorter history
    may lie later than a test origin of one with a longer history. So the tickers share the earliest border. A train
    window stays only if its targets end no later than the train targets of every ticker, and a validation window only
    if they end no later than the validation targets of every ticker. Since each ticker's own splits are an embargo
    apart, all train targets then lie before every validation origin, and all validation targets before every test
    origin.

    Args:
        frames: Windows frames, one per ticker, as `features.windows.build_windows` returns them.

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
    """Select at most `at_most` windows, evenly spread over the tickers and, within each, over time.

    The windows are ordered by ticker, then origin, and taken at equal distances: each ticker gets its share, rounded,
    and its own dates.

    Returns:
        Rows of `windows`, sorted by origin, then ticker. The first and the last window of that order are among them.
    """
    ordered = windows.sort_values(["ticker", "origin"])
    if len(ordered) > at_most:
        ordered = ordered.iloc[np.linspace(0, len(ordered) - 1, at_most).round().astype(int)]
    return ordered.sort_values(["origin", "ticker"], ignore_index=True)
