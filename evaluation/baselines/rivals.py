"""Rivals for the protocol's test windows: last value, drift, common drift, ridge regression, ETS, Theta, AutoARIMA."""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view

from tickerforge.evaluation.baselines.walks import fit_walks
from tickerforge.evaluation.core.contracts import DRIFT, RANDOM_WALK, Floats, Ints
from tickerforge.evaluation.core.errors import BaselineUnavailable, EvaluationError
from tickerforge.evaluation.core.protocol import HORIZON, Protocol, Series, common_border
from tickerforge.evaluation.core.recalibration import PERCENTILES
from tickerforge.features.statistics import daily_sigma, trailing_mean
from tickerforge.features.windows import VARIANCE_SESSIONS

AHEAD = np.arange(1, HORIZON + 1)
MIN_RETURNS = 20

DIFFERENCES = 10
PENALTIES = tuple(10.0**power for power in range(1, 8))
SIGMA_WINDOW, SIGMA_MIN = 60, 20

GARCH = "garch"
CLASSICAL = (GARCH, "ets", "theta", "arima")
PATHS, _SEED = 200, 0
"""Simulated paths per window of the GARCH model."""
_BAND = 80


def persistence(protocol: Protocol) -> Floats:
    """Repeat the price at the origin: (n, HORIZON) in USD."""
    return np.repeat(protocol.origin_price[:, None], HORIZON, axis=1)


def drift(protocol: Protocol) -> Floats:
    """Forecast a random walk with each ticker's own drift: ``p + k·d``, (n, HORIZON) in USD.

    d is the mean daily change over the ticker's train rows, ``(last - first) / (rows - 1)`` (Hyndman and
    Athanasopoulos, Forecasting: Principles and Practice, "drift method").
    """
    daily = np.array([(each.train[-1] - each.train[0]) / (len(each.train) - 1) for each in protocol.series])
    return protocol.origin_price[:, None] + daily[protocol.place][:, None] * AHEAD


def common_drift(protocol: Protocol) -> Floats:
    """Forecast a random walk with a drift shrunk towards that of all tickers: ``p·exp(k·s·σ)``, (n, HORIZON) in USD.

    A ticker's mean daily log return over its standard deviation σ is known only roughly: over n train sessions its
    standard error is ``1/sqrt(n)``. So the estimates x of all tickers are shrunk towards their mean by the share of
    their variance that chance alone explains: ``s = mean + c·(x - mean)`` with ``c = max(0, 1 - mean(1/n) / var(x))``
    (empirical Bayes; Efron and Morris 1975, JASA 70). Common moves of all tickers stay in the mean.

    Only returns up to the earliest end of a train split count; a ticker with fewer than `MIN_RETURNS` of them gets the
    mean. σ is that of the ticker's own train rows.
    """
    border = common_border(protocol.series)
    found = [log_returns(each)[each.dates[1 : each.train_end] <= border] for each in protocol.series]
    ratios = np.array([_ratio(returns) for returns in found])
    known = ~np.isnan(ratios)
    if not known.any():
        return persistence(protocol)
    mean = ratios[known].mean()
    chance = np.mean([1 / len(returns) for returns in found if len(returns) >= MIN_RETURNS])
    spread = ratios[known].var(ddof=1) if known.sum() > 1 else 0.0
    kept = max(0.0, 1 - chance / spread) if spread else 0.0
    shrunk = np.where(known, mean + kept * (ratios - mean), mean)
    daily = shrunk * np.array([log_returns(each).std() for each in protocol.series])
    return protocol.origin_price[:, None] * np.exp(daily[protocol.place][:, None] * AHEAD)


def log_returns(series: Series) -> Floats:
    """Return daily log returns within the train rows, shape (train_end - 1,)."""
    return np.diff(np.log(series.train))


def ridge(protocol: Protocol) -> Floats:
    """Forecast with one ridge regression for all tickers: (n, HORIZON) in USD.

    It maps the last `DIFFERENCES` daily log returns, each divided by the standard deviation σ of the 60 up to the
    origin, to the ten log returns from the origin, in σ (scikit-learn's `Ridge`, all distances at once; its intercept
    is a common drift). It is fitted on the windows whose targets lie within the train rows. Its penalty is the one of
    `PENALTIES` with the smallest squared error on the validation windows. For a ticker with a shorter history neither
    set reaches beyond the end of the train and the validation rows of the earliest ticker.

    A ticker without a σ at an origin, because its prices have not moved, gets persistence.
    """
    from sklearn.linear_model import Ridge

    fitted = _sample(protocol.series, split="train")
    chosen = _sample(protocol.series, split="validation")
    models = [Ridge(alpha=penalty).fit(*fitted) for penalty in PENALTIES]
    if len(chosen[0]):
        losses = [float(np.mean(np.square(model.predict(chosen[0]) - chosen[1]))) for model in models]
    else:
        losses = [1 / penalty for penalty in PENALTIES]
    model = models[int(np.argmin(losses))]
    tests = [_inputs(each, each.test_origins) for each in protocol.series]
    shown, sigma = (np.concatenate(part) for part in zip(*tests, strict=True))
    usable = np.isfinite(shown).all(axis=1)
    moves = np.zeros((len(shown), HORIZON))
    moves[usable] = model.predict(shown[usable]) * sigma[usable, None]
    return np.asarray(protocol.origin_price[:, None] * np.exp(moves))


def classical(
    protocol: Protocol, name: str, *, on_ticker: Callable[[str], None] = lambda ticker: None
) -> tuple[Floats, Floats]:
    """Forecast with GARCH, ETS, Theta or AutoARIMA, one model per ticker.

    The model is fitted on the ticker's train prices. Each forecast applies it, unchanged, to all prices up to the
    origin. `garch` is arch's GJR-GARCH(1,1,1) with Student-t shocks (Glosten, Jagannathan and Runkle 1993), simulated;
    the others are statsforecast's `AutoETS`, `AutoTheta` and `AutoARIMA` without a season on log prices, with the
    normal distribution of their own intervals.

    Args:
        protocol: The windows.
        name: One of `CLASSICAL`.
        on_ticker: Called with each ticker before its turn; a ticker takes seconds.

    Returns:
        The median forecast (n, HORIZON) in USD, and the distribution (n, members, HORIZON) as log returns from the
        origin: `PATHS` independent paths of `garch`, percentiles of the others.

    Raises:
        BaselineUnavailable: statsforecast is not installed.
        EvaluationError: There is no such forecaster.
    """
    check_classical(name)
    found = []
    for series in protocol.series:
        on_ticker(series.ticker)
        found.append(_simulated(series) if name == GARCH else _rolled(series, _classical_model(name)))
    moves = np.concatenate(found)
    return protocol.origin_price[:, None] * np.exp(np.median(moves, axis=1)), moves


def walks(protocol: Protocol) -> dict[str, tuple[Floats, Floats]]:
    """Forecast distributions: `random_walk`, `random_walk_har` and `drift` with the bands of the random walk.

    The walks are fitted on the train windows of all tickers together (`evaluation.baselines.walks`), whose targets end
    no later than the earliest end of a train split. A ticker without a σ at an origin gets that of its train rows.

    Returns:
        By name the forecast (n, HORIZON) in USD, and the paths (n, MEMBERS, HORIZON) as log returns from the origin.
    """
    border = common_border(protocol.series)
    train = pd.concat([_windows(each, _train_origins(each, border)) for each in protocol.series], ignore_index=True)
    fitted = fit_walks(train[train["sigma"] > 0].assign(split="train"))
    test = pd.concat([_windows(each, each.test_origins) for each in protocol.series], ignore_index=True)
    found = {
        name: (protocol.origin_price[:, None] * np.exp(walk.log_medians(test)), walk.log_paths(test))
        for name, walk in fitted.items()
    }
    middle = drift(protocol)
    move = np.log(middle / protocol.origin_price[:, None])
    found[DRIFT] = middle, fitted[RANDOM_WALK].log_paths(test, centred=True) + move[:, None]
    return found


def _train_origins(series: Series, border: np.datetime64) -> Ints:
    """Return the rows of the origins of train windows with a σ, whose targets end by the border."""
    origins = np.arange(SIGMA_MIN, series.train_end - HORIZON)
    return origins[series.dates[origins + HORIZON] <= border]


def _windows(series: Series, origins: Ints) -> pd.DataFrame:
    """Return the columns of a windows frame from which walks are fitted and made."""
    sigma = daily_sigma(series.prices, window=SIGMA_WINDOW, minimum=SIGMA_MIN)
    usual = log_returns(series).std()
    variance = series.daily_variance
    past = np.stack([trailing_mean(variance, length=length) for length in VARIANCE_SESSIONS], axis=1)
    ahead = origins[:, None] + np.arange(1, HORIZON + 1)
    return pd.DataFrame(
        {
            "ticker": series.ticker,
            "sigma": np.where(sigma > 0, sigma, usual)[origins],
            "history": list(series.prices[origins][:, None]),
            "target": list(series.prices[ahead]),
            "past_variance": list(past[origins]),
            "target_variance": list(variance[ahead]),
        }
    )


def check_classical(name: str) -> None:
    """Check that `classical` can make this forecaster; raises the same errors."""
    if name not in CLASSICAL:
        raise EvaluationError(f"there is no classical forecaster {name!r}: there are {', '.join(CLASSICAL)}")
    if name != GARCH and importlib.util.find_spec("statsforecast") is None:
        raise BaselineUnavailable(f"the baseline {name} needs statsforecast: pip install 'tickerforge[classical]'")


def _ratio(returns: Floats) -> float:
    if len(returns) < MIN_RETURNS or not returns.std():
        return float("nan")
    return float(returns.mean() / returns.std())


def _inputs(series: Series, origins: Ints) -> tuple[Floats, Floats]:
    """Return differences (k, DIFFERENCES) in σ and σ (k,) at these rows; NaN if they are undefined."""
    sigma = daily_sigma(series.prices, window=SIGMA_WINDOW, minimum=SIGMA_MIN)[origins]
    sigma = np.where(sigma > 0, sigma, np.nan)
    moves = np.concatenate([np.full(DIFFERENCES, np.nan), np.diff(np.log(series.prices))])
    return sliding_window_view(moves, DIFFERENCES)[origins] / sigma[:, None], sigma


def _sample(series: tuple[Series, ...], *, split: str) -> tuple[Floats, Floats]:
    """Return inputs (k, DIFFERENCES) and actual moves (k, HORIZON), both in σ, of all tickers' windows of one split."""
    if split == "train":
        border = common_border(series)
    else:
        border = min(np.datetime64(each.dates[each.test_start - 1], "D") for each in series)
    inputs, targets = [], []
    for each in series:
        first, end = (0, each.train_end) if split == "train" else (each.train_end, each.test_start)
        origins = np.arange(max(first - 1, 0), end - HORIZON)
        origins = origins[each.dates[origins + HORIZON] <= border]
        shown, sigma = _inputs(each, origins)
        moves = np.log(each.after(origins) / each.prices[origins, None]) / sigma[:, None]
        usable = np.isfinite(shown).all(axis=1)
        inputs.append(shown[usable])
        targets.append(moves[usable])
    return np.concatenate(inputs), np.concatenate(targets)


def _classical_model(name: str) -> Any:
    from statsforecast.models import AutoARIMA, AutoETS, AutoTheta

    models = {"ets": AutoETS, "theta": AutoTheta, "arima": AutoARIMA}
    return models[name](season_length=1)


def _rolled(series: Series, model: Any) -> Floats:
    """Return the percentiles of the log returns of all test windows of one ticker, shape (k, MEMBERS, HORIZON)."""
    from scipy.stats import norm

    logs = np.log(series.prices)
    fitted = model.fit(logs[: series.train_end])
    made = [fitted.forward(y=logs[: row + 1], h=HORIZON, level=[_BAND]) for row in series.test_origins]
    mean, low, high = (
        np.array([each[name] for each in made], dtype=float) for name in ("mean", f"lo-{_BAND}", f"hi-{_BAND}")
    )
    spread = (high - low) / (2 * norm.ppf(0.5 + _BAND / 200))
    middle = mean - logs[series.test_origins, None]
    return np.asarray(middle[:, None] + spread[:, None] * norm.ppf(PERCENTILES)[:, None])


def _simulated(series: Series) -> Floats:
    """Return simulated log returns of all test windows of one ticker, shape (k, PATHS, HORIZON)."""
    from arch import arch_model

    # In percent, as the optimiser needs numbers near 1.
    returns = 100 * np.diff(np.log(series.prices))
    train = returns[: series.train_end - 1]
    fitted = arch_model(train, mean="Constant", vol="GARCH", p=1, o=1, q=1, dist="t").fit(
        disp="off", show_warning=False
    )
    mean, omega, shock, loss, memory, tail = fitted.params.to_numpy(float)

    def after(variance: Floats, miss: Floats) -> Floats:
        return np.asarray(omega + (shock + loss * (miss < 0)) * miss**2 + memory * variance)

    known = np.full(len(series.prices), train.var())
    for row, miss in enumerate(returns - mean, start=1):
        known[row] = after(known[row - 1], miss)
    rng = np.random.default_rng(_SEED)
    variance = np.repeat(known[series.test_origins][:, None], PATHS, axis=1)
    moves = np.empty((*variance.shape, HORIZON))
    for step in range(HORIZON):
        miss = np.sqrt(variance * (tail - 2) / tail) * rng.standard_t(tail, variance.shape)
        moves[:, :, step] = mean + miss
        variance = after(variance, miss)
    return np.asarray(moves.cumsum(axis=2) / 100)
