"""Markets whose answer is known: the best attainable error, and how near a forecaster comes to it."""

from typing import NamedTuple, cast

import numpy as np
import pandas as pd

from tickerforge.evaluation.core.contracts import Floats, ScoredSplit
from tickerforge.evaluation.core.frames import matrix
from tickerforge.evaluation.core.panels import Answers, Truth, answers_of, session_calendar, session_dates, truth_of
from tickerforge.evaluation.core.recalibration import MEMBERS, PERCENTILES
from tickerforge.evaluation.metrics.accuracy import crps, scaled_errors
from tickerforge.evaluation.metrics.scores import score
from tickerforge.features.config import FrozenModel, SyntheticConfig
from tickerforge.features.synthetic import GARCH, STAY, market, possible_moves, returns_ahead

_ONE_SPLIT: ScoredSplit = "test"
RIDGE = 10.0
BOOSTED_ITERATIONS = 150
KNOWN, KNOWN_DRAWS = "known", 4000
"""The forecaster that knows the process, and the paths per window from which its percentiles are computed."""
SHOWN = "shown"
"""The forecaster that sees what prompts show, fitted on 100,000 of them."""


class Sample(NamedTuple):
    """Windows of a known market; n windows, h sessions ahead.

    `shown` (n, k) are all numbers of a prompt; `targets` (n, h) are the actual moves, and `expected` (n, h) the
    expected ones given the process, both in model units.
    """

    shown: Floats
    targets: Floats
    expected: Floats


class PromptOptimum(NamedTuple):
    """What can be reached from the numbers of prompts.

    `ratios` are least mean squared errors over persistence's, one per sample, `predictor` is the name of the predictor,
    and `percentiles` (n, 99, h) are a distribution for each window of the last sample, in model units.
    """

    ratios: list[float]
    predictor: str
    percentiles: Floats


def process_optimum(process: str, *, phi: float, horizon: int) -> float:
    """Return the least mean squared error over persistence's if the process, its history and its regime are known.

    The conditional mean is the best forecast. With x the log price, r = x_t - x_{t-1} and shocks of variance 1, the
    mean squared error of persistence at session h less that of the conditional mean is the variance of the latter:

    * mean-reverting, x_t = φ x_{t-1} + ε: ``(1 - φ^h)² / (1 - φ²)`` of ``2 (1 - φ^h) / (1 - φ²)``.
    * momentum, r_t = φ r_{t-1} + ε: ``(φ (1 - φ^h) / (1 - φ))² / (1 - φ²)`` of ``Σ_jk φ^|j-k| / (1 - φ²)``.
    * regime switch: the same with products of coefficients along the Markov chain instead of powers of φ.
    * random walk, also with GARCH volatility: the mean cannot be forecast, 1.

    Args:
        process: As in `features.synthetic.log_prices`.
        phi: Coefficient of the process.
        horizon: Sessions ahead; errors are averaged over 1 ... horizon.

    Returns:
        A ratio; 1 if nothing can be forecast.

    Raises:
        ValueError: No optimum is known for the process.
    """
    if process in ("random_walk", *GARCH):
        return 1.0
    ahead = np.arange(1, horizon + 1)
    if process == "mean_reverting":
        naive, known = 2 * (1 - phi**ahead), (1 - phi**ahead) ** 2
        return float(1 - known.sum() / naive.sum())
    if process not in ("momentum", "regime_switch"):
        raise ValueError(f"no optimum is known for the process {process!r}")
    stay = STAY if process == "regime_switch" else 1.0
    chain = np.array([[stay, 1 - stay], [1 - stay, stay]])
    coefficients = np.array([phi, 0.0])
    start = np.array([0.5, 0.5]) if process == "regime_switch" else np.array([1.0, 0.0])
    # E[r² | regime] solves v = 1 + φ² · (v of the session before, weighted by the chain, which is symmetric).
    variance = np.linalg.solve(np.eye(2) - (coefficients**2)[:, None] * chain, np.ones(2))
    expected = returns_ahead(phi, stay=stay, horizon=horizon)
    covariance = expected @ (start * variance)
    apart = np.abs(np.subtract.outer(ahead, ahead))
    naive = np.array([covariance[apart[:h, :h]].sum() for h in ahead])
    known = np.array([(expected[1 : h + 1].sum(axis=0) ** 2) @ (start * variance) for h in ahead])
    return float(1 - known.sum() / naive.sum())


def expected_gains(forecast: Floats, *, expected: Floats) -> Floats:
    """Return the expected squared error of a forecast minus that of forecasting no move, given the process.

    With y the move, m its expectation given everything known at the origin, and f a forecast:
    ``E[(y - f)² - y²] = (m - f)² - m²`` (Rao-Blackwell). This removes the chance in y, which is most of the variance of
    a squared error.

    Args:
        forecast: Moves, shape `(n, h)`.
        expected: m, shape `(n, h)`, in the same unit.

    Returns:
        Shape `(n, h)`; negative is better than no move.
    """
    return np.asarray((expected - forecast) ** 2 - expected**2)


def prompt_optimum(fitted: Sample, *scored: Sample) -> PromptOptimum:
    """Return the least mean squared error over persistence's that can be reached from the prompt's numbers: MSE*.

    A ridge regression, and gradient-boosted trees on its residuals (scikit-learn), are fitted on one sample of windows.
    The predictor that is better on the first of the other samples counts. For the distribution, other trees predict the
    size of its errors; the percentiles are those of its errors on that first sample, divided by their predicted sizes.

    Args:
        fitted: Windows to fit on.
        scored: Samples of other windows; their errors are taken in expectation (`expected_gains`).
    """
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    shown, targets, _ = fitted
    linear = make_pipeline(StandardScaler(), Ridge(RIDGE)).fit(shown, targets)
    ridge = [linear.predict(each) for each, _, _ in scored]
    rest = targets - linear.predict(shown)
    fitted_trees = np.empty_like(rest)
    trees = [np.empty_like(each) for each in ridge]
    for session in range(targets.shape[1]):
        boosted = HistGradientBoostingRegressor(max_iter=BOOSTED_ITERATIONS, learning_rate=0.05, random_state=0)
        fitted_trees[:, session] = boosted.fit(shown, rest[:, session]).predict(shown)
        for found, (each, _, _) in zip(trees, scored, strict=True):
            found[:, session] = boosted.predict(each)
    candidates = {"ridge": ridge, "ridge and trees": [a + b for a, b in zip(ridge, trees, strict=True)]}
    ratios = {
        name: [
            1 + float(expected_gains(forecast, expected=each.expected).mean() / np.mean(each.targets**2))
            for forecast, each in zip(forecasts, scored, strict=True)
        ]
        for name, forecasts in candidates.items()
    }
    best = min(ratios, key=lambda name: ratios[name][0])
    apart = np.abs((rest if best == "ridge" else rest - fitted_trees) / np.sqrt(np.arange(1, targets.shape[1] + 1)))
    sizes = HistGradientBoostingRegressor(max_iter=BOOSTED_ITERATIONS, learning_rate=0.05, random_state=0)
    sizes.fit(shown, np.log(apart.mean(axis=1) + 1e-6))
    size = [np.exp(sizes.predict(each.shown))[:, None] for each in (scored[0], scored[-1])]
    errors = np.quantile((scored[0].targets - candidates[best][0]) / size[0], PERCENTILES, axis=0, method="weibull")
    percentiles = candidates[best][-1][:, None] + size[1][:, None] * errors
    return PromptOptimum(ratios[best], best, percentiles)


def known_forecasts(windows: pd.DataFrame, process: SyntheticConfig, *, seed: int) -> pd.DataFrame:
    """Forecast windows of a market by its process, history, regime and variance: no forecast can be better.

    Args:
        windows: Windows frame of `features.synthetic.market(process)`.
        process: The market.
        seed: Seed of the draws.

    Returns:
        Forecasts frame of the model `KNOWN`; its samples are the percentiles of `KNOWN_DRAWS` paths at each session.
    """
    horizon = len(windows["target"].iloc[0])
    rows = np.searchsorted(session_dates(market(process)["date"]), session_dates(windows["origin"]))
    rng = np.random.default_rng(seed)
    moves = possible_moves(process, rows.astype(np.int64), horizon=horizon, count=KNOWN_DRAWS, rng=rng)
    percentiles = np.quantile(moves, PERCENTILES, axis=1, method="weibull").swapaxes(0, 1)
    return forecasts_of_percentiles(windows, percentiles, model=KNOWN)


def forecasts_of_percentiles(windows: pd.DataFrame, percentiles: Floats, *, model: str) -> pd.DataFrame:
    """Make a forecasts frame of the percentiles 1 to 99 of log returns from the origin, shape (n, 99, h)."""
    prices = matrix(windows["history"])[:, -1, None, None] * np.exp(percentiles)
    return windows[["ticker", "origin", "split"]].assign(
        model=model,
        median=pd.Series(list(np.median(prices, axis=1)), index=windows.index, dtype=object),
        samples=pd.Series(list(prices), index=windows.index, dtype=object),
        n_samples=MEMBERS,
        n_valid=MEMBERS,
    )


class Attained(FrozenModel):
    """One model on one market; errors are ratios to persistence's on the same windows, 1 is doing nothing.

    `mse` is the expected mean squared error of the medians, in log returns over σ (`expected_gains`); `mse_error` its
    standard error over windows that do not overlap; `realised` the error against the actual moves; `single` that of
    single answers; `crps` the continuous ranked probability score; `coverage` that of the 80 % band; `valid_rate` the
    share of answers that parse.
    """

    model: str
    windows: int
    mse: float
    mse_error: float
    realised: float
    single: float
    crps: float
    coverage: float
    valid_rate: float


def attained(windows: pd.DataFrame, forecasts: pd.DataFrame, *, model: str, expected: Floats) -> Attained:
    """Score one model on fresh windows of a market.

    Args:
        windows: Windows frame of one ticker in time order; origins are at least a horizon apart, so that targets do not
            overlap.
        forecasts: Forecasts frame with the model's answers to all of them.
        model: Name of the model in `forecasts`.
        expected: Expected log returns from the origins given the process, shape `(n_windows, horizon)`.
    """
    rows = windows.assign(split=_ONE_SPLIT)
    truth = truth_of(rows, split=_ONE_SPLIT, calendar=session_calendar(rows))
    answers = answers_of(forecasts.assign(split=_ONE_SPLIT), model=model, truth=truth)
    naive = np.repeat(truth.origin_price[:, None], truth.horizon, axis=1)
    losses = scaled_errors(truth.target, answers.median, sigma=truth.sigma).mean(axis=1)
    reference = scaled_errors(truth.target, naive, sigma=truth.sigma).mean(axis=1)
    unit = truth.sigma[:, None]
    forecast = np.log(answers.median / truth.origin_price[:, None]) / unit
    gains = expected_gains(forecast, expected=expected / unit).mean(axis=1)
    figures, _ = score(truth, answers, interval=0.8)
    moved = np.log(truth.target / naive) / unit
    return Attained(
        model=model,
        windows=len(losses),
        mse=float(1 + gains.mean() / reference.mean()),
        mse_error=float(np.std(gains, ddof=1) / np.sqrt(len(gains)) / reference.mean()),
        realised=float(losses.mean() / reference.mean()),
        single=_single(truth, answers) / float(reference.mean()),
        crps=float(cast(float, figures["crps"]) / crps(np.zeros_like(moved)[:, None], moved).mean()),
        coverage=float(figures["coverage"] or 0.0),
        valid_rate=float(figures["valid_rate"] or 0.0),
    )


def _single(truth: Truth, answers: Answers) -> float:
    """Return the mean scaled squared error of single answers; a window without a valid one counts as persistence."""
    losses: Floats = np.empty(len(truth.target))
    for rows, samples in answers.ensembles():
        for place in range(samples.shape[1]):
            errors = scaled_errors(truth.target[rows], samples[:, place], sigma=truth.sigma[rows]).mean(axis=1)
            losses[rows] = errors if place == 0 else losses[rows] + errors
        losses[rows] /= samples.shape[1]
    return float(losses.mean())


def captured_share(error: float, *, optimum: float, free: float = 1.0) -> float:
    """Return ``(free - error) / (free - optimum)``, all ratios to persistence's error; NaN if nothing can be captured.

    Args:
        error: That of a model.
        optimum: The best attainable one.
        free: That of doing nothing: 1 for persistence's squared error.
    """
    return (free - error) / (free - optimum) if optimum < free else float("nan")
