"""Confidence intervals of a skill by an inverted studentised bootstrap: overall, by session ahead, by ticker."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tickerforge.evaluation.core.contracts import SIGNIFICANCE, Floats, Ints
from tickerforge.evaluation.core.panels import Truth
from tickerforge.evaluation.evidence.significance import by_session, hac_lag, too_few

MIN_BLOCK = 10
_REPLICATIONS = 400
_SEED = 0
_ROUNDING = 1e-13


def detailed_intervals(truth: Truth, losses: Floats, reference: Floats, *, by_ticker: bool) -> Iterator[dict[str, Any]]:
    """Compute the intervals of a skill at each session ahead and for each ticker of a pool, if there is one.

    Args:
        truth: The windows.
        losses: Loss of a forecaster, shape (n, h).
        reference: The reference's, same shape.
        by_ticker: Whether the windows are a pool's.

    Yields:
        The fields `horizon` or `ticker`, `low` and `high` of a `SkillInterval`.
    """
    everything = np.ones(len(losses), dtype=bool)
    for step in range(truth.horizon):
        ends = _ends(truth, losses[:, step], reference[:, step], rows=everything)
        if ends is not None:
            yield {"horizon": step + 1, "low": float(ends[0]), "high": float(ends[1])}
    for ticker in np.unique(truth.tickers) if by_ticker else ():
        ends = _ends(truth, losses.mean(axis=1), reference.mean(axis=1), rows=truth.tickers == ticker)
        if ends is not None:
            yield {"ticker": str(ticker), "low": float(ends[0]), "high": float(ends[1])}


def _ends(truth: Truth, losses: Floats, reference: Floats, *, rows: NDArray[np.bool_]) -> Floats | None:
    where = truth.positions[rows]
    positions = np.unique(where)
    if too_few(positions, horizon=truth.horizon) or not reference[rows].any():
        return None
    own, other = (by_session(each[rows], positions=where) for each in (losses, reference))
    if not np.ptp(own - other):
        return None
    block = block_length(positions, horizon=truth.horizon)
    draws = _kept_rows(len(positions), block)
    return skill_interval(own, other, positions=positions, horizon=truth.horizon, draws=draws)


@lru_cache(maxsize=8)
def _kept_rows(rows: int, block: int) -> NDArray[np.int64]:
    return stationary_rows(rows, block=block, replications=_REPLICATIONS, seed=_SEED)


def skill_interval(losses: Floats, reference: Floats, *, positions: Ints, horizon: int, draws: Ints) -> Floats | None:
    """Compute the central 95 % interval of ``1 - mean(losses) / mean(reference)``.

    It contains the skills s that a test does not reject. With d = losses - (1 - s) reference and V its Newey-West
    long-run variance at lag `hac_lag`, the statistic is ``|mean(d)| / sqrt(V / n)``; its limit is the 95 % quantile
    over the bootstrapped series. A skill is a ratio of means: testing each s separately (Fieller 1954, J. R. Stat. Soc.
    B 16) keeps variance that a normal interval around the estimated skill would lose. Studentising (Hall 1992, "The
    Bootstrap and Edgeworth Expansion") accounts for the uncertainty of V.

    Args:
        losses: Loss of a forecaster by session, shape (k,), in time order.
        reference: The reference's, same shape.
        positions: Session numbers, ascending, shape (k,).
        horizon: Sessions ahead.
        draws: Rows of bootstrapped series, shape (replications, k).

    Returns:
        Lower and upper end; `None` if the losses are proportional, or the reference's own loss is too uncertain for an
        interval.
    """
    lag, n = hac_lag(positions, horizon=horizon), len(losses)
    skill = 1 - losses.mean() / reference.mean()
    at_skill = losses - (1 - skill) * reference
    drawn = at_skill[draws]
    spread = np.sqrt(long_run_covariance(drawn, drawn, lag=lag) / n)
    varied = spread > _ROUNDING * np.abs(losses).mean()
    if not varied.any():
        return None
    ratios = np.abs(drawn.mean(axis=-1))[varied] / spread[varied]
    limit = float(np.quantile(ratios, 1 - SIGNIFICANCE)) ** 2 / n

    own, other = losses.mean(), reference.mean()
    variances = [long_run_covariance(a, b, lag=lag) for a, b in ((losses, losses), (losses, reference))]
    square = other**2 - limit * long_run_covariance(reference, reference, lag=lag)
    mixed, constant = own * other - limit * variances[1], own**2 - limit * variances[0]
    inside = mixed**2 - square * constant
    if square <= 0 or inside < 0:
        return None
    reach = np.sqrt(inside)
    return np.array([1 - (mixed + reach) / square, 1 - (mixed - reach) / square], dtype=float)


def long_run_covariance(first: Floats, second: Floats, *, lag: int) -> Floats:
    """``Σ w_j cov(x_t, y_{t±j})`` with Bartlett weights up to a lag, along the last axis (Newey and West 1987)."""
    x, y = first - first.mean(axis=-1, keepdims=True), second - second.mean(axis=-1, keepdims=True)
    n = x.shape[-1]
    total = (x * y).sum(axis=-1)
    for step in range(1, min(lag, n - 1) + 1):
        both = (x[..., step:] * y[..., :-step]).sum(axis=-1) + (y[..., step:] * x[..., :-step]).sum(axis=-1)
        total = total + (1 - step / (lag + 1)) * both
    return np.asarray(total / n)


def stationary_rows(rows: int, *, block: int, replications: int, seed: int) -> NDArray[np.int64]:
    """Draw the rows of bootstrapped series (Politis and Romano 1994, JASA 89), shape (replications, rows)."""
    from arch.bootstrap import StationaryBootstrap

    numbered = StationaryBootstrap(block, np.arange(rows), seed=seed)
    return np.stack([data[0] for data, _ in numbered.bootstrap(replications)]).astype(np.int64)


def block_length(positions: Ints, *, horizon: int) -> int:
    """Return the mean length of a block in rows: as many as cover twice the horizon, or `MIN_BLOCK` sessions."""
    reach = max(2 * horizon, MIN_BLOCK)
    stride = (positions[-1] - positions[0]) / max(len(positions) - 1, 1)
    return max(1, min(len(positions) // 2, round(reach / max(stride, 1))))
