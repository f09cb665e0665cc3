"""How near a forecaster comes to the best attainable on a market whose answer is known."""

from typing import cast

import numpy as np
import pandas as pd

from tickerforge.evaluation.bench.optima import expected_gains
from tickerforge.evaluation.core.contracts import Floats, ScoredSplit
from tickerforge.evaluation.core.panels import Answers, Truth, answers_of, session_calendar, truth_of
from tickerforge.evaluation.metrics.accuracy import crps, scaled_errors
from tickerforge.evaluation.metrics.scores import score
from tickerforge.features.config import FrozenModel

ONE_SPLIT: ScoredSplit = "test"


class Attained(FrozenModel):
    """One model on one market; ratios are to persistence's on the same windows, 1 is doing nothing.

    `mse` is the mean squared error of the medians, in log returns over σ and in expectation over what the market then
    does (`evaluation.bench.optima.expected_gains`); `mse_error` its standard error over windows that do not overlap;
    `realised` the error against what did come; `single` that of single answers; `crps` the continuous ranked
    probability score; `coverage` of the band of nominal 80 %; `valid_rate` the share of answers that parse.
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
        windows: Windows frame of one ticker in time order, whose origins lie a horizon or more apart, so that targets
            do not overlap.
        forecasts: Forecasts frame with that model's answers to all of them.
        model: The name its forecasts go by.
        expected: Log returns from the origins that who knows the process expects, shape `(n_windows, horizon)`.
    """
    rows = windows.assign(split=ONE_SPLIT)
    truth = truth_of(rows, split=ONE_SPLIT, calendar=session_calendar(rows))
    answers = answers_of(forecasts.assign(split=ONE_SPLIT), model=model, truth=truth)
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
    """Mean scaled squared error of single answers; a window without a valid one counts as persistence."""
    losses: Floats = np.empty(len(truth.target))
    for rows, samples in answers.ensembles():
        for place in range(samples.shape[1]):
            errors = scaled_errors(truth.target[rows], samples[:, place], sigma=truth.sigma[rows]).mean(axis=1)
            losses[rows] = errors if place == 0 else losses[rows] + errors
        losses[rows] /= samples.shape[1]
    return float(losses.mean())


def captured_share(mse: float, *, optimum: float) -> float:
    """``(MSE₀ - MSE) / (MSE₀ - MSE*)`` from ratios to persistence's MSE₀; NaN where nothing can be captured."""
    return (1 - mse) / (1 - optimum) if optimum < 1 else float("nan")
