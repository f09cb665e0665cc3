"""The volatility to expect over the horizon, by a regression on past ranges."""

import numpy as np
import pandas as pd

from tickerforge.evaluation.core.frames import (
    Floats,
    past_variances,
    realised_variances,
    scoring_sigma,
    squared_returns,
)
from tickerforge.features.config import FrozenModel

MIN_WINDOWS = 30
"""Fewest train windows for a regression of the volatility, and for a recalibration; with fewer it is σ60."""
_FLOOR = 1e-4
"""Smallest variance in the regression, as a share of σ60²: the logarithm of a session without a move is undefined."""


class Volatility(FrozenModel):
    """The daily volatility to expect over the horizon: ``exp(x·coefficients / 2)``, or σ60 without coefficients.

    x is 1 and the logarithms of the mean range variances of the last 1, 5 and 22 sessions and of σ60² (Corsi 2009,
    "A Simple Approximate Long-Memory Model of Realized Volatility", with σ60 as a further component). The exponent is
    kept within `limits`, the range of the train windows.
    """

    coefficients: tuple[float, ...] = ()
    limits: tuple[float, float] = (0.0, 0.0)

    def of(self, windows: pd.DataFrame) -> Floats:
        """Return the standard deviation of a daily log return, shape (n,)."""
        if not self.coefficients:
            return scoring_sigma(windows)
        return np.exp(np.clip(_components(windows) @ np.array(self.coefficients), *self.limits) / 2)


def fit_volatility(train: pd.DataFrame) -> Volatility:
    """Regress the log of the mean range variance of the horizon on train windows, and scale it to that of returns."""
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
    limits = (float(y.min()) + multiple, float(y.max()) + multiple)
    return Volatility(coefficients=tuple(map(float, coefficients)), limits=limits)


def _components(windows: pd.DataFrame) -> Floats:
    """Return 1, the three logarithms of past variances and the logarithm of σ60², shape (n, 5)."""
    variance = np.square(scoring_sigma(windows))[:, None]
    past = np.maximum(past_variances(windows), _FLOOR * variance)
    return np.concatenate([np.ones_like(variance), np.log(past), np.log(variance)], axis=1)
