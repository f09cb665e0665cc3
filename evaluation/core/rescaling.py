"""Calibration factors of a forecast distribution, and their use on sampled prices."""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tickerforge.features.config import FrozenModel

Floats = NDArray[np.float64]


class Factors(FrozenModel):
    """Factors of the median's log return from the origin, and of the spread of the samples around the median.

    `variation` is the share that is kept of how much the spread varies between windows: the logarithm of a window's
    `widths` moves towards that of the usual one, `width` (in σ of one session), by the rest. `smooth` says that the
    deviations are first `pooled_deviations`.
    """

    median: float = Field(default=1.0, ge=0)
    spread: float = Field(default=1.0, gt=0)
    variation: float = Field(default=1.0, ge=0, le=1)
    width: float = Field(default=1.0, gt=0)
    smooth: bool = False

    @property
    def change_nothing(self) -> bool:
        """Whether all three are 1, and nothing is smoothed."""
        return self.median == self.spread == self.variation == 1.0 and not self.smooth

    def stretch(self, widths: Floats) -> Floats:
        """Return what the deviations of windows are multiplied by, from the `widths` of the windows (n,)."""
        known = np.where(widths > 0, widths, self.width)
        return np.asarray(self.spread * (known / self.width) ** (self.variation - 1))


def pooled_deviations(deviations: Floats) -> Floats:
    """Replace the deviations of a window's samples from their median by quantiles over all sessions together.

    Few samples show the tails of one session badly. Divided by the root of the distance, the deviations of all sessions
    are drawn from nearly one distribution, and its quantiles at i / (m + 1) have less noise. The samples keep their
    ranks at each session, so that they stay paths (ensemble copula coupling; Schefzik et al. 2013, Statist. Sci. 28).

    Args:
        deviations: Log returns minus those of the median, shape (n, m, h).

    Returns:
        Shape (n, m, h).
    """
    n, m, h = deviations.shape
    root = np.sqrt(np.arange(1, h + 1))
    levels = np.arange(1, m + 1) / (m + 1)
    quantiles = np.quantile((deviations / root).reshape(n, -1), levels, axis=1, method="weibull").T
    ranks = np.argsort(np.argsort(deviations, axis=1, kind="stable"), axis=1, kind="stable")
    return np.asarray(np.take_along_axis(quantiles[:, :, None], ranks, axis=1) * root)


def widths(deviations: Floats, *, sigma: Floats) -> Floats:
    """Return the spread of windows: the mean absolute deviation over samples and sessions, in σ of one session.

    Args:
        deviations: Log returns minus those of the median, shape (n, m, h); those of session h are divided by √h.
        sigma: Volatility of the windows in whose units the model answers, shape (n,).

    Returns:
        Shape (n,); 0 for windows with one sample.
    """
    root = np.sqrt(np.arange(1, deviations.shape[-1] + 1))
    return np.asarray(np.abs(deviations / root).mean(axis=(1, 2)) / sigma)


def rescaled(
    samples: Floats, median: Floats, *, origin_price: float, sigma: float, factors: Factors
) -> tuple[Floats, Floats]:
    """Rescale the samples (m, h) of a window and their median (h,), all in USD; `sigma` as in `widths`."""
    middle = np.log(median / origin_price)
    apart = (np.log(samples / origin_price) - middle)[None]
    if factors.smooth:
        apart = pooled_deviations(apart)
    stretched = factors.stretch(widths(apart, sigma=np.array([sigma]))) * apart[0]
    moved = factors.median * middle + stretched
    return origin_price * np.exp(moved), origin_price * np.exp(factors.median * middle)
