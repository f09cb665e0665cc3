"""Recalibration: fitted on validation by CRPS, and used on frames of forecasts."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tickerforge.evaluation.core.contracts import Floats
from tickerforge.evaluation.core.errors import ForecastsError
from tickerforge.evaluation.core.frames import log_moves, matrix
from tickerforge.evaluation.core.panels import Answers, Truth, answers_of, rows_of, session_dates, truth_of
from tickerforge.evaluation.core.recalibration import (
    PERCENTILES,
    Recalibration,
    followed_answers,
    recalibrated,
    spreads,
)
from tickerforge.evaluation.core.volatility import MIN_WINDOWS, Volatility, fit_volatility
from tickerforge.evaluation.evidence.significance import independent_rows, too_few
from tickerforge.evaluation.metrics.accuracy import sorted_crps

LARGEST_MEDIAN = 1.5
PRIOR_WINDOWS, PRIOR_MEDIAN = 30, 1.0
"""The number of independent windows at which a session's own ratio of errors to moves weighs as much as the ratio over
all sessions; and the prior standard deviation of the median's factor around 1."""


def recalibrated_frame(windows: pd.DataFrame, forecasts: pd.DataFrame, *, recalibration: Recalibration) -> pd.DataFrame:
    """Recalibrate one model's forecasts of these windows; a window without a valid answer stays as it is.

    A recalibrated forecast has `MEMBERS` samples; what the model thought is repeated for those that follow an answer.

    Raises:
        ForecastsError: A forecast has no window.
    """
    if recalibration.changes_nothing:
        return forecasts
    known = pd.MultiIndex.from_arrays([windows["ticker"].to_numpy(object), session_dates(windows["origin"])])
    keys = pd.MultiIndex.from_arrays([forecasts["ticker"].to_numpy(object), session_dates(forecasts["origin"])])
    places = known.get_indexer(keys)
    if (places < 0).any():
        missing = keys[int(np.flatnonzero(places < 0)[0])]
        raise ForecastsError(f"{missing[0]} at {missing[1]:%Y-%m-%d}: the forecast has no window")
    prices, sigmas = matrix(windows["history"])[places, -1], recalibration.volatility.of(windows)[places]
    medians, samples = forecasts["median"].to_list(), forecasts["samples"].to_list()
    for row in np.flatnonzero(forecasts["n_valid"].to_numpy()):
        samples[row], medians[row] = recalibrated(
            np.stack([np.asarray(each, float) for each in samples[row]]),
            np.asarray(medians[row], float),
            origin_price=float(prices[row]),
            sigma=float(sigmas[row]),
            recalibration=recalibration,
        )
    if "thoughts" in forecasts:
        thoughts = [
            [each[place] for place in followed_answers(len(each))] if len(each) else each
            for each in forecasts["thoughts"]
        ]
        forecasts = forecasts.assign(thoughts=pd.Series(thoughts, index=forecasts.index, dtype=object))
    return forecasts.assign(
        median=pd.Series(medians, index=forecasts.index, dtype=object),
        samples=pd.Series(samples, index=forecasts.index, dtype=object),
    )


def fit_recalibration(
    windows: pd.DataFrame, forecasts: pd.DataFrame, *, train: pd.DataFrame, model: str, calendar: NDArray
) -> Recalibration:
    """Fit a model's recalibration on the validation split, with the distribution of the moves of the train split.

    Validation is short, and calm or restless by chance. So it only says how large the model's errors are compared with
    the moves of the same windows, which cancels that.

    Args:
        windows: Selected windows.
        forecasts: Forecasts frame that holds `model` on their validation split.
        train: Windows of the train split.
        model: Its name.
        calendar: From `evaluation.core.panels.session_calendar`.

    Returns:
        The variation and the median's factor that have the least CRPS on validation, the factor moved towards 1 the
        more, the less the windows say about it. Nothing changes if there are too few windows for a test, or too few
        train windows.

    Raises:
        ForecastsError: The forecasts do not match the windows.
    """
    truth = truth_of(windows, split="validation", calendar=calendar)
    answers = answers_of(forecasts, model=model, truth=truth)
    few = bool(too_few(np.unique(truth.positions), horizon=truth.horizon)) or len(train) < MIN_WINDOWS
    if few or not answers.n_valid.any():
        return Recalibration()
    # Windows of published files have no ranges, and prices of another unit.
    volatility = fit_volatility(train) if "past_variance" in train else Volatility()
    rows = rows_of(windows, split="validation")
    moves = log_moves(train) / volatility.of(train)[:, None]
    fitted = _fitted(truth, answers, moves=moves - np.median(moves, axis=0), daily=volatility.of(rows))
    return fitted.model_copy(update={"volatility": volatility})


def _fitted(truth: Truth, answers: Answers, *, moves: Floats, daily: Floats) -> Recalibration:
    """Fit on the windows that have an answer.

    Args:
        truth: Validation.
        answers: Those of the model.
        moves: Of train windows, in their daily volatility, less their median, shape (N, h).
        daily: Expected daily volatility of the validation windows, shape (n,).
    """
    from scipy.optimize import minimize

    usual = np.abs(moves).mean(axis=0)
    if not usual.all():
        return Recalibration()
    errors = np.quantile(moves / usual, PERCENTILES, method="weibull")

    rows = np.flatnonzero(answers.n_valid)
    origin, unit, scored = truth.origin_price[rows, None], daily[rows, None], truth.sigma[rows, None]
    middle, actual = np.log(answers.median[rows] / origin) / unit, np.log(truth.target[rows] / origin) / unit
    spread = np.zeros(len(truth.positions))
    for found, samples in answers.ensembles():
        spread[found] = spreads(np.log(samples / answers.median[found, None]), sigma=daily[found])
    spreading = spread[rows][spread[rows] > 0]
    width = float(np.exp(np.log(spreading).mean())) if len(spreading) else 1.0
    relative = np.where(spread[rows] > 0, spread[rows], width)[:, None] / width

    independent = len(independent_rows(np.unique(truth.positions[rows]), horizon=truth.horizon))
    trust = independent / (independent + PRIOR_WINDOWS)
    moved = np.abs(actual).mean(axis=0)
    if not moved.all():
        return Recalibration()

    def sizes(at: Floats) -> Floats:
        missed = np.abs((actual - at[0] * middle) / relative ** at[1]).mean(axis=0)
        return np.asarray(usual * (trust * missed / moved + (1 - trust) * missed.sum() / moved.sum()))

    def loss(at: Floats) -> float:
        scales = relative ** at[1] * sizes(at)
        return float((sorted_crps(scales[..., None] * errors, actual - at[0] * middle) * unit / scored).sum())

    best = minimize(
        loss,
        x0=np.array([0.9, 0.6]),
        method="Nelder-Mead",
        bounds=[(0.0, LARGEST_MEDIAN), (0.0, 1.0)],
        options={"xatol": 0.005, "fatol": 1e-6, "maxfev": 150},
    ).x
    # The posterior mean of a regression's slope whose prior is normal.
    missed = np.square(actual - best[0] * middle).mean(axis=0)
    known = independent * float((np.square(middle).mean(axis=0) / missed).mean()) if missed.all() else np.inf
    best[0] = 1 + (best[0] - 1) / (1 + 1 / (known * PRIOR_MEDIAN**2)) if known else 1.0
    return Recalibration(
        median=float(best[0]),
        variation=float(best[1]),
        width=width,
        sizes=tuple(float(f"{size:.4g}") for size in sizes(best)),
        errors=tuple(float(f"{error:.4g}") for error in errors),
    )
