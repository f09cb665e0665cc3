"""Splits by time: where train, validation and test begin, and which windows belong to which."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tickerforge.features.config import FeatureConfig

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Borders(NamedTuple):
    """Rows `[0, train_end)` are train, `[train_end, test_start)` validation, `[test_start, n_rows)` test."""

    train_end: int
    test_start: int
    n_rows: int


def split_borders(n_rows: int, config: FeatureConfig) -> Borders:
    """Cut rows in time order: first `train_fraction`, last `test_fraction` (both rounded down), validation between."""
    return Borders(int(n_rows * config.train_fraction), n_rows - int(n_rows * config.test_fraction), n_rows)


def assign_splits(origins: NDArray[np.int64], borders: Borders, *, horizon: int, embargo: int) -> NDArray[np.str_]:
    """Find the split of each window: the one that holds all its targets.

    The last `embargo` rows of train and validation are not used as targets. With `embargo >= context`, no target of one
    split is in the history of the next. Histories may reach back over a border: those prices are known by then.

    Args:
        origins: Row of each window's origin, shape `(n,)`.
        borders: From `split_borders`.
        horizon: Targets are the rows `origin + 1` to `origin + horizon`.
        embargo: Rows not used as targets; 0 reproduces the published windows.

    Returns:
        Shape `(n,)`; "train", "validation", "test", or "" for a window whose targets cross a border or fall into an
        embargo.
    """
    first, last = origins + 1, origins + horizon
    train = (first >= 0) & (last < borders.train_end - embargo)
    validation = (first >= borders.train_end) & (last < borders.test_start - embargo)
    test = (first >= borders.test_start) & (last < borders.n_rows)
    return np.select([train, validation, test], list(SPLITS), default="")


def sessions_needed(config: FeatureConfig, *, first_origin: int, present: int = 0) -> int:
    """Find the fewest sessions, more than `present`, with at least one window in each split.

    Args:
        config: Context, horizon and fractions.
        first_origin: Row of the earliest origin whose features are all defined.
        present: Sessions known to be too few.
    """
    given_up = config.horizon + config.embargo
    validation_fraction = 1 - config.train_fraction - config.test_fraction
    lower_bounds = (
        (first_origin + given_up) / config.train_fraction,
        (given_up - 2) / validation_fraction,
        config.horizon / config.test_fraction,
    )
    n_rows = max(present + 1, *(int(bound) for bound in lower_bounds))
    while True:
        train_end, test_start, _ = split_borders(n_rows, config)
        train = first_origin + given_up < train_end
        validation = train_end + given_up <= test_start
        test = test_start + config.horizon <= n_rows
        if train and validation and test:
            return n_rows
        n_rows += 1
