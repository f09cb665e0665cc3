"""Intervals of a skill: the variance behind them, their coverage of the truth, and when there is none."""

import numpy as np
import pytest

from evaluation_frames import forecasts_of, market_windows
from tickerforge.evaluation.comparison.compare import compare
from tickerforge.evaluation.core.config import EvaluationConfig
from tickerforge.evaluation.core.contracts import Floats
from tickerforge.evaluation.evidence.intervals import long_run_covariance, skill_interval, stationary_rows

HORIZON, SESSIONS = 10, 240
POSITIONS = np.arange(SESSIONS)


@pytest.fixture(scope="module")
def draws() -> np.ndarray:
    return stationary_rows(SESSIONS, block=2 * HORIZON, replications=300, seed=0)


def losses_of(seed: int, *, ratio: float = 1.0) -> tuple[Floats, Floats]:
    """Mean squares of two forecasters' errors that overlap over a horizon; the first one's `ratio` times as large."""
    noise = np.random.default_rng(seed).standard_normal((3, 5, SESSIONS + HORIZON - 1))
    weights = np.ones(HORIZON) / np.sqrt(HORIZON)
    errors = np.array([[np.convolve(row, weights, "valid") for row in each] for each in noise])
    own, other = np.square(0.6 * errors[1:] + 0.8 * errors[0]).mean(axis=1)
    return ratio * own, other


def test_the_long_run_variance_is_that_of_statsmodels() -> None:
    from statsmodels.regression.linear_model import OLS

    losses, reference = losses_of(0)
    for series in (losses, reference, losses - reference):
        fit = OLS(series, np.ones_like(series)).fit(cov_type="HAC", cov_kwds={"maxlags": 18, "use_correction": False})
        found = long_run_covariance(series, series, lag=18)
        assert np.sqrt(found / SESSIONS) == pytest.approx(fit.bse[0])
    both = long_run_covariance(losses + reference, losses + reference, lag=18)
    parts = [long_run_covariance(a, b, lag=18) for a in (losses, reference) for b in (losses, reference)]
    assert both == pytest.approx(sum(parts))


@pytest.mark.nightly
@pytest.mark.parametrize("ratio", [1.0, 0.7])
def test_the_interval_holds_the_true_skill_as_often_as_it_says(ratio: float, draws: np.ndarray) -> None:
    held = []
    for seed in range(300):
        ends = skill_interval(*losses_of(seed, ratio=ratio), positions=POSITIONS, horizon=HORIZON, draws=draws)
        assert ends is not None
        held.append(ends[0] <= 1 - ratio <= ends[1])
    # 95 %, minus 2 points for the error of the bootstrap, minus 3 standard errors of 300 panels.
    assert 0.89 <= np.mean(held) <= 0.985


def test_the_interval_lies_around_the_skill_and_turns_with_the_unit_of_the_losses(draws: np.ndarray) -> None:
    losses, reference = losses_of(3)
    low, high = skill_interval(losses, reference, positions=POSITIONS, horizon=HORIZON, draws=draws)  # type: ignore[misc]
    assert low < 1 - losses.mean() / reference.mean() < high < 1
    again = skill_interval(7 * losses, 7 * reference, positions=POSITIONS, horizon=HORIZON, draws=draws)
    assert again == pytest.approx([low, high])


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_losses_in_proportion_to_the_reference_have_no_interval(share: float, draws: np.ndarray) -> None:
    _, reference = losses_of(3)
    found = skill_interval(share * reference, reference, positions=POSITIONS, horizon=HORIZON, draws=draws)
    assert found is None


def test_nothing_is_said_of_a_skill_against_a_loss_that_may_be_nothing() -> None:
    positions = np.arange(40)
    reference = np.zeros(40)
    reference[20] = 1.0
    rows = stationary_rows(40, block=20, replications=100, seed=0)
    losses = reference + np.random.default_rng(0).random(40)
    assert skill_interval(losses, reference, positions=positions, horizon=HORIZON, draws=rows) is None


def test_bootstrapped_rows_come_in_runs_of_the_length_of_a_block_and_repeat_by_seed() -> None:
    rows = stationary_rows(500, block=20, replications=50, seed=1)
    assert rows.shape == (50, 500)
    breaks = (np.diff(rows, axis=1) % 500 != 1).mean()
    assert breaks == pytest.approx(1 / 20, abs=0.01)
    assert np.array_equal(rows, stationary_rows(500, block=20, replications=50, seed=1))


def test_a_report_holds_the_interval_of_the_chosen_adapters_skill_at_every_session_ahead() -> None:
    windows, train = market_windows("random_walk", sessions=1200, seed=3)
    forecasts = forecasts_of(windows, train, knowledge={"sft": 0.1, "grpo_2nd": 0.05})
    report = compare(windows, forecasts, config=EvaluationConfig())
    assert report.chosen == "sft"
    assert [each.horizon for each in report.intervals] == list(range(1, HORIZON + 1))
    for each in report.intervals:
        wanted = ("test", "crps", each.horizon)
        values = next(row.values for row in report.metrics if (row.split, row.metric, row.horizon) == wanted)
        skill = 1 - (values["sft"] or 0.0) / (values["random_walk"] or 1.0)
        assert each.low < skill < each.high
