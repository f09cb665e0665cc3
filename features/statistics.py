"""Statistics of windows of closes: extremes and their timesteps, trend, autocorrelation; and the daily volatility."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float64]

LAGS = (1, 2, 3)


def extremes(windows: Array) -> dict[str, NDArray]:
    """Find the smallest, largest, mean and median value of each window, and the timesteps at which they occur.

    The median is the lower middle of the sorted values, so that it is one of them. Among equal values, minimum and
    maximum take the first timestep, and the median the one that a stable sort puts in the middle, as published.

    Args:
        windows: Shape `(n, k)`, any scale.

    Returns:
        `min max mean median` (float64, scale of the input) and `min_timestep max_timestep median_timestep` (int64, 0 is
        the oldest value), each of shape `(n,)`.
    """
    windows = np.ascontiguousarray(windows, dtype=np.float64)
    middle = np.argsort(windows, axis=1, kind="stable")[:, (windows.shape[1] - 1) // 2]
    return {
        "min": windows.min(axis=1),
        "min_timestep": windows.argmin(axis=1),
        "max": windows.max(axis=1),
        "max_timestep": windows.argmax(axis=1),
        "mean": windows.mean(axis=1),
        "median": windows[np.arange(len(windows)), middle],
        "median_timestep": middle,
    }


def trend(windows: Array) -> Array:
    """Compute the least-squares slope of each window against time, scale of the input per session.

    Args:
        windows: Shape `(n, k)`.

    Returns:
        Shape `(n,)`.
    """
    windows = np.ascontiguousarray(windows, dtype=np.float64)
    steps = np.arange(windows.shape[1]) - (windows.shape[1] - 1) / 2
    return np.asarray((windows * steps).sum(axis=1) / (steps**2).sum())


def autocorrelation(windows: Array, *, lag: int) -> Array:
    """Compute the autocorrelation of each window at one lag, Σ (x_t − x̄)(x_{t+lag} − x̄) / Σ (x_t − x̄)².

    Args:
        windows: Shape `(n, k)`.
        lag: Sessions, at least 1.

    Returns:
        Shape `(n,)`, within ±1; 0 if it is undefined: for a constant window, or one not longer than the lag.
    """
    windows = np.ascontiguousarray(windows, dtype=np.float64)
    result = np.zeros(len(windows))
    moves = windows.max(axis=1) > windows.min(axis=1)
    if lag >= windows.shape[1] or not moves.any():
        return result
    deviation = windows[moves] - windows[moves].mean(axis=1, keepdims=True)
    result[moves] = (deviation[:, :-lag] * deviation[:, lag:]).sum(axis=1) / (deviation**2).sum(axis=1)
    return result


def window_statistics(windows: Array) -> dict[str, NDArray]:
    """Compute every statistic that a prompt shows: `extremes`, `trend` and `lag_1..3`, each of shape `(n,)`.

    Args:
        windows: Closes, shape `(n, k)`, USD.
    """
    return {
        **extremes(windows),
        "trend": trend(windows),
        **{f"lag_{lag}": autocorrelation(windows, lag=lag) for lag in LAGS},
    }


def daily_sigma(close: Array, *, window: int, minimum: int) -> Array:
    """Compute the standard deviation (ddof 1) of the daily log returns of the `window` sessions up to each session.

    Args:
        close: Adjusted closes, shape `(n,)`, USD.
        window: Most returns in one estimate.
        minimum: Fewest returns in one estimate.

    Returns:
        Shape `(n,)`; NaN if there are fewer than `minimum` returns so far.
    """
    returns = np.diff(np.log(np.asarray(close, dtype=np.float64)))
    windows = sliding_window_view(np.concatenate([np.zeros(window), returns]), window)
    count = np.minimum(np.arange(len(windows)), window)
    seen = np.arange(window) >= window - count[:, None]
    mean = (windows * seen).sum(axis=1) / np.maximum(count, 1)
    squares = (((windows - mean[:, None]) * seen) ** 2).sum(axis=1)
    sigma = np.sqrt(squares / np.maximum(count - 1, 1))
    return np.where(count >= minimum, sigma, np.nan)


def range_variance(high: Array, low: Array, close: Array) -> Array:
    """Compute the variance of each session from its range: ``ln(H / L)² / (4 ln 2)`` (Parkinson 1980, J. Business 53).

    H and L include the close of the session before, so that a move overnight counts. If a file has no range (open, high
    and low equal the close), this is the squared return times a constant. Compare it with returns only up to a factor.

    Args:
        high: Adjusted highs, shape `(n,)`, USD.
        low: Adjusted lows.
        close: Adjusted closes.

    Returns:
        Shape `(n,)`, squared log return; NaN for the first session.
    """
    before = close[:-1]
    top = np.maximum(np.maximum(high, close)[1:], before)
    bottom = np.minimum(np.minimum(low, close)[1:], before)
    return np.concatenate([[np.nan], np.square(np.log(top / bottom)) / (4 * np.log(2))])


def trailing_mean(values: Array, *, length: int) -> Array:
    """Compute the mean of the last `length` values up to each one; NaNs and missing earlier values are left out.

    Each mean uses its own values only, so it does not depend on the rest of the series, to the last bit.

    Args:
        values: Shape `(n,)`.
        length: Most values in one mean.

    Returns:
        Shape `(n,)`; NaN without any value.
    """
    padded = np.concatenate([np.full(length - 1, np.nan), values])
    windows = sliding_window_view(padded, length)
    known = np.isfinite(windows)
    count = known.sum(axis=1)
    total = np.where(known, windows, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
