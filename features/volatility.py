"""HAR volatility: the daily standard deviation to expect over the horizon, known at each session."""

import numpy as np

from tickerforge.features.statistics import Array

PRIOR = np.array([0.0, 0.1, 0.25, 0.25])
"""Usual coefficients of the constant and of the mean variances of 1, 5 and 22 sessions; the rest is that of σ60²."""
PRIOR_WEIGHT = np.array([25.0, 250.0, 250.0, 250.0])
"""Sessions that the prior coefficients count as."""
FACTOR_SESSIONS = 20
"""Sessions that a factor of 1 between returns and ranges counts as."""
FLOOR, LARGEST_RATIO = 1e-4, 4.0
"""Smallest variance as a share of σ60², as the logarithm of 0 is undefined; largest ratio to σ60, and 1 / smallest."""


def har_sigma(close: Array, ranges: Array, means: Array, sigma: Array, *, horizon: int) -> Array:
    """Compute the volatility that a regression on past variances expects (Corsi 2009, J. Financial Econometrics 7).

    The logarithm of the mean range variance over the next `horizon` sessions is regressed on those of the last 1, 5 and
    22 sessions, all relative to σ60². At each session the regression has seen the sessions up to it, and outcomes only
    up to it: no future is used, and an adapter needs no stored coefficients. Few sessions leave it near `PRIOR`, which
    makes it usable from the first origin. A factor, estimated in the same way, makes it a volatility of returns.

    Args:
        close: Adjusted closes, shape `(n,)`, USD.
        ranges: `features.statistics.range_variance` of each session, shape `(n,)`.
        means: Means of `ranges` over the last 1, 5 and 22 sessions, shape `(n, 3)`.
        sigma: σ60 at each session, shape `(n,)`; NaN before the first.
        horizon: Sessions ahead.

    Returns:
        Shape `(n,)`; NaN where `sigma` is, and no value depends on later sessions.
    """
    base = np.square(sigma)
    squares = np.concatenate([[np.nan], np.square(np.diff(np.log(close)))])
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.log(np.maximum(means / base[:, None], FLOOR))
        outcome = np.log(np.maximum(_ahead(ranges, horizon) / base, FLOOR))
    inputs = np.concatenate([np.ones((len(base), 1)), relative], axis=1)
    usable = np.isfinite(inputs).all(axis=1)
    seen = usable & np.isfinite(outcome)
    x = np.where(usable[:, None], inputs, 0.0)
    y = np.where(seen, outcome, 0.0)
    products = _known(np.where(seen[:, None, None], x[:, :, None] * x[:, None, :], 0.0), horizon)
    mixed = _known(x * y[:, None], horizon)
    weight = np.diag(PRIOR_WEIGHT)
    coefficients = np.linalg.solve(products + weight, (mixed + weight @ PRIOR)[..., None])[..., 0]
    expected = np.where(usable, base * np.exp((x * coefficients).sum(axis=1)), np.nan)
    realised, forecast = (_known(np.where(seen, each, 0.0), horizon) for each in (_ahead(squares, horizon), expected))
    factor = (realised + FACTOR_SESSIONS * expected) / (forecast + FACTOR_SESSIONS * expected)
    return np.clip(np.sqrt(expected * factor), sigma / LARGEST_RATIO, LARGEST_RATIO * sigma)


def _ahead(values: Array, horizon: int) -> Array:
    """Return the mean of the `horizon` values after each one; NaN at the end."""
    total = np.concatenate([[0.0], np.cumsum(np.nan_to_num(values))])
    found = np.full(len(values), np.nan)
    if len(values) > horizon:
        found[:-horizon] = (total[1 + horizon :] - total[1:-horizon]) / horizon
    return found


def _known(values: Array, horizon: int) -> Array:
    """Return the sum over all sessions whose outcome is known at each session."""
    late = np.zeros((min(horizon, len(values)), *values.shape[1:]))
    return np.concatenate([late, np.cumsum(values, axis=0)[: len(values) - len(late)]])
