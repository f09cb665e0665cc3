"""The Diebold-Mariano test: its formula, its size under true nulls with overlap, its power, its refusals."""

import numpy as np
import pytest
from scipy.stats import norm

from tickerforge.evaluation.core.contracts import Floats
from tickerforge.evaluation.evidence.significance import by_session, diebold_mariano, hac_lag, holm, independent_rows

HORIZON = 10


def overlapping_null(windows: int, *, seed: int, edge: float = 0.0) -> tuple[Floats, Floats]:
    """Losses of two forecasters of one random walk with Student-t steps: up by a steady drift, and down by it.

    Without `edge` their expected losses are equal and their difference is a moving sum over the horizon, the worst
    case of overlap. `edge` moves the walk by that much a session towards the first forecaster.
    """
    rng = np.random.default_rng(seed)
    steps = rng.standard_t(5, windows + HORIZON) / np.sqrt(5 / 3) + edge
    path = np.concatenate([[0.0], np.cumsum(steps)])
    ahead = np.arange(1, HORIZON + 1)
    moves = path[np.arange(windows)[:, None] + ahead] - path[:windows, None]
    up, down = 0.3 * ahead, -0.3 * ahead
    return np.square(moves - up).mean(axis=1), np.square(moves - down).mean(axis=1)


def rejection_rate(windows: int, *, panels: int, edge: float = 0.0, stride: int = 1) -> float:
    positions = np.arange(0, windows, stride)
    rejected = 0
    for seed in range(panels):
        model, reference = overlapping_null(windows, seed=seed, edge=edge)
        test = diebold_mariano(model[positions], reference[positions], positions=positions, horizon=HORIZON)
        rejected += test.p_value < 0.05
    return rejected / panels


def test_statistic_follows_the_published_formulas() -> None:
    from scipy.stats import t

    model, reference = overlapping_null(120, seed=1)
    result = diebold_mariano(model, reference, positions=np.arange(120), horizon=HORIZON)
    n, lag = 120, 18
    centred = (model - reference) - (model - reference).mean()
    variance = centred @ centred / n
    for k in range(1, lag + 1):
        variance += 2 * (1 - k / (lag + 1)) * (centred[k:] @ centred[:-k]) / n
    reach = lag + 1
    correction = (n + 1 - 2 * reach + reach * (reach - 1) / n) / n
    statistic = (model - reference).mean() / np.sqrt(variance / n) * np.sqrt(correction)
    assert (result.lag, result.windows, result.independent) == (18, 120, 12)
    assert result.statistic == pytest.approx(statistic)
    assert result.p_value == pytest.approx(t.cdf(statistic, 11))


@pytest.mark.parametrize("windows", [60, 240])
def test_under_a_true_null_with_overlap_it_rejects_near_the_nominal_rate(windows: int) -> None:
    """5 % ± 2 points, plus 1 point for chance: with 1000 panels the standard error of the rate is 0.7 points."""
    assert 0.02 <= rejection_rate(windows, panels=1000) <= 0.08


def test_thinned_origins_keep_the_rate() -> None:
    assert 0.02 <= rejection_rate(240, panels=600, stride=4) <= 0.08


def test_a_planted_edge_is_found() -> None:
    assert rejection_rate(240, panels=100, edge=0.25) > 0.9


def test_treating_overlapping_windows_as_independent_would_reject_far_too_often() -> None:
    """A plain t-test on the same panels makes the error that this module avoids."""
    from scipy.stats import ttest_1samp

    rejected = []
    for seed in range(200):
        model, reference = overlapping_null(240, seed=seed)
        rejected.append(ttest_1samp(model - reference, 0, alternative="less").pvalue < 0.05)
    assert np.mean(rejected) > 0.2


def test_lag_reaches_twice_the_overlap_in_sessions_whatever_the_stride() -> None:
    assert hac_lag(np.arange(100), horizon=10) == 18
    assert hac_lag(np.arange(0, 100, 5), horizon=10) == 3
    assert hac_lag(np.arange(0, 160, 20), horizon=10) == 0


def test_in_a_long_split_the_lag_reaches_a_tenth_of_it() -> None:
    assert [hac_lag(np.arange(windows), horizon=10) for windows in (180, 240, 500)] == [18, 24, 50]
    assert hac_lag(np.arange(0, 400, 20), horizon=10) == 1
    assert hac_lag(np.arange(80), horizon=1) == 9


def test_independent_windows_share_no_target_session() -> None:
    np.testing.assert_array_equal(independent_rows(np.arange(41), horizon=10), [0, 10, 20, 30, 40])
    np.testing.assert_array_equal(independent_rows(np.array([0, 4, 11, 12, 30]), horizon=10), [0, 2, 4])


def test_equal_losses_are_no_evidence() -> None:
    losses = np.linspace(1, 2, 80)
    result = diebold_mariano(losses, losses, positions=np.arange(80), horizon=HORIZON)
    assert (result.p_value, result.statistic) == (1.0, None)
    assert "equal" in result.note


def test_a_difference_that_never_varies_is_no_evidence() -> None:
    losses = np.linspace(1, 2, 80)
    result = diebold_mariano(losses - 0.1, losses, positions=np.arange(80), horizon=HORIZON)
    assert result.p_value == 1.0
    assert "does not vary" in result.note


@pytest.mark.parametrize("windows", [1, 2, 12, 30])
def test_too_few_independent_windows_are_no_evidence(windows: int) -> None:
    losses = np.arange(float(windows))
    result = diebold_mariano(losses, 10 + 2 * losses, positions=np.arange(windows), horizon=HORIZON)
    assert result.p_value == 1.0
    assert f"only {-(-windows // 10)} independent" in result.note


def test_a_worse_forecaster_has_a_large_p_value() -> None:
    model, reference = overlapping_null(240, seed=5, edge=-0.25)
    assert diebold_mariano(model, reference, positions=np.arange(240), horizon=HORIZON).p_value > 0.9


def test_copies_of_a_ticker_add_no_evidence() -> None:
    model, reference = overlapping_null(120, seed=3, edge=0.1)
    alone = diebold_mariano(model, reference, positions=np.arange(120), horizon=HORIZON)
    positions = np.repeat(np.arange(120), 20)
    series = [by_session(np.repeat(losses, 20), positions=positions) for losses in (model, reference)]
    together = diebold_mariano(*series, positions=np.unique(positions), horizon=HORIZON)
    assert together.p_value == pytest.approx(alone.p_value)
    assert (together.windows, together.independent) == (120, 12)


def test_windows_of_a_pool_count_once_a_session_so_that_a_true_null_is_rejected_near_the_nominal_rate() -> None:
    """Ten tickers, each a mixture of one market and its own noise; every third window is missing.

    The error this avoids: windows that do not overlap, but of all tickers as if each were evidence of its own.
    """
    from scipy.stats import ttest_1samp

    rejected, naive = [], []
    for seed in range(300):
        market = np.subtract(*overlapping_null(240, seed=seed))
        own = [np.subtract(*overlapping_null(240, seed=1000 + 10 * seed + ticker)) for ticker in range(10)]
        panel = 0.8 * market + 0.6 * np.stack(own)
        there = (np.arange(240) + np.arange(10)[:, None]) % 3 > 0
        positions = np.broadcast_to(np.arange(240), panel.shape)[there]
        order = np.argsort(positions, kind="stable")
        losses, positions = panel[there][order], positions[order]
        series = by_session(losses, positions=positions)
        assert series.mean() == pytest.approx(losses.mean())
        test = diebold_mariano(series, np.zeros_like(series), positions=np.unique(positions), horizon=HORIZON)
        rejected.append(test.p_value < 0.05)
        naive.append(ttest_1samp(panel[:, ::HORIZON].ravel(), 0, alternative="less").pvalue < 0.05)
    assert 0.02 <= np.mean(rejected) <= 0.08
    assert np.mean(naive) > 0.15


def test_p_values_are_adjusted_for_their_number_as_statsmodels_does() -> None:
    from statsmodels.stats.multitest import multipletests

    for raw in ([0.01, 0.04, 0.03, 0.5], [0.2, 0.2, 0.9], [0.001]):
        assert holm(raw) == pytest.approx(multipletests(raw, method="holm")[1])


@pytest.mark.nightly
def test_the_test_on_the_crps_rejects_a_true_null_in_about_five_of_a_hundred_panels() -> None:
    positions, ahead = np.arange(120), np.arange(1, 11)
    refused = []
    for seed in range(500):
        rng = np.random.default_rng(seed)
        path = rng.standard_normal(130).cumsum()
        moves = path[positions[:, None] + ahead] - path[:120, None]
        wave = np.stack([np.convolve(each, 0.9 ** np.arange(30))[:120] for each in rng.standard_normal((4, 120))])
        wave /= wave.std(axis=1, keepdims=True)
        losses = []
        for centre, scale in (wave[:2], wave[2:]):
            spread = np.sqrt(ahead) * np.exp(0.2 * scale[:, None])
            z = (moves - 0.4 * centre[:, None]) / spread
            losses.append((spread * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))).mean(axis=1))
        refused.append(diebold_mariano(*losses, positions=positions, horizon=10).p_value <= 0.05)
    assert 0.03 <= np.mean(refused) <= 0.07
