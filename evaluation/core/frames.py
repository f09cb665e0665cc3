"""Columns of a windows frame as arrays."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tickerforge.features.windows import SIGMA_60

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def matrix(values: pd.Series) -> Floats:
    """Convert a column of equally long lists to one array (n, k)."""
    return np.stack([np.asarray(value, dtype=float) for value in values])


def log_moves(windows: pd.DataFrame) -> Floats:
    """Return the log returns from the origin to each target session, shape (n, h)."""
    return np.asarray(np.log(matrix(windows["target"]) / matrix(windows["history"])[:, -1:]))


def scoring_sigma(windows: pd.DataFrame) -> Floats:
    """Return σ60 at each origin, the unit of all scores, shape (n,), whichever volatility the model units have."""
    return windows[SIGMA_60 if SIGMA_60 in windows else "sigma"].to_numpy(float)


def past_variances(windows: pd.DataFrame) -> Floats:
    """Return the mean daily variance over the last 1, 5 and 22 sessions, shape (n, 3), squared log returns.

    They are ranges (`features.statistics.range_variance`). Windows of published files have no such column: squared
    returns of the history take its place, the whole of it for a month.
    """
    if "past_variance" in windows:
        return matrix(windows["past_variance"])
    squares = np.square(np.diff(np.log(matrix(windows["history"])), axis=1))
    return np.stack([squares[:, -1], squares[:, -5:].mean(axis=1), squares.mean(axis=1)], axis=1)


def realised_variances(windows: pd.DataFrame) -> Floats:
    """Return the range variance of each target session, shape (n, h); without ranges, squared returns."""
    return matrix(windows["target_variance"]) if "target_variance" in windows else squared_returns(windows)


def squared_returns(windows: pd.DataFrame) -> Floats:
    """Return the squared log return of each target session, shape (n, h)."""
    path = np.concatenate([matrix(windows["history"])[:, -1:], matrix(windows["target"])], axis=1)
    return np.square(np.diff(np.log(path), axis=1))
