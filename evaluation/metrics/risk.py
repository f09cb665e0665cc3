"""Scores of forecast risk: the loss of a variance forecast, and tests of the value at risk."""

from dataclasses import dataclass

import numpy as np

from tickerforge.evaluation.core.contracts import Floats, Ints


def qlike(variance: Floats, realised: Floats) -> Floats:
    """Compute the loss ``x − ln x − 1`` of a variance forecast, with x the realised over the forecast variance.

    It ranks forecasts correctly for any unbiased measure of the realised variance (Patton 2011, J. Econometrics 160).

    Args:
        variance: Forecast, shape (n,).
        realised: Shape (n,), in the same unit; positive.

    Returns:
        Shape (n,); 0 is perfect.
    """
    ratio = realised / variance
    return np.asarray(ratio - np.log(ratio) - 1)


@dataclass(frozen=True)
class TailTest:
    """Whether prices fall below a quantile as often as they should.

    `hits` is the share that did; `kupiec` and `christoffersen` are p-values: of the right frequency (Kupiec 1995,
    J. Derivatives 3), and of the right frequency without runs (Christoffersen 1998, Int. Economic Review 39), which is
    missing if the windows do not follow each other session by session.
    """

    hits: float
    kupiec: float
    christoffersen: float | None


def tail_test(below: Floats, *, follow_each_other: bool, tail: float) -> TailTest:
    """Test the hits (n,) of one ticker in time order, 1 or 0, against the probability `tail`.

    Both are likelihood-ratio tests. The second adds the test that a hit is as likely after a hit as after none, over
    the n - 1 pairs of neighbours; it is missing if the windows do not follow each other session by session.
    """
    from scipy.special import xlogy
    from scipy.stats import chi2

    def likelihood(hits: int, misses: int, share: float) -> float:
        return float(xlogy(hits, share) + xlogy(misses, 1 - share))

    hit = below.astype(bool)
    n, hits = len(hit), int(hit.sum())
    frequency = 2 * (likelihood(hits, n - hits, hits / n) - likelihood(hits, n - hits, tail))
    after: Ints = np.bincount(2 * hit[:-1] + hit[1:], minlength=4)
    pairs = after.reshape(2, 2)
    total = pairs.sum(axis=0)
    whole = likelihood(total[1], total[0], total[1] / max(total.sum(), 1))
    runs = 2 * (sum(likelihood(row[1], row[0], row[1] / max(row.sum(), 1)) for row in pairs) - whole)
    return TailTest(
        hits=hits / n,
        kupiec=float(chi2.sf(max(frequency, 0.0), 1)),
        christoffersen=float(chi2.sf(max(frequency + runs, 0.0), 2)) if follow_each_other else None,
    )
