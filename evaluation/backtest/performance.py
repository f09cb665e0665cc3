"""Measures of a series of returns: return, volatility, Sharpe, Sortino, drawdown, and the deflated Sharpe ratio."""

import numpy as np

from tickerforge.evaluation.core.contracts import Floats

SESSIONS_PER_YEAR = 252


def total_return(returns: Floats) -> float:
    """Return the growth of the capital over the whole series; `returns` are simple, one per session, shape (n,)."""
    return float(np.prod(1 + returns) - 1)


def annual_return(returns: Floats) -> float:
    """Return the constant yearly growth that gives the same final capital: ``(1 + total)^(252 / n) - 1``."""
    return float((1 + total_return(returns)) ** (SESSIONS_PER_YEAR / len(returns)) - 1)


def volatility(returns: Floats) -> float:
    """Return the yearly standard deviation: the daily one times ``sqrt(252)``; 0 for a single session."""
    return float(returns.std(ddof=1) * np.sqrt(SESSIONS_PER_YEAR)) if len(returns) > 1 else 0.0


def sharpe(returns: Floats) -> float | None:
    """Return the yearly Sharpe ratio over a riskless rate of 0: ``mean / std · sqrt(252)`` (Sharpe 1994, JPM 21).

    `None` if the returns do not vary, for example because the account never held anything.
    """
    if np.ptp(returns) == 0:
        return None
    return float(returns.mean() / returns.std(ddof=1) * np.sqrt(SESSIONS_PER_YEAR))


def sortino(returns: Floats) -> float | None:
    """Return the yearly Sortino ratio over 0: ``mean / sqrt(mean(min(r, 0)²)) · sqrt(252)``.

    Source: Sortino and Price 1994, JoI 3. `None` if no session had a loss.
    """
    downside = np.sqrt(np.mean(np.square(np.minimum(returns, 0))))
    return float(returns.mean() / downside * np.sqrt(SESSIONS_PER_YEAR)) if downside > 0 else None


def max_drawdown(returns: Floats) -> float:
    """Return the largest fall of the capital below an earlier high (or the start), as a share of that high."""
    capital = np.concatenate([[1.0], np.cumprod(1 + returns)])
    return float(np.max(1 - capital / np.maximum.accumulate(capital)))


def deflated_sharpe(returns: Floats, *, trials: Floats, variants: int) -> float | None:
    """Return the probability that the true Sharpe ratio is above 0, corrected for choosing the best of `variants`.

    This is the probabilistic Sharpe ratio against the largest Sharpe ratio that chance alone would show among that many
    variants (Bailey and López de Prado 2014, "The Deflated Sharpe Ratio", JPM 40). That maximum grows with the spread
    of the variants' ratios. Here the spread is at least that of pure chance, ``1 / sqrt(n)``: adapters that are trained
    one from the other trade alike, and the spread of a few of them says little about earlier trials. So the result is
    rather too small than too large.

    Args:
        returns: Simple returns by session, shape (n,).
        trials: Yearly Sharpe ratios of the variants of this run, NaN for one that never traded.
        variants: Number of all variants tried; at least 1.

    Returns:
        Between 0 and 1, where 0.95 is the usual threshold; `None` for fewer than three sessions, or if the returns do
        not vary.
    """
    if len(returns) < 3 or np.ptp(returns) == 0:
        return None
    from scipy.stats import kurtosis, skew

    known = trials[~np.isnan(trials)] / np.sqrt(SESSIONS_PER_YEAR)
    seen = float(known.std(ddof=1)) if len(known) > 1 else 0.0
    return probabilistic_sharpe(
        float(returns.mean() / returns.std(ddof=1)),
        benchmark=expected_max_sharpe(variants, spread=max(seen, 1 / np.sqrt(len(returns)))),
        sessions=len(returns),
        skewness=float(skew(returns)),
        kurtosis=float(kurtosis(returns, fisher=False)),
    )


def expected_max_sharpe(variants: int, *, spread: float) -> float:
    """Return the expected maximum of `variants` independent normal Sharpe ratios with mean 0 and this deviation.

    ``spread · ((1 − γ) Z⁻¹(1 − 1/N) + γ Z⁻¹(1 − 1/(N e)))``, where γ is the Euler-Mascheroni constant and Z the normal
    distribution (Bailey and López de Prado 2014, equation 1). 0 for a single variant.
    """
    from scipy.stats import norm

    if variants == 1:
        return 0.0
    quantiles = norm.ppf([1 - 1 / variants, 1 - 1 / (variants * np.e)])
    return float(spread * (np.array([1 - np.euler_gamma, np.euler_gamma]) @ quantiles))


def probabilistic_sharpe(
    ratio: float, *, benchmark: float, sessions: int, skewness: float, kurtosis: float
) -> float | None:
    """Return the probability that the true Sharpe ratio exceeds `benchmark`; ratios are daily, not yearly.

    ``Z((SR − SR₀) sqrt(n − 1) / sqrt(1 − γ₃ SR + (γ₄ − 1)/4 · SR²))`` with skewness γ₃ and kurtosis γ₄, 3 for a normal
    distribution (Bailey and López de Prado 2012, "The Sharpe Ratio Efficient Frontier", JoR 15). `None` if the term
    below the root is not positive.
    """
    from scipy.stats import norm

    variance = 1 - skewness * ratio + (kurtosis - 1) / 4 * ratio**2
    if variance <= 0:
        return None
    return float(norm.cdf((ratio - benchmark) * np.sqrt(sessions - 1) / np.sqrt(variance)))
