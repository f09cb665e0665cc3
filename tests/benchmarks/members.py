"""The CRPS of few members over that of the distribution that they come from, by how they are drawn and scored.

The distribution is that of a random walk with normal steps, ten sessions ahead. `hypercube` draws as the forecasts do:
a Latin hypercube in mirrored pairs (`training.backends.sampling.stratified`).
"""

import argparse

import numpy as np
import torch
from scipy.stats import norm

from tickerforge.evaluation.metrics.accuracy import crps
from tickerforge.training.backends.sampling import stratified

HORIZON = 10
SCALE = np.sqrt(np.arange(1, HORIZON + 1))


def members(kind: str, count: int, *, windows: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the members of many windows, shape (windows, count, HORIZON), in standard deviations of each session."""
    if kind == "percentiles":
        levels = norm.ppf((np.arange(count) + 0.5) / count)
        return np.broadcast_to(levels[None, :, None], (windows, count, HORIZON))
    if kind == "independent":
        steps = rng.standard_normal((windows, count, HORIZON))
    else:
        torch.manual_seed(int(rng.integers(2**31)))
        drawn = torch.stack([stratified(count, HORIZON)[..., 0] for _ in range(windows)]).numpy()
        steps = norm.ppf(drawn)
    return np.asarray(steps.cumsum(axis=2) / SCALE)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=20_000)
    parser.add_argument("--members", type=int, nargs="+", default=[8, 16, 32, 64])
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((options.windows, HORIZON)).cumsum(axis=1) / SCALE
    own = (truth * (2 * norm.cdf(truth) - 1) + 2 * norm.pdf(truth) - 1 / np.sqrt(np.pi)).mean()
    for count in options.members:
        for kind in ("independent", "hypercube", "percentiles"):
            drawn = members(kind, count, windows=options.windows, rng=rng)
            plain, fair = (crps(drawn, truth, independent=each).mean() / own for each in (False, True))
            print(f"{count:3d} members, {kind:12s} m²: {plain:.3f}   fair: {fair:.3f}", flush=True)


if __name__ == "__main__":
    main()
