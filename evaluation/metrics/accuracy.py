"""Formulas of scores: the published protocol's, and those of price, return, direction and distribution."""

import numpy as np

from tickerforge.evaluation.core.contracts import Floats, Ints


def standardised(prices: Floats, *, mean: Floats, std: Floats) -> Floats:
    """Standardise prices (n, h) in USD by the train split: ``(p − mean) / std``; `mean` and `std` have shape (n,)."""
    return np.asarray((prices - mean[:, None]) / std[:, None])


def mse(truth: Floats, forecast: Floats) -> float:
    """Compute the mean squared error over all windows and sessions ahead: ``mean((y − f)²)``."""
    return float(np.mean(np.square(truth - forecast)))


def mae(truth: Floats, forecast: Floats) -> float:
    """Compute the mean absolute error over all windows and sessions ahead: ``mean(|y − f|)``."""
    return float(np.mean(np.abs(truth - forecast)))


def rmse(truth: Floats, forecast: Floats) -> float:
    """Compute the root mean squared error, in the unit of its inputs: ``sqrt(mean((y − f)²))``."""
    return float(np.sqrt(mse(truth, forecast)))


def scaled_errors(truth: Floats, forecast: Floats, *, sigma: Floats) -> Floats:
    """Compute squared errors of log returns from the origin, in daily variances: ``(ln(y / f) / σ)²``.

    The price at the origin cancels. For a random walk forecast by its last value the expected error is k, k sessions
    ahead. So calm and volatile windows, and cheap and expensive tickers, have equal weight.

    Args:
        truth: Prices in USD, shape (n, h).
        forecast: Prices in USD, shape (n, h).
        sigma: Standard deviation of daily log returns at the origin, shape (n,).

    Returns:
        Shape (n, h).
    """
    return np.asarray(np.square(np.log(truth / forecast) / sigma[:, None]))


def skill(loss: float, reference: float) -> float:
    """Compute the skill ``1 − loss / reference``: 0 is the reference, 1 is perfect (Murphy 1988, Mon. Wea. Rev. 116).

    If the reference makes no error at all, the score is 0 for an equal loss and −∞ for any other.
    """
    if reference == 0:
        return 0.0 if loss == 0 else float("-inf")
    return 1.0 - loss / reference


def directional_accuracy(truth: Floats, forecast: Floats, *, origin_price: Floats) -> float:
    """Compute the share of windows whose move from the origin to the last session has the forecast sign.

    A forecast of no move, or a price that did not move, counts one half, like a coin toss. So persistence scores
    exactly 0.5.
    """
    agreement = np.sign(truth[:, -1] - origin_price) * np.sign(forecast[:, -1] - origin_price)
    return float(np.mean((1 + agreement) / 2))


def mase(truth: Floats, forecast: Floats, *, scale: Floats) -> float:
    """Compute the mean absolute scaled error: ``mean(|y - f| / scale)`` (Hyndman and Koehler 2006, IJF 22).

    Below 1 is better than persistence was on the train rows over the same distances.

    Args:
        truth: Prices in USD, shape (n, h).
        forecast: Prices in USD, shape (n, h).
        scale: Mean absolute error of persistence, 1 to h sessions ahead, on the train rows of the window's ticker, in
            USD, shape (n,).
    """
    return float(np.mean(np.abs(truth - forecast) / scale[:, None]))


def matthews(moved: Floats, expected: Floats) -> float | None:
    """Compute the Matthews correlation of the signs of two moves (n,): 1 always right, 0 a coin toss, -1 always wrong.

    It is the Pearson correlation of the signs over windows in which both moved (Matthews 1975, BBA 405), so that always
    forecasting "up" gains nothing in a rising market. 0 if either sign never varies, `None` if there is no such window.
    """
    both = (moved != 0) & (expected != 0)
    return _correlation(np.sign(moved[both]), np.sign(expected[both])) if both.any() else None


def rank_correlation(moved: Floats, expected: Floats) -> float | None:
    """Compute the rank information coefficient: Spearman's correlation of forecast and actual move (n,).

    Ties have mean ranks. Moves are in daily σ, so that calm and volatile tickers are comparable. `None` if no two
    forecasts differ.
    """
    from scipy.stats import rankdata

    return _correlation(rankdata(moved), rankdata(expected)) if np.ptp(expected) > 0 else None


def _correlation(one: Floats, other: Floats) -> float:
    one, other = one - one.mean(), other - other.mean()
    length = np.sqrt((one @ one) * (other @ other))
    return float(one @ other / length) if length else 0.0


def band(samples: Floats, *, interval: float) -> tuple[Floats, Floats]:
    """Compute the central band that should contain the truth with probability `interval`.

    The edges are quantiles at ``(1 ∓ interval) / 2`` at plotting positions i / (m + 1) (Hyndman and Fan 1996,
    definition 6): with m exchangeable samples a new value is below the i-th smallest with exactly that probability. So
    a calibrated forecaster covers `interval` at any m: exactly if ``(m + 1)(1 − interval) / 2`` is whole, else within
    about 2 points. With fewer than ``2 / (1 − interval) − 1`` samples (9 for 80 %) the band is the range of the
    samples, which covers less.

    Args:
        samples: Shape (..., m, h).
        interval: Nominal coverage, between 0 and 1.

    Returns:
        Lower and upper bounds, each of shape (..., h), in the unit of the samples.
    """
    tail = (1 - interval) / 2
    lower, upper = np.quantile(samples, [tail, 1 - tail], axis=-2, method="weibull")
    return lower, upper


def crps(samples: Floats, truth: Floats, *, independent: bool = False) -> Floats:
    """Compute the continuous ranked probability score of an ensemble: ``E|X − y| − ½ E|X − X'|`` over its m members.

    The second term uses the sorted members, ``Σ (2i − m − 1) x₍ᵢ₎ / m²`` (Gneiting and Raftery 2007, JASA 102;
    Jordan, Krüger and Lerch 2019, J. Stat. Softw. 90): the score of the m members as they were issued. Members that are
    evenly spread over a distribution (percentiles, answers from a Latin hypercube) score nearly as the distribution.

    Independent members are spread less evenly and score worse the fewer they are. The fair score, with m(m − 1) instead
    of m², has the expectation of the distribution's own score (Ferro 2014, Q. J. R. Meteorol. Soc. 140). It must not be
    used for evenly spread members: these differ more than independent ones, and it would rate them better than the
    distribution itself. For one member both are the absolute error.

    Args:
        samples: Shape (n, m, h).
        truth: Shape (n, h).
        independent: Whether the members are independent draws, for the fair score.

    Returns:
        Shape (n, h), in the unit of the inputs; lower is better.
    """
    return sorted_crps(np.sort(samples.swapaxes(1, 2), axis=-1), truth, independent=independent)


def sorted_crps(members: Floats, truth: Floats, *, independent: bool = False) -> Floats:
    """Compute `crps` of members (n, h, m) that are sorted along the last axis."""
    m = members.shape[-1]
    pairs = m * (m - 1) if independent and m > 1 else m**2
    weights = (2 * np.arange(1, m + 1) - m - 1) / pairs
    return np.asarray(np.abs(members - truth[..., None]).mean(axis=-1) - members @ weights)


def valid_rate(n_valid: Ints, n_samples: Ints) -> float:
    """Compute the share of all sampled answers that parse."""
    return float(n_valid.sum() / n_samples.sum())
