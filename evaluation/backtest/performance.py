"""What a series of returns was worth: return, volatility, Sharpe, Sortino, drawdown, and Sharpe deflated for search."""

import numpy as np

from tickerforge.evaluation.core.contracts import Floats

SESSIONS_A_YEAR = 252


def total_return(returns: Floats) -> float:
    """What the whole series multiplied the capital by, less one; `returns` are simple, one a session, shape (n,)."""
    return float(np.prod(1 + returns) - 1)


def annual_return(returns: Floats) -> float:
    """The constant yearly growth that ends with the same capital: ``(1 + total)^(252 / n) - 1``."""
    return float((1 + total_return(returns)) ** (SESSIONS_A_YEAR / len(returns)) - 1)


def volatility(returns: Floats) -> float:
    """Yearly standard deviation: that of a session, times ``sqrt(252)``; 0 for a single session."""
    return float(returns.std(ddof=1) * np.sqrt(SESSIONS_A_YEAR)) if len(returns) > 1 else 0.0


def sharpe(returns: Floats) -> float | None:
    """Yearly Sharpe ratio over a riskless rate of zero: ``mean / std · sqrt(252)`` (Sharpe 1994, JPM 21).

    `None` where the returns do not vary, as those of an account that never held anything.
    """
    if np.ptp(returns) == 0:
        return None
    return float(returns.mean() / returns.std(ddof=1) * np.sqrt(SESSIONS_A_YEAR))


def sortino(returns: Floats) -> float | None:
    """Yearly Sortino ratio over zero: ``mean / sqrt(mean(min(r, 0)²)) · sqrt(252)`` (Sortino and Price 1994, JoI 3).

    `None` without a session of loss.
    """
    downside = np.sqrt(np.mean(np.square(np.minimum(returns, 0))))
    return float(returns.mean() / downside * np.sqrt(SESSIONS_A_YEAR)) if downside > 0 else None


def max_drawdown(returns: Floats) -> float:
    """Largest fall of the capital below an earlier height, the start included, as a share of that height."""
    capital = np.concatenate([[1.0], np.cumprod(1 + returns)])
    return float(np.max(1 - capital / np.maximum.accumulate(capital)))


def deflated_sharpe(returns: Floats, *, trials: Floats, variants: int) -> float | None:
    """The chance that the true Sharpe ratio is above zero, given that the best of `variants` was looked for.

    The probabilistic Sharpe ratio, which knows the length, skew and kurtosis of the series, against the largest Sharpe
    ratio that chance would show among so many variants without any edge (Bailey and López de Prado 2014, "The Deflated
    Sharpe Ratio", JPM 40; skfolio's). That maximum grows with the spread of the variants' ratios. Here the spread is
    never taken to be less than chance alone makes it, ``1 / sqrt(n)``: adapters trained one from the other trade alike,
    and the spread of a few of them says little of what was tried before. That errs on the side of caution.

    Args:
        returns: Simple returns by session, shape (n,).
        trials: Yearly Sharpe ratios of the variants at hand, `nan` for one that never traded.
        variants: How many were tried in all; at least 1.

    Returns:
        Between 0 and 1, 0.95 being the customary bar; `None` for fewer than three sessions, or where the returns do not
        vary.
    """
    if len(returns) < 3 or np.ptp(returns) == 0:
        return None
    from skfolio.measures import expected_max_sharpe_ratio, probabilistic_sharpe_ratio

    known = trials[~np.isnan(trials)] / np.sqrt(SESSIONS_A_YEAR)
    seen = known.std(ddof=1) if len(known) > 1 else 0.0
    best_of_chance = expected_max_sharpe_ratio(
        n_trials=variants, trial_sharpe_ratio_std=max(float(seen), 1 / np.sqrt(len(returns)))
    )
    found = float(probabilistic_sharpe_ratio(returns, benchmark_sharpe_ratio=best_of_chance))
    return None if np.isnan(found) else found
