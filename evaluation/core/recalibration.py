"""Recalibration of a forecast distribution: its median, its width and its shape."""

import numpy as np
from pydantic import Field

from tickerforge.evaluation.core.frames import Floats, Ints
from tickerforge.evaluation.core.volatility import Volatility
from tickerforge.features.config import FrozenModel

MEMBERS = 99
PERCENTILES: Floats = np.arange(1, MEMBERS + 1) / (MEMBERS + 1)
"""Levels of the samples of free and recalibrated forecasts: bands and the 1 % quantile need no interpolation."""


class Recalibration(FrozenModel):
    """How a model's answers are changed; the default changes nothing.

    The log move of the median is multiplied by `median`. The deviations of the answers from it are replaced by
    `errors`, the percentiles 1 to 99 of a distribution (error dressing: Roulston and Smith 2003, Tellus A 55). Each
    of the 99 paths takes its rank at each session from an answer, which several paths share (ensemble copula
    coupling: Schefzik et al. 2013, Statist. Sci. 28). The deviations are as wide as errors usually are at each
    session (`sizes`, in daily `volatility`) times (w / `width`)^`variation`, with w the spread of the answers
    (`spreads`) and `width` its usual value: `variation` is the share that is kept of how much the spread varies
    between windows.
    """

    median: float = Field(default=1.0, ge=0)
    variation: float = Field(default=1.0, ge=0, le=1)
    width: float = Field(default=1.0, gt=0)
    sizes: tuple[float, ...] = ()
    errors: tuple[float, ...] = Field(default=(), max_length=MEMBERS)
    volatility: Volatility = Volatility()

    @property
    def changes_nothing(self) -> bool:
        """Whether answers stay as they are."""
        return not self.errors

    def deviations(self, drawn: Floats, *, sigma: Floats) -> Floats:
        """Return the recalibrated deviations of the samples from their median.

        Args:
            drawn: Log returns minus those of the median, shape (n, m, h).
            sigma: Expected daily volatility of the windows, shape (n,).

        Returns:
            Shape (n, MEMBERS, h), or `drawn` if nothing changes.
        """
        if self.changes_nothing:
            return drawn
        followed = drawn[:, followed_answers(drawn.shape[1])]
        ranks = np.argsort(np.argsort(followed, axis=1, kind="stable"), axis=1, kind="stable")
        return np.asarray(np.array(self.errors)[ranks] * self.scales(drawn, sigma=sigma)[:, None])

    def scales(self, drawn: Floats, *, sigma: Floats) -> Floats:
        """Return the expected size of the errors of windows, shape (n, h), log returns; arguments as above."""
        wide = spreads(drawn, sigma=sigma)
        known = np.where(wide > 0, wide, self.width)
        return np.asarray((sigma * (known / self.width) ** self.variation)[:, None] * np.array(self.sizes))


def followed_answers(count: int) -> Ints:
    """Return which of so many answers each of `MEMBERS` samples follows."""
    return np.arange(MEMBERS) * count // MEMBERS


def spreads(drawn: Floats, *, sigma: Floats) -> Floats:
    """Return the mean absolute deviation over samples and sessions, in daily volatility.

    Args:
        drawn: Log returns minus those of the median, shape (n, m, h); those of session h are divided by √h.
        sigma: Expected daily volatility of the windows, shape (n,).

    Returns:
        Shape (n,); 0 for windows with one sample.
    """
    root = np.sqrt(np.arange(1, drawn.shape[-1] + 1))
    return np.asarray(np.abs(drawn / root).mean(axis=(1, 2)) / sigma)


def recalibrated(
    samples: Floats, median: Floats, *, origin_price: float, sigma: float, recalibration: Recalibration
) -> tuple[Floats, Floats]:
    """Recalibrate the samples (m, h) of a window and their median (h,), all in USD; `sigma` as in `spreads`.

    The samples returned have the shape (MEMBERS, h), or (m, h) if nothing changes.
    """
    middle = np.log(median / origin_price)
    drawn = np.log(samples / origin_price) - middle
    apart = recalibration.deviations(drawn[None], sigma=np.array([sigma]))[0]
    moved = recalibration.median * middle
    return origin_price * np.exp(moved + apart), origin_price * np.exp(moved)
