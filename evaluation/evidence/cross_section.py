"""Daily cross-sections: how well expected moves rank the tickers of a date, and what the ranking would have earned."""

from dataclasses import dataclass

import numpy as np

from tickerforge.evaluation.core.contracts import Floats, Ints
from tickerforge.evaluation.evidence.intervals import long_run_covariance

MIN_TICKERS = 10
"""Fewest tickers of a date for a correlation."""
DECILE = 0.1


@dataclass(frozen=True)
class CrossSection:
    """Means over dates of the correlation between expected and actual moves, and of the decile spread.

    `rank_ic` is Spearman's correlation over the tickers of a date, `ic` Pearson's. `t` is the mean rank IC over its
    Newey-West standard error, `icir` over its standard deviation over dates. `spread` is the mean log return over the
    horizon of the tenth of the tickers with the highest expected moves minus that of the lowest, after buying and
    selling both. `dates` is the number of dates. `t` and `icir` are missing if the rank IC does not vary.
    """

    rank_ic: float
    ic: float
    t: float | None
    icir: float | None
    spread: float
    dates: int


def cross_section(expected: Floats, moved: Floats, *, positions: Ints, lag: int, cost: float) -> CrossSection | None:
    """Compare expected with actual moves date by date.

    Args:
        expected: Expected log return over the horizon of each window, shape (n,).
        moved: What followed, shape (n,).
        positions: Session number of each window's origin, shape (n,).
        lag: Lag of the Newey-West variance, in sessions; at least the overlap of the windows.
        cost: Share of the value traded, per purchase and per sale.

    Returns:
        The figures over dates with at least `MIN_TICKERS` tickers whose expected and actual moves differ; `None` if
        there are fewer than two such dates.
    """
    from scipy.stats import rankdata

    order = np.argsort(positions, kind="stable")
    starts = np.flatnonzero(np.diff(positions[order], prepend=-1))
    found = []
    for rows in np.split(order, starts[1:]):
        one, other = expected[rows], moved[rows]
        if len(rows) < MIN_TICKERS or not np.ptp(one) or not np.ptp(other):
            continue
        count = max(1, round(DECILE * len(rows)))
        by_forecast = np.argsort(one, kind="stable")
        spread = other[by_forecast[-count:]].mean() - other[by_forecast[:count]].mean() - 4 * cost
        found.append((_correlation(rankdata(one), rankdata(other)), _correlation(one, other), spread))
    if len(found) < 2:
        return None
    ranks, plain, spreads = np.array(found).T
    deviation = float(ranks.std(ddof=1))
    error = float(np.sqrt(max(float(long_run_covariance(ranks, ranks, lag=lag)), 0.0) / len(ranks)))
    return CrossSection(
        rank_ic=float(ranks.mean()),
        ic=float(plain.mean()),
        t=float(ranks.mean() / error) if error else None,
        icir=float(ranks.mean() / deviation) if deviation else None,
        spread=float(spreads.mean()),
        dates=len(found),
    )


def _correlation(one: Floats, other: Floats) -> float:
    return float(np.corrcoef(one, other)[0, 1])
