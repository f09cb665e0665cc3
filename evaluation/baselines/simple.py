"""Free forecasts of windows: points (last value, mean of the window) and distributions, fitted on train rows only."""

import numpy as np
import pandas as pd

from tickerforge.evaluation.baselines.walks import fit_walks
from tickerforge.evaluation.core.contracts import (
    DRIFT,
    FORECAST_COLUMNS,
    PERSISTENCE,
    RANDOM_WALK,
    WINDOW_MEAN,
    Floats,
)
from tickerforge.evaluation.core.errors import TrainRowsError
from tickerforge.evaluation.core.frames import matrix

_TOLERANCE = 1e-6


def baseline_forecasts(asked: pd.DataFrame, *, windows: pd.DataFrame, train: pd.DataFrame) -> pd.DataFrame:
    """Forecast every window by the free forecasters.

    * persistence: the close at the origin, repeated, without a distribution;
    * window_mean: the mean of the window's closes, repeated, without a distribution;
    * random_walk: the percentiles of the train windows' moves in σ60·√k, times σ60·√k, as paths;
    * random_walk_har: the same with the volatility that a HAR regression expects (`evaluation.baselines.walks`);
    * drift: a random walk with drift in price units, ``p + k·d`` for k sessions ahead, where d is the mean daily change
      in USD over the train rows, ``(last − first) / (n − 1)`` (Hyndman and Athanasopoulos, Forecasting: Principles and
      Practice, "drift method"), as the median of the paths of random_walk.

    Args:
        asked: Windows frame to forecast, usually without the train split; of one ticker, or of a pool.
        windows: Windows frame with the train split of the same tickers; a pool's distributions are fitted together.
        train: The bars of exactly the train split: `date`, and `adj_close` or an adjusted `close` in USD; of a pool
            also `ticker`.

    Returns:
        Forecasts frame, one row per forecaster and window; `samples` are arrays (members, h) in USD.

    Raises:
        TrainRowsError: `train` is not the train split of the windows, or there are no train windows.
    """
    history = matrix(asked["history"])
    origin, horizon = history[:, -1:], len(windows["target"].iloc[0])
    daily = _daily_drifts(asked, train)
    medians: dict[str, Floats] = {
        PERSISTENCE: np.repeat(origin, horizon, axis=1),
        WINDOW_MEAN: np.repeat(history.mean(axis=1, keepdims=True), horizon, axis=1),
        DRIFT: origin + np.arange(1, horizon + 1) * daily[:, None],
    }
    walks = fit_walks(windows)
    paths = {name: origin[:, None] * np.exp(walk.log_paths(asked)) for name, walk in walks.items()}
    paths[DRIFT] = medians[DRIFT][:, None] * np.exp(walks[RANDOM_WALK].log_paths(asked, centred=True))
    medians |= {name: origin * np.exp(walk.log_medians(asked)) for name, walk in walks.items()}
    frames = [_frame(asked, model, median, paths.get(model)) for model, median in medians.items()]
    return pd.concat(frames, ignore_index=True)[list(FORECAST_COLUMNS)]


def _frame(asked: pd.DataFrame, model: str, median: Floats, paths: Floats | None) -> pd.DataFrame:
    """Return one forecaster's rows; `median` (n, h) and `paths` (n, m, h) in USD."""
    members = 0 if paths is None else paths.shape[1]
    samples = [[] for _ in range(len(asked))] if paths is None else list(paths)
    return asked[["ticker", "origin", "split"]].assign(
        model=model,
        median=pd.Series(list(median), index=asked.index, dtype=object),
        samples=pd.Series(samples, index=asked.index, dtype=object),
        n_samples=members,
        n_valid=members,
    )


def _daily_drifts(asked: pd.DataFrame, train: pd.DataFrame) -> Floats:
    """Return the mean daily change of each window's ticker, shape (n,), in USD."""
    means = asked.drop_duplicates("ticker").set_index("ticker")["train_mean"]
    drifts = {}
    for ticker, mean in means.items():
        rows = train[train["ticker"] == ticker] if "ticker" in train else train
        drifts[ticker] = _daily_drift(str(ticker), rows, expected=float(mean))
    return np.array([drifts[ticker] for ticker in asked["ticker"]])


def _daily_drift(ticker: str, train: pd.DataFrame, *, expected: float) -> float:
    column = "adj_close" if "adj_close" in train else "close"
    if column not in train or len(train) < 2:
        raise TrainRowsError(f"{ticker}: the drift needs at least two train rows with a column adj_close or close")
    prices = train[column].to_numpy(float)
    if not np.isclose(prices.mean(), expected, rtol=_TOLERANCE, atol=0):
        raise TrainRowsError(
            f"{ticker}: the {len(train)} rows given as train have a mean {column} of {prices.mean():.6f}, but the "
            f"windows were standardised with {expected:.6f}: pass exactly the rows of the train split"
        )
    return float((prices[-1] - prices[0]) / (len(prices) - 1))
