"""Free forecasts of windows: last value, drift and mean of the window, fitted on the train rows only."""

import numpy as np
import pandas as pd

from tickerforge.evaluation.core.contracts import DRIFT, FORECAST_COLUMNS, PERSISTENCE, WINDOW_MEAN, Floats
from tickerforge.evaluation.core.errors import TrainRowsError

_TOLERANCE = 1e-6


def baseline_forecasts(windows: pd.DataFrame, *, train: pd.DataFrame) -> pd.DataFrame:
    """Forecast every window by persistence, by drift and by the window's mean.

    * persistence: the close at the origin, repeated;
    * drift: a random walk with drift in price units, ``p + k·d`` for k sessions ahead, where d is the mean daily change
      in USD over the train rows, ``(last − first) / (n − 1)`` (Hyndman and Athanasopoulos, Forecasting: Principles and
      Practice, "drift method"); standardising prices leaves it unchanged;
    * window_mean: the mean of the window's closes, repeated.

    Args:
        windows: Windows frame of one ticker, usually without the train split.
        train: The bars of exactly the train split: `date`, and `adj_close` or an adjusted `close` in USD.

    Returns:
        Forecasts frame, three rows per window; baselines have no samples.

    Raises:
        TrainRowsError: `train` is not the train split of the windows.
    """
    history = np.stack([np.asarray(row, float) for row in windows["history"]])
    horizon = len(windows["target"].iloc[0])
    origin = history[:, -1:]
    ahead = np.arange(1, horizon + 1)
    medians: dict[str, Floats] = {
        PERSISTENCE: np.repeat(origin, horizon, axis=1),
        DRIFT: origin + ahead * _daily_drift(windows, train),
        WINDOW_MEAN: np.repeat(history.mean(axis=1, keepdims=True), horizon, axis=1),
    }
    frames = [
        windows[["ticker", "origin", "split"]].assign(
            model=model,
            median=pd.Series(median.tolist(), index=windows.index),
            samples=pd.Series([[] for _ in range(len(windows))], index=windows.index, dtype=object),
            n_samples=0,
            n_valid=0,
        )
        for model, median in medians.items()
    ]
    return pd.concat(frames, ignore_index=True)[list(FORECAST_COLUMNS)]


def _daily_drift(windows: pd.DataFrame, train: pd.DataFrame) -> float:
    ticker = windows["ticker"].iloc[0]
    column = "adj_close" if "adj_close" in train else "close"
    if column not in train or len(train) < 2:
        raise TrainRowsError(f"{ticker}: the drift needs at least two train rows with a column adj_close or close")
    prices = train[column].to_numpy(float)
    expected = float(windows["train_mean"].iloc[0])
    if not np.isclose(prices.mean(), expected, rtol=_TOLERANCE, atol=0):
        raise TrainRowsError(
            f"{ticker}: the {len(train)} rows given as train have a mean {column} of {prices.mean():.6f}, but the "
            f"windows were standardised with {expected:.6f}: pass exactly the rows of the train split"
        )
    return float((prices[-1] - prices[0]) / (len(prices) - 1))
