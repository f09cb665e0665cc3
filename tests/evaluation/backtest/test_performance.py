"""Measures of a return series: closed forms, definitions, a published example, and how often the deflated one errs."""

import numpy as np
import pytest

from tickerforge.evaluation.backtest.performance import (
    annual_return,
    deflated_sharpe,
    expected_max_sharpe,
    max_drawdown,
    probabilistic_sharpe,
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


def test_the_definitions_over_all_pairs_of_days_and_all_losses_measure_the_same() -> None:
    rng = np.random.default_rng(0)
    returns = 0.0004 + 0.012 * rng.standard_normal(700)
    capital = [1.0]
    for each in returns:
        capital.append(capital[-1] * (1 + each))
    falls = [1 - low / high for place, high in enumerate(capital) for low in capital[place:]]
    assert max_drawdown(returns) == pytest.approx(max(falls))
    squares = sum(each**2 for each in returns if each < 0)
    assert sortino(returns) == pytest.approx(returns.mean() / np.sqrt(squares / 700) * np.sqrt(252))


def test_what_never_moved_has_no_ratio() -> None:
    assert sharpe(np.zeros(9)) is None
    assert sortino(np.array([0.01, 0.02])) is None
    assert deflated_sharpe(np.zeros(9), trials=np.array([1.0]), variants=3) is None


@pytest.mark.parametrize(
    ("variants", "skewness", "kurtosis", "expected"), [(100, -3, 10, 0.9004), (46, -3, 10, 0.9505), (88, 0, 3, 0.9505)]
)
def test_both_formulas_give_the_figures_of_the_published_example(
    variants: int, skewness: float, kurtosis: float, expected: float
) -> None:
    """Bailey and López de Prado (2014), "A Numerical Example".

    1,250 days, yearly Sharpe ratio 2.5, yearly variance of the trials' ratios 1/2, 250 days per year: the expected
    maximum of 100 trials is 0.1132, and the deflated ratio 0.9004. It is 0.9505 after 46 trials, and after 88 trials if
    the returns are normal.
    """
    benchmark = expected_max_sharpe(variants, spread=np.sqrt(0.5 / 250))
    assert expected_max_sharpe(100, spread=np.sqrt(0.5 / 250)) == pytest.approx(0.1132, abs=5e-5)
    found = probabilistic_sharpe(
        2.5 / np.sqrt(250), benchmark=benchmark, sessions=1250, skewness=skewness, kurtosis=kurtosis
    )
    assert found == pytest.approx(expected, abs=5e-5)


def test_a_single_variant_needs_no_correction_and_a_variance_below_zero_has_no_probability() -> None:
    assert expected_max_sharpe(1, spread=0.1) == 0
    assert probabilistic_sharpe(1.0, benchmark=0.0, sessions=10, skewness=3, kurtosis=3) is None


def test_returns_like_those_of_the_published_example_give_its_deflated_ratio() -> None:
    """The example above (100 trials: 0.9004), but measured on returns."""
    # Two values in these shares have that skew and kurtosis.
    rare = 105
    raw = np.concatenate([np.full(rare, -1.0), np.full(1250 - rare, rare / (1250 - rare))])
    year = np.sqrt(250)
    returns = (raw - raw.mean()) / raw.std(ddof=1) + 2.5 / year
    # The trials of the example have a yearly variance of 0.5 with 250 sessions per year; ours are for 252.
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
