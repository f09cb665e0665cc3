"""Scores of a predictive distribution: CRPS, quantiles, bands of several widths, probability integral transform."""

from dataclasses import dataclass

import numpy as np

from tickerforge.evaluation.core.contracts import Floats
from tickerforge.evaluation.core.panels import Answers, Truth
from tickerforge.evaluation.metrics.accuracy import sorted_crps

LEVELS = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))
"""Quantiles over which the pinball loss is averaged."""
NOMINAL = (0.5, 0.8, 0.95)
"""Bands whose coverage is in every report."""
BINS = 10
TAILS = (0.01, 0.05)
"""Probabilities of the value at risk."""


@dataclass(frozen=True)
class Distribution:
    """How a model's samples fit the actual prices; means over windows and sessions ahead, in daily σ of log returns.

    `crps` (n, h) has every window. `coverage` of the bands of `NOMINAL` and of the requested one, by nominal share;
    `width` of the requested one; `pit` is the share of the prices in each tenth of the predictive distribution.
    `variance` (n,) is the mean squared daily move along the sampled paths, in daily variances; NaN without samples.
    `below` (n, 2) says whether the first price is below the quantile of each of `TAILS`; NaN if there are too few
    samples for that quantile.
    """

    crps: Floats
    pinball: float
    coverage: dict[float, float]
    width: float
    pit: Floats
    variance: Floats
    below: Floats


def distribution(truth: Truth, answers: Answers, *, interval: float) -> Distribution:
    """Score a model's samples against the actual prices; a window without a sample counts as its point forecast."""
    shares = tuple(dict.fromkeys((*NOMINAL, interval)))
    edges = [level for share in shares for level in ((1 - share) / 2, (1 + share) / 2)]
    ranked = np.empty_like(truth.target)
    variance = np.full(len(truth.target), np.nan)
    below = np.full((len(truth.target), len(TAILS)), np.nan)
    lost = width = 0.0
    inside = dict.fromkeys(shares, 0)
    pit = np.zeros(BINS)
    for rows, samples in answers.ensembles():
        # Members last, so that sorting and quantiles run over adjacent values.
        paths = samples.swapaxes(1, 2) / truth.origin_price[rows, None, None]
        np.log(paths, out=paths)
        paths /= truth.sigma[rows, None, None]
        target = np.log(truth.target[rows] / truth.origin_price[rows, None]) / truth.sigma[rows, None]
        if answers.n_members[rows[0]]:
            variance[rows] = path_variance(paths)
        members = np.sort(paths, axis=-1)
        ranked[rows] = sorted_crps(members, target)
        lost += float(pinball(sorted_quantiles(members, LEVELS), target, levels=LEVELS).sum())
        pit += _sorted_pit(members, target) * target.size
        ends = sorted_quantiles(members, edges)
        for place, share in enumerate(shares):
            lower, upper = ends[2 * place], ends[2 * place + 1]
            inside[share] += int(((lower <= target) & (target <= upper)).sum())
            if share == interval:
                width += float((upper - lower).sum())
        for place, tail in enumerate(TAILS):
            if members.shape[-1] + 1 >= round(1 / tail):
                below[rows, place] = target[:, 0] < sorted_quantiles(members[:, :1], [tail])[0, :, 0]
    count = truth.target.size
    coverage = {share: hits / count for share, hits in inside.items()}
    return Distribution(ranked, lost / count, coverage, width / count, pit / count, variance, below)


def path_variance(paths: Floats) -> Floats:
    """Return the mean squared daily move of paths (n, h, m) that start at zero, shape (n,)."""
    total = np.square(paths[:, 0]).mean(axis=-1)
    for step in range(1, paths.shape[1]):
        total += np.square(paths[:, step] - paths[:, step - 1]).mean(axis=-1)
    return np.asarray(total / paths.shape[1])


def sorted_quantiles(members: Floats, levels: list[float] | tuple[float, ...]) -> Floats:
    """Compute quantiles of sorted members at plotting positions i / (m + 1), as `evaluation.metrics.accuracy.band`.

    Args:
        members: Shape (n, h, m), sorted along the last axis.
        levels: Between 0 and 1.

    Returns:
        Shape (number of levels, n, h).
    """
    m = members.shape[-1]
    place = np.clip((m + 1) * np.array(levels) - 1, 0, m - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, m - 1)
    share = place - low
    return np.stack(
        [
            members[..., a] if not w else (1 - w) * members[..., a] + w * members[..., b]
            for a, b, w in zip(low.tolist(), high.tolist(), share.tolist(), strict=True)
        ]
    )


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


def pit_shares(samples: Floats, truth: Floats, *, bins: int = BINS) -> Floats:
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
    return _sorted_pit(samples.swapaxes(1, 2), truth, bins=bins)


def _sorted_pit(members: Floats, truth: Floats, *, bins: int = BINS) -> Floats:
    """Compute `pit_shares` of members (n, h, m)."""
    ranks = members.shape[-1] + 1
    lower = np.count_nonzero(members < truth[..., None], axis=-1)
    upper = np.count_nonzero(members <= truth[..., None], axis=-1) + 1
    # Only few pairs of ranks occur, so each pair is spread over the bins only once.
    pairs, counts = np.unique(lower.ravel() * (ranks + 1) + upper.ravel(), return_counts=True)
    start, end = pairs // (ranks + 1) / ranks, pairs % (ranks + 1) / ranks
    edges = np.linspace(0, 1, bins + 1)
    below = np.clip((edges[None, :] - start[:, None]) / (end - start)[:, None], 0, 1)
    return np.asarray(counts @ np.diff(below, axis=1) / truth.size)
