"""Free forecast distributions: a random walk scaled by σ60, the same scaled by HAR volatility, and drift with bands."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tickerforge.evaluation.core.contracts import RANDOM_WALK, RANDOM_WALK_HAR, Floats
from tickerforge.evaluation.core.errors import TrainRowsError
from tickerforge.evaluation.core.panels import (
    matrix,
    past_variances,
    realised_variances,
    scoring_sigma,
    squared_returns,
)

MEMBERS = 99
"""Members of a free forecast: the percentiles 1 % to 99 %, so that bands and the 1 % quantile need no interpolation."""
LEVELS = np.arange(1, MEMBERS + 1) / (MEMBERS + 1)
MIN_WINDOWS = 30
"""Fewest train windows for a regression of the volatility; with fewer it is σ60."""
_FLOOR = 1e-4
"""Smallest variance in the regression, as a share of σ60²: the logarithm of a session without a move is undefined."""


@dataclass(frozen=True)
class Volatility:
    """The daily volatility to expect over the horizon: ``exp(x·coefficients / 2)``, or σ60 without coefficients.

    x is 1 and the logarithms of the mean range variances of the last 1, 5 and 22 sessions and of σ60² (Corsi 2009,
    "A Simple Approximate Long-Memory Model of Realized Volatility", with σ60 as a further component). The exponent is
    kept within `limits`, the range of the train windows.
    """

    coefficients: Floats | None = None
    limits: tuple[float, float] = (-np.inf, np.inf)

    def of(self, windows: pd.DataFrame) -> Floats:
        """Return the standard deviation of a daily log return, shape (n,)."""
        if self.coefficients is None:
            return scoring_sigma(windows)
        return np.exp(np.clip(_components(windows) @ self.coefficients, *self.limits) / 2)


@dataclass(frozen=True)
class Walk:
    """A distribution of paths: the log return k sessions ahead is ``volatility · sqrt(k) · table[:, k - 1]``.

    Each column of `table` (MEMBERS, h) has the percentiles of the standardised moves of the train windows. A row is one
    path: in its ranks it follows a train window (Schaake shuffle; Clark et al. 2004, J. Hydrometeorology 5), and these
    windows are evenly spread by their last move.
    """

    table: Floats
    volatility: Volatility

    def log_paths(self, windows: pd.DataFrame, *, centred: bool = False) -> Floats:
        """Return log returns from the origin, shape (n, MEMBERS, h); with median 0 if `centred`."""
        table = self.table - np.median(self.table, axis=0) if centred else self.table
        return np.asarray(self._scale(windows)[:, None, :] * table)

    def log_medians(self, windows: pd.DataFrame) -> Floats:
        """Return the medians of `log_paths`, shape (n, h)."""
        return np.asarray(self._scale(windows) * np.median(self.table, axis=0))

    def _scale(self, windows: pd.DataFrame) -> Floats:
        return np.asarray(self.volatility.of(windows)[:, None] * np.sqrt(np.arange(1, self.table.shape[1] + 1)))


def fit_walks(windows: pd.DataFrame) -> Mapping[str, Walk]:
    """Fit `random_walk` and `random_walk_har` on train windows: of one ticker, or of a pool together.

    Args:
        windows: Windows frame; only its train split is used.

    Raises:
        TrainRowsError: The frame has no train windows.
    """
    train = windows[windows["split"] == "train"]
    if train.empty:
        raise TrainRowsError("the free forecasts are fitted on train windows, and there is none: give all windows")
    moves = np.log(matrix(train["target"]) / matrix(train["history"])[:, -1:])
    return {
        name: Walk(_table(moves / volatility.of(train)[:, None]), volatility)
        for name, volatility in ((RANDOM_WALK, Volatility()), (RANDOM_WALK_HAR, _fit_volatility(train)))
    }


def _table(moves: Floats) -> Floats:
    """Return the percentiles of moves (n, h), in units of one day's volatility, as joint paths (MEMBERS, h)."""
    standardised = moves / np.sqrt(np.arange(1, moves.shape[1] + 1))
    percentiles = np.quantile(standardised, LEVELS, axis=0, method="weibull")
    by_last_move = np.argsort(standardised[:, -1], kind="stable")
    followed = by_last_move[np.linspace(0, len(moves) - 1, MEMBERS).round().astype(int)]
    ranks = np.argsort(np.argsort(standardised[followed], axis=0, kind="stable"), axis=0, kind="stable")
    return np.take_along_axis(percentiles, ranks, axis=0)


def _fit_volatility(train: pd.DataFrame) -> Volatility:
    """Regress the log of the mean range variance of the horizon, and scale it to the variance of returns."""
    if len(train) < MIN_WINDOWS:
        return Volatility()
    x = _components(train)
    floor = _FLOOR * np.square(scoring_sigma(train))
    y = np.log(np.maximum(realised_variances(train).mean(axis=1), floor))
    coefficients = np.linalg.lstsq(x, y, rcond=None)[0]
    expected = np.exp(x @ coefficients)
    # Ranges leave out moves outside trading hours and are seen at discrete prices, so they are a multiple of variance.
    multiple = float(np.log(squared_returns(train).mean() / expected.mean()))
    coefficients[0] += multiple
    return Volatility(coefficients, (float(y.min()) + multiple, float(y.max()) + multiple))


def _components(windows: pd.DataFrame) -> Floats:
    """Return 1, the three logarithms of past variances and the logarithm of σ60², shape (n, 5)."""
    variance = np.square(scoring_sigma(windows))[:, None]
    past = np.maximum(past_variances(windows), _FLOOR * variance)
    return np.concatenate([np.ones_like(variance), np.log(past), np.log(variance)], axis=1)
