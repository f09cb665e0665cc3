"""Scores of distributions against independent implementations and closed forms."""

import numpy as np
import pytest
import scoringrules
from scipy.stats import norm

from evaluation_frames import market_windows, noisy_forecasts
from tickerforge.evaluation.core.panels import answers_of, session_calendar, truth_of
from tickerforge.evaluation.metrics import accuracy as metrics
from tickerforge.evaluation.metrics.calibration import LEVELS, pinball, pit_shares, sorted_quantiles
from tickerforge.evaluation.metrics.scores import score

RNG = np.random.default_rng(5)


def test_crps_and_pinball_agree_with_scoringrules() -> None:
    samples, truth = RNG.normal(size=(30, 12, 4)), RNG.normal(size=(30, 4))
    # scoringrules' "nrg" is the energy form with m² pairs, as ours.
    expected = scoringrules.crps_ensemble(truth, samples, m_axis=1, estimator="nrg")
    np.testing.assert_allclose(metrics.crps(samples, truth), expected)
    fair = scoringrules.crps_ensemble(truth, samples, m_axis=1, estimator="fair")
    np.testing.assert_allclose(metrics.crps(samples, truth, independent=True), fair)
    quantiles = np.quantile(samples, LEVELS, axis=1)
    known = np.mean([scoringrules.quantile_score(truth, q, a) for q, a in zip(quantiles, LEVELS, strict=True)], axis=0)
    np.testing.assert_allclose(pinball(quantiles, truth, levels=LEVELS), known)


def test_each_way_of_drawing_has_its_formula_and_the_fair_one_flatters_evenly_spread_members() -> None:
    rng = np.random.default_rng(0)
    truth = norm.ppf((np.arange(20_000) + 0.5) / 20_000)[:, None]
    own = 1 / np.sqrt(np.pi)
    even = np.broadcast_to(norm.ppf((np.arange(16) + 0.5) / 16)[None, :, None], (20_000, 16, 1))
    drawn = rng.normal(size=(20_000, 16, 1))
    assert metrics.crps(even, truth).mean() == pytest.approx(1.003 * own, rel=0.001)
    assert metrics.crps(drawn, truth, independent=True).mean() == pytest.approx(own, rel=0.015)
    assert metrics.crps(drawn, truth).mean() == pytest.approx((1 + 1 / 16) * own, rel=0.015)
    assert metrics.crps(even, truth, independent=True).mean() < 0.95 * own


def test_quantiles_of_sorted_members_are_those_of_numpy() -> None:
    samples = RNG.normal(size=(5, 12, 3))
    members = np.sort(samples.swapaxes(1, 2), axis=-1)
    levels = (0.01, 0.1, 0.25, 0.5, 0.77, 0.975)
    expected = np.quantile(samples, levels, axis=1, method="weibull")
    np.testing.assert_allclose(sorted_quantiles(members, levels), expected)


def test_pinball_of_the_median_is_half_the_absolute_error() -> None:
    truth = RNG.normal(size=(5, 2))
    found = pinball(np.zeros((1, 5, 2)), truth, levels=(0.5,))
    np.testing.assert_allclose(found, np.abs(truth) / 2)


def test_twice_the_pinball_loss_over_all_levels_is_the_closed_form_of_the_crps() -> None:
    levels = tuple((np.arange(2000) + 0.5) / 2000)
    quantiles = norm.ppf(levels)[:, None, None]
    y = 0.7
    closed = y * (2 * norm.cdf(y) - 1) + 2 * norm.pdf(y) - 1 / np.sqrt(np.pi)
    assert 2 * pinball(quantiles, np.array([[y]]), levels=levels)[0, 0] == pytest.approx(closed, abs=1e-3)


@pytest.mark.parametrize("members", [7, 16, 32])
def test_pit_of_a_calibrated_forecaster_is_flat_at_any_ensemble_size(members: int) -> None:
    shares = pit_shares(RNG.normal(size=(40_000, members, 1)), RNG.normal(size=(40_000, 1)), bins=10)
    np.testing.assert_allclose(shares, 0.1, atol=0.008)
    assert shares.sum() == pytest.approx(1)


def test_pit_shows_a_narrow_forecaster_as_a_valley_and_a_low_one_as_a_slope() -> None:
    truth = RNG.normal(size=(5000, 1))
    narrow = pit_shares(0.5 * RNG.normal(size=(5000, 32, 1)), truth, bins=10)
    assert min(narrow[0], narrow[-1]) > 0.2
    low = pit_shares(RNG.normal(size=(5000, 32, 1)) - 1, truth, bins=10)
    assert low[-1] > 0.3 > 0.05 > low[0]


def test_pit_of_samples_that_all_equal_the_truth_is_spread_over_everything() -> None:
    np.testing.assert_allclose(pit_shares(np.ones((4, 9, 2)), np.ones((4, 2)), bins=5), 0.2)


def test_wider_bands_hold_more_and_their_width_is_that_of_the_band_asked_for() -> None:
    windows, _ = market_windows()
    test = windows[windows["split"] == "test"]
    forecasts = noisy_forecasts(test, model="sft", knowledge=0.0, noise=0.0, samples=40)
    truth = truth_of(test, split="test", calendar=session_calendar(windows))
    answers = answers_of(forecasts, model="sft", truth=truth)
    figures, _ = score(truth, answers, interval=0.8)
    coverage = [figures[f"coverage_{share}"] or 0.0 for share in (50, 80, 95)]
    assert coverage[0] < coverage[1] < coverage[2]
    assert figures["coverage"] == figures["coverage_80"]
    # A normal 80 % band is 2.56 standard deviations wide; k sessions ahead these are the root of k.
    expected = 2 * norm.ppf(0.9) * np.sqrt(np.arange(1, 11)).mean()
    assert figures["width"] == pytest.approx(expected, rel=0.1)
