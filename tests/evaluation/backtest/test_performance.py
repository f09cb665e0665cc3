"""Measures of a return series: closed forms, a library's, a published example, and how often the deflated one errs."""

import numpy as np
import pytest
from skfolio.measures import get_drawdowns, semi_deviation
from skfolio.measures import max_drawdown as skfolio_max_drawdown

from tickerforge.evaluation.backtest.performance import (
    annual_return,
    deflated_sharpe,
    max_drawdown,
    sharpe,
    sortino,
    total_return,
    volatility,
)

RETURNS = np.array([0.01, -0.02, 0.03, -0.01, 0.0])


def test_each_measure_is_its_closed_form() -> None:
    growth = 1.01 * 0.98 * 1.03 * 0.99
    assert total_return(RETURNS) == pytest.approx(growth - 1)
    assert annual_return(RETURNS) == pytest.approx(growth ** (252 / 5) - 1)
    deviation = np.sqrt(((RETURNS - 0.002) ** 2).sum() / 4)
    assert volatility(RETURNS) == pytest.approx(deviation * np.sqrt(252))
    assert sharpe(RETURNS) == pytest.approx(0.002 / deviation * np.sqrt(252))
    assert sortino(RETURNS) == pytest.approx(0.002 / np.sqrt((0.02**2 + 0.01**2) / 5) * np.sqrt(252))
    # From 1.01 down to 1.01 × 0.98.
    assert max_drawdown(RETURNS) == pytest.approx(0.02)


def test_a_fall_from_the_start_is_a_drawdown() -> None:
    assert max_drawdown(np.array([-0.1, 0.05])) == pytest.approx(0.1)


def test_a_library_measures_the_same() -> None:
    rng = np.random.default_rng(0)
    returns = 0.0004 + 0.012 * rng.standard_normal(700)
    assert max_drawdown(returns) == pytest.approx(float(skfolio_max_drawdown(get_drawdowns(returns, compounded=True))))
    downside = float(semi_deviation(returns, min_acceptable_return=0.0, biased=True))
    assert sortino(returns) == pytest.approx(returns.mean() / downside * np.sqrt(252))


def test_what_never_moved_has_no_ratio() -> None:
    assert sharpe(np.zeros(9)) is None
    assert sortino(np.array([0.01, 0.02])) is None
    assert deflated_sharpe(np.zeros(9), trials=np.array([1.0]), variants=3) is None


def test_the_deflated_sharpe_ratio_is_that_of_the_published_example() -> None:
    """Bailey and López de Prado (2014): 1,250 days, Sharpe 2.5 a year, skew −3, kurtosis 10, 100 trials: 0.9004."""
    # Two values in these shares have that skew and kurtosis.
    rare = 105
    raw = np.concatenate([np.full(rare, -1.0), np.full(1250 - rare, rare / (1250 - rare))])
    year = np.sqrt(250)
    returns = (raw - raw.mean()) / raw.std(ddof=1) + 2.5 / year
    # The example's trials vary by 0.5 a year of 250 sessions; ours are stated for 252.
    spread = np.sqrt(0.5) / year * np.sqrt(252)
    trials = np.array([-1.0, 1.0]) * spread / np.sqrt(2)
    assert deflated_sharpe(returns, trials=trials, variants=100) == pytest.approx(0.9004, abs=0.004)


def test_the_best_of_many_worthless_rules_passes_no_more_often_than_it_should() -> None:
    rng = np.random.default_rng(0)
    passed, naive = 0, 0
    for _ in range(200):
        returns = 0.01 * rng.standard_normal((10, 250))
        ratios = np.array([sharpe(each) or np.nan for each in returns])
        best = returns[ratios.argmax()]
        passed += (deflated_sharpe(best, trials=ratios, variants=10) or 0) > 0.95
        naive += (deflated_sharpe(best, trials=ratios, variants=1) or 0) > 0.95
    assert passed / 200 <= 0.05
    assert naive / 200 > 0.3


def test_more_variants_make_the_same_account_less_believable() -> None:
    rng = np.random.default_rng(3)
    returns = 0.001 + 0.01 * rng.standard_normal(250)
    chances = [deflated_sharpe(returns, trials=np.array([1.0]), variants=tried) for tried in (1, 3, 30, 300)]
    assert chances == sorted(chances, reverse=True)
    assert chances[0] - chances[-1] > 0.2
