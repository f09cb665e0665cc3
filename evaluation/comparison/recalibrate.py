"""Recalibration: fitted on validation by CRPS, and used on frames of forecasts."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tickerforge.evaluation.core.contracts import Floats, Ints
from tickerforge.evaluation.core.panels import Answers, Truth, answers_of, matrix, session_dates, truth_of
from tickerforge.evaluation.core.recalibration import PERCENTILES, Recalibration, members, recalibrated, spreads
from tickerforge.evaluation.evidence.significance import independent_rows, too_few

BLOCKS = 4
"""Stretches of the validation split, each of which is left out once to choose the share."""
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the fitted change that are tried; 0 is no change."""
LARGEST_MEDIAN = 1.5
PRIOR_WINDOWS = 30
"""Independent windows whose weight the mean over all sessions has in what is estimated for one session."""


def recalibrated_frame(windows: pd.DataFrame, forecasts: pd.DataFrame, *, recalibration: Recalibration) -> pd.DataFrame:
    """Calibrate one model's forecasts of these windows; a window without a valid answer stays as it is."""
    if not recalibration.share:
        return forecasts
    known = pd.MultiIndex.from_arrays([windows["ticker"].to_numpy(object), session_dates(windows["origin"])])
    keys = pd.MultiIndex.from_arrays([forecasts["ticker"].to_numpy(object), session_dates(forecasts["origin"])])
    places = known.get_indexer(keys)
    prices, sigmas = matrix(windows["history"])[places, -1], windows["sigma"].to_numpy(float)[places]
    medians, samples = forecasts["median"].to_list(), forecasts["samples"].to_list()
    for row in np.flatnonzero(forecasts["n_valid"].to_numpy()):
        samples[row], medians[row] = recalibrated(
            np.stack([np.asarray(each, float) for each in samples[row]]),
            np.asarray(medians[row], float),
            origin_price=float(prices[row]),
            sigma=float(sigmas[row]),
            recalibration=recalibration,
        )
        samples[row] = list(samples[row])
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
        The median's factor and the variation that have the least CRPS on validation. The share of all that is the one
        that is best on stretches that were left out; 0 if there are too few windows for a test.

    Raises:
        ForecastsError: The forecasts do not match the windows.
    """
    truth = truth_of(windows, split="validation", calendar=calendar)
    answers = answers_of(forecasts, model=model, truth=truth)
    sessions = np.unique(truth.positions)
    if too_few(sessions, horizon=truth.horizon) or not answers.n_valid.any():
        return Recalibration()
    past = _Past(truth, answers, moves=_moves(train))
    everything = np.ones(len(truth.positions), dtype=bool)
    out_of_sample = np.zeros(len(SHARES))
    for block in np.array_split(sessions, BLOCKS):
        held = (truth.positions >= block[0]) & (truth.positions <= block[-1])
        # Targets of windows within a horizon overlap.
        near = (truth.positions > block[0] - truth.horizon) & (truth.positions < block[-1] + truth.horizon)
        if not past.has(held) or not past.has(~near):
            return Recalibration()
        fitted = past.best(~near)
        out_of_sample += [past.loss(fitted.model_copy(update={"share": share}), held) for share in SHARES]
    share = SHARES[int(np.argmin(out_of_sample))]
    return past.best(everything).model_copy(update={"share": share}) if share else Recalibration()


def _moves(train: pd.DataFrame) -> Floats:
    """Return the moves of train windows in the model's σ, less their median at each session, shape (n, h)."""
    moves = np.log(matrix(train["target"]) / matrix(train["history"])[:, -1:]) / train["sigma"].to_numpy(float)[:, None]
    return np.asarray(moves - np.median(moves, axis=0))


class _Past:
    """A model's answers of a split beside what happened; windows without an answer are left out.

    All in σ, n windows: `middle` (n, h) is the median's move, `actual` (n, h) the move, `unit` (n,) the model's unit,
    `spread` (n,) that of the answers. `usual` (h,) are the mean absolute moves of train, `shape` (99,) the percentiles
    of its moves divided by these.
    """

    def __init__(self, truth: Truth, answers: Answers, *, moves: Floats) -> None:
        self.usual = np.abs(moves).mean(axis=0)
        self.shape = np.quantile(moves / self.usual, PERCENTILES, method="weibull")
        rows = np.flatnonzero(answers.n_valid)
        sigma, origin = truth.sigma[rows, None], truth.origin_price[rows, None]
        self.rows, self.positions, self.horizon = rows, truth.positions[rows], truth.horizon
        self.middle = np.log(answers.median[rows] / origin) / sigma
        self.actual = np.log(truth.target[rows] / origin) / sigma
        self.unit = truth.unit[rows] / sigma[:, 0]
        self.spread = np.zeros(len(rows))
        self.members = int(answers.n_valid.max())
        self.drawn: list[tuple[Ints, Floats]] = []
        for found, samples in answers.ensembles():
            if answers.n_valid[found[0]]:
                mine = np.searchsorted(rows, found)
                apart = np.log(samples / truth.origin_price[found, None, None]) / truth.sigma[found, None, None]
                self.drawn.append((mine, apart - self.middle[mine, None]))
                self.spread[mine] = spreads(self.drawn[-1][1], sigma=self.unit[mine])
        self.width = float(np.exp(np.log(self.spread[self.spread > 0]).mean())) if (self.spread > 0).any() else 1.0

    def has(self, kept: NDArray[np.bool_]) -> bool:
        """Whether any window with an answer is among those kept, a mask over all windows of the split."""
        return bool(kept[self.rows].any())

    def loss(self, recalibration: Recalibration, kept: NDArray[np.bool_]) -> float:
        """Return the sum of the CRPS over the windows that are kept."""
        total = 0.0
        for mine, drawn in self.drawn:
            chosen = kept[self.rows[mine]]
            places = mine[chosen]
            if len(places):
                apart = np.sort(recalibration.deviations(drawn[chosen], sigma=self.unit[places]), axis=1)
                missed = self.actual[places] - recalibration.median_move(self.middle[places])
                total += _crps(apart.swapaxes(1, 2), missed)
        return total

    def best(self, kept: NDArray[np.bool_]) -> Recalibration:
        """Return the whole recalibration with the least CRPS on the windows that are kept."""
        from scipy.optimize import minimize

        mine = kept[self.rows]
        relative = np.where(self.spread[mine] > 0, self.spread[mine], self.width) / self.width
        middle, actual, unit = self.middle[mine], self.actual[mine], self.unit[mine]
        independent = len(independent_rows(np.unique(self.positions[mine]), horizon=self.horizon))
        moved = np.maximum(np.abs(actual / unit[:, None]).mean(axis=0), np.finfo(float).tiny)
        shape = members(self.shape, count=self.members)

        def sizes(at: Floats) -> Floats:
            missed = np.abs((actual - at[0] * middle) / (unit * relative ** at[1])[:, None]).mean(axis=0)
            one, all_of_them = missed / moved, missed.sum() / moved.sum()
            ratio = (one * independent + all_of_them * PRIOR_WINDOWS) / (independent + PRIOR_WINDOWS)
            return np.asarray(self.usual * ratio)

        def loss(at: Floats) -> float:
            scales = (unit * relative ** at[1])[:, None] * sizes(at)
            return _crps(scales[..., None] * shape, actual - at[0] * middle)

        found = minimize(
            loss,
            x0=np.array([0.9, 0.6]),
            method="Nelder-Mead",
            bounds=[(0.0, LARGEST_MEDIAN), (0.0, 1.0)],
            options={"xatol": 0.005, "fatol": 1e-6, "maxfev": 150},
        ).x
        return Recalibration(
            share=1.0,
            median=float(found[0]),
            variation=float(found[1]),
            width=self.width,
            sizes=tuple(float(f"{size:.4g}") for size in sizes(found)),
            errors=tuple(float(f"{error:.4g}") for error in self.shape),
        )


def _crps(ordered: Floats, missed: Floats) -> float:
    """Return the summed CRPS of ascending deviations (n, h, m) or (m,) from medians that missed by (n, h)."""
    m = ordered.shape[-1]
    inner = ordered @ ((2 * np.arange(1, m + 1) - m - 1) / m**2)
    return float((np.abs(ordered - missed[..., None]).mean(axis=-1) - inner).sum())
