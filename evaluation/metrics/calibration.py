"""Scores of a whole predictive distribution: quantiles, bands of several widths, probability integral transform."""

from dataclasses import dataclass

import numpy as np

from tickerforge.evaluation.core.contracts import Floats
from tickerforge.evaluation.core.panels import Answers, Truth
from tickerforge.evaluation.metrics.accuracy import band, crps

LEVELS = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))
"""Quantiles over which the pinball loss is averaged."""
NOMINAL = (0.5, 0.8, 0.95)
"""Bands whose coverage is in every report."""
BINS = 10


@dataclass(frozen=True)
class Distribution:
    """How a model's samples fit the actual prices; means over windows and sessions ahead, in daily σ of log returns.

    `coverage` of the bands of `NOMINAL` and of the requested one, by nominal share; `width` of the requested one; `pit`
    is the share of the prices in each tenth of the predictive distribution.
    """

    crps: float
    pinball: float
    coverage: dict[float, float]
    width: float
    pit: Floats


def distribution(truth: Truth, answers: Answers, *, interval: float) -> Distribution:
    """Score a model's samples against the actual prices; a window without a sample counts as its point forecast."""
    shares = tuple(dict.fromkeys((*NOMINAL, interval)))
    ranked = lost = width = 0.0
    inside = dict.fromkeys(shares, 0)
    pit = np.zeros(BINS)
    for rows, samples in answers.ensembles():
        unit = truth.sigma[rows][:, None]
        origin = truth.origin_price[rows][:, None]
        members = np.sort(np.log(samples / origin[:, None]) / unit[:, None], axis=1)
        target = np.log(truth.target[rows] / origin) / unit
        ranked += float(crps(members, target).sum())
        lost += float(pinball(np.quantile(members, LEVELS, axis=1, method="weibull"), target, levels=LEVELS).sum())
        pit += pit_shares(members, target, bins=BINS) * target.size
        for share in shares:
            lower, upper = band(members, interval=share)
            inside[share] += int(((lower <= target) & (target <= upper)).sum())
            if share == interval:
                width += float((upper - lower).sum())
    count = truth.target.size
    coverage = {share: hits / count for share, hits in inside.items()}
    return Distribution(ranked / count, lost / count, coverage, width / count, pit / count)


def pinball(quantiles: Floats, truth: Floats, *, levels: tuple[float, ...]) -> Floats:
    """Compute the pinball loss, mean over levels: ``max(a·(y - q), (a - 1)·(y - q))`` (Koenker and Bassett 1978).

    Twice its mean over all levels is the continuous ranked probability score; of the median alone it is half the
    absolute error.

    Args:
        quantiles: Shape (number of levels, n, h).
        truth: Shape (n, h).
        levels: Between 0 and 1.

    Returns:
        Shape (n, h), in the unit of the inputs; lower is better.
    """
    level = np.array(levels)[:, None, None]
    miss = truth - quantiles
    return np.asarray(np.maximum(level * miss, (level - 1) * miss).mean(axis=0))


def pit_shares(samples: Floats, truth: Floats, *, bins: int) -> Floats:
    """Compute the histogram of the probability integral transform: the share of prices in each part.

    Flat is calibrated; a valley means too narrow, a hill too wide, a slope biased. Among m samples a new value has one
    of m + 1 ranks with equal probability. Its rank r, or its ranks if samples equal it, represent the range from ``r /
    (m + 1)`` to ``(r + 1 + ties) / (m + 1)``, over which the value is spread evenly: the non-randomised transform of
    Czado, Gneiting and Held (2009), Biometrics 65.

    Args:
        samples: Shape (n, m, h).
        truth: Shape (n, h).
        bins: Parts of equal probability.

    Returns:
        Shape (bins,), with sum 1.
    """
    ranks = samples.shape[1] + 1
    lower = (samples < truth[:, None]).sum(axis=1)
    upper = (samples <= truth[:, None]).sum(axis=1) + 1
    # Only few pairs of ranks occur, so each pair is spread over the bins only once.
    pairs, counts = np.unique(lower.ravel() * (ranks + 1) + upper.ravel(), return_counts=True)
    start, end = pairs // (ranks + 1) / ranks, pairs % (ranks + 1) / ranks
    edges = np.linspace(0, 1, bins + 1)
    below = np.clip((edges[None, :] - start[:, None]) / (end - start)[:, None], 0, 1)
    return np.asarray(counts @ np.diff(below, axis=1) / truth.size)
