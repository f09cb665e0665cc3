"""Calibration: factors of a model's distribution and whether to smooth it, by CRPS on validation."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tickerforge.evaluation.core.contracts import Floats
from tickerforge.evaluation.core.panels import Answers, Truth, answers_of, matrix, session_dates, truth_of
from tickerforge.evaluation.core.rescaling import Factors, pooled_deviations, rescaled, widths
from tickerforge.evaluation.evidence.significance import too_few

BLOCKS = 4
"""Stretches of the validation split, each of which is left out once to choose the shrinkage."""
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the fitted change that are tried; 0 is no change."""
LARGEST_MEDIAN, LARGEST_SPREAD = 1.5, 4.0


def calibrated(windows: pd.DataFrame, forecasts: pd.DataFrame, *, factors: Factors) -> pd.DataFrame:
    """Rescale one model's forecasts of these windows; a window without a valid answer stays as it is."""
    if factors.change_nothing:
        return forecasts
    known = pd.MultiIndex.from_arrays([windows["ticker"].to_numpy(object), session_dates(windows["origin"])])
    keys = pd.MultiIndex.from_arrays([forecasts["ticker"].to_numpy(object), session_dates(forecasts["origin"])])
    places = known.get_indexer(keys)
    prices, sigmas = matrix(windows["history"])[places, -1], windows["sigma"].to_numpy(float)[places]
    medians, samples = forecasts["median"].to_list(), forecasts["samples"].to_list()
    for row in np.flatnonzero(forecasts["n_valid"].to_numpy()):
        samples[row], medians[row] = rescaled(
            np.stack([np.asarray(each, float) for each in samples[row]]),
            np.asarray(medians[row], float),
            origin_price=float(prices[row]),
            sigma=float(sigmas[row]),
            factors=factors,
        )
        samples[row] = list(samples[row])
    return forecasts.assign(
        median=pd.Series(medians, index=forecasts.index, dtype=object),
        samples=pd.Series(samples, index=forecasts.index, dtype=object),
    )


def fit_factors(windows: pd.DataFrame, forecasts: pd.DataFrame, *, model: str, calendar: NDArray) -> Factors:
    """Fit a model's factors on the validation split.

    Args:
        windows: Selected windows.
        forecasts: Forecasts frame that holds `model` on their validation split.
        model: Its name.
        calendar: From `evaluation.core.panels.session_calendar`.

    Returns:
        The factors that minimise the CRPS, moved towards 1 by the weight that is best on stretches that were left out,
        with or without smoothing, whichever is better there; all 1 if there are too few windows for a test.

    Raises:
        ForecastsError: The forecasts do not match the windows.
    """
    truth = truth_of(windows, split="validation", calendar=calendar)
    answers = answers_of(forecasts, model=model, truth=truth)
    return factors_of(truth, answers)


def factors_of(truth: Truth, answers: Answers) -> Factors:
    """Fit factors on all windows of a split; see `fit_factors`."""
    sessions = np.unique(truth.positions)
    if too_few(sessions, horizon=truth.horizon):
        return Factors()
    tried = {smooth: _Losses(truth, answers, smooth=smooth) for smooth in (False, True)}
    everything = np.ones(len(truth.positions), dtype=bool)
    out_of_sample = np.zeros((len(tried), len(WEIGHTS)))
    for block in np.array_split(sessions, BLOCKS):
        held = (truth.positions >= block[0]) & (truth.positions <= block[-1])
        # Targets of windows within a horizon overlap.
        near = (truth.positions > block[0] - truth.horizon) & (truth.positions < block[-1] + truth.horizon)
        if not held.any() or not (~near).any():
            return Factors()
        for place, losses in enumerate(tried.values()):
            fitted = losses.best(~near)
            out_of_sample[place] += [losses.total(_shrunk(fitted, weight), held) for weight in WEIGHTS]
    best = int(np.argmin(out_of_sample))
    smooth, weight = best >= len(WEIGHTS), WEIGHTS[best % len(WEIGHTS)]
    return _shrunk(tried[smooth].best(everything), weight) if weight else Factors(smooth=smooth)


def _shrunk(fitted: Factors, weight: float) -> Factors:
    moved = {name: 1 + weight * (getattr(fitted, name) - 1) for name in ("median", "variation")}
    return fitted.model_copy(update=moved | {"spread": fitted.spread**weight})


class _Losses:
    """The CRPS of a model's answers as a function of the factors; windows without an answer do not count."""

    def __init__(self, truth: Truth, answers: Answers, *, smooth: bool) -> None:
        self._smooth = smooth
        self._groups: list[tuple[NDArray[np.int64], Floats, Floats, Floats, Floats, Floats]] = []
        for rows, samples in answers.ensembles():
            if not answers.n_valid[rows[0]]:
                continue
            unit, origin = truth.sigma[rows, None], truth.origin_price[rows, None]
            middle = np.log(answers.median[rows] / origin) / unit
            actual = np.log(truth.target[rows] / origin) / unit
            apart = np.log(samples / origin[..., None]) / unit[..., None] - middle[:, None]
            if smooth:
                apart = pooled_deviations(apart)
            wide = widths(apart, sigma=truth.unit[rows] / truth.sigma[rows])
            ordered = np.sort(apart.swapaxes(1, 2), axis=-1)
            m = ordered.shape[-1]
            spread = ordered @ ((2 * np.arange(1, m + 1) - m - 1) / m**2)
            self._groups.append((rows, ordered, middle, actual, spread, wide))
        found = np.concatenate([each[-1] for each in self._groups] or [np.empty(0)])
        self._width = float(np.exp(np.log(found[found > 0]).mean())) if (found > 0).any() else 1.0

    def total(self, factors: Factors, kept: NDArray[np.bool_]) -> float:
        """Return the sum of the CRPS over the windows that are kept (n,)."""
        found = 0.0
        for rows, ordered, middle, actual, spread, wide in self._groups:
            mine = kept[rows]
            miss = (actual - factors.median * middle)[mine]
            stretch = factors.stretch(wide[mine])[:, None]
            distance = np.abs(stretch[..., None] * ordered[mine] - miss[..., None]).mean(axis=-1)
            found += float((distance - stretch * spread[mine]).sum())
        return found

    def best(self, kept: NDArray[np.bool_]) -> Factors:
        """Return the factors with the least CRPS on the windows that are kept (n,)."""
        from scipy.optimize import minimize

        def factors(at: Floats) -> Factors:
            median, spread, variation = float(at[0]), float(np.exp(at[1])), float(at[2])
            return Factors(median=median, spread=spread, variation=variation, width=self._width, smooth=self._smooth)

        found = minimize(
            lambda at: self.total(factors(at), kept),
            x0=np.array([0.9, 0.1, 0.6]),
            method="Nelder-Mead",
            bounds=[(0.0, LARGEST_MEDIAN), (-np.log(LARGEST_SPREAD), np.log(LARGEST_SPREAD)), (0.0, 1.0)],
            options={"xatol": 0.005, "fatol": 1e-6, "maxfev": 300},
        )
        return factors(found.x)
