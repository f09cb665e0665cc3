"""Calibration: what is fitted, how it is shrunk, and that it helps or does nothing out of sample."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from evaluation_frames import market_windows, noisy_forecasts
from tickerforge.evaluation.comparison.calibrate import calibrated, fit_factors
from tickerforge.evaluation.comparison.compare import select_windows
from tickerforge.evaluation.core.config import EvaluationConfig
from tickerforge.evaluation.core.panels import answers_of, session_calendar, truth_of
from tickerforge.evaluation.core.rescaling import Factors, pooled_deviations, rescaled, widths
from tickerforge.evaluation.metrics.accuracy import crps
from tickerforge.evaluation.metrics.scores import score


def narrow(windows: pd.DataFrame, *, median: float, spread: float, seed: int = 0) -> pd.DataFrame:
    """Forecasts that know 10 % of each move, with the median's move and the spread multiplied."""
    made = noisy_forecasts(windows, model="sft", knowledge=0.1, noise=0.2, samples=32, seed=seed)
    return calibrated(windows, made, factors=Factors(median=median, spread=spread))


def figures(windows: pd.DataFrame, forecasts: pd.DataFrame, calendar: np.ndarray) -> dict[str, float | None]:
    truth = truth_of(windows, split="test", calendar=calendar)
    return score(truth, answers_of(forecasts, model="sft", truth=truth), interval=0.8)[0]


def test_the_factors_move_median_and_samples_in_log_returns_from_the_origin() -> None:
    samples = 100 * np.exp(np.array([[0.1], [0.2], [0.4]]))
    factors = Factors(median=0.5, spread=2)
    drawn, median = rescaled(samples, 100 * np.exp(np.array([0.2])), origin_price=100.0, sigma=0.05, factors=factors)
    np.testing.assert_allclose(np.log(drawn[:, 0] / 100), [-0.1, 0.1, 0.5])
    np.testing.assert_allclose(np.log(median / 100), [0.1])


def test_the_spread_of_a_window_moves_towards_the_usual_one_by_the_share_that_is_not_kept() -> None:
    apart = np.array([[[-0.02, -0.02 * np.sqrt(2)], [0.02, 0.02 * np.sqrt(2)]]])
    sigma = np.array([0.01])
    np.testing.assert_allclose(widths(apart, sigma=sigma), [2.0])
    for variation, width in ((1.0, 2.0), (0.5, np.sqrt(2 * 0.5)), (0.0, 0.5)):
        stretch = Factors(variation=variation, width=0.5).stretch(np.array([2.0, 0.0]))
        np.testing.assert_allclose(widths(stretch[0] * apart, sigma=sigma), [width])
        assert stretch[1] == 1


@pytest.mark.parametrize("knows", [True, False])
def test_variation_of_the_spread_is_kept_if_it_is_knowledge_and_else_removed(knows: bool) -> None:
    windows, _ = market_windows(sessions=4000)
    selected, calendar = select_windows(windows, config=EvaluationConfig()), session_calendar(windows)
    forecasts = noisy_forecasts(selected, model="sft", knowledge=0.0, noise=0.0, samples=32)
    times = np.exp(0.5 * np.random.default_rng(0).standard_normal(len(selected)))
    origins = [history[-1] for history in selected["history"]]
    for row, (origin, factor) in enumerate(zip(origins, times, strict=True)):
        forecasts.at[row, "samples"] = list(origin * (np.stack(forecasts.at[row, "samples"]) / origin) ** factor)
    if knows:
        moved = [o * (t / o) ** f for o, t, f in zip(origins, selected["target"], times, strict=True)]
        selected = selected.assign(target=pd.Series(moved, selected.index))
    found = fit_factors(selected, forecasts, model="sft", calendar=calendar)
    before = figures(selected, forecasts, calendar)["crps"] or 0
    after = figures(selected, calibrated(selected, forecasts, factors=found), calendar)["crps"] or 9
    if knows:
        assert found.variation > 0.7
        assert after < 1.01 * before
    else:
        assert found.variation < 0.3
        assert after < 0.97 * before


def test_smoothing_makes_few_samples_score_nearly_as_their_distribution_and_keeps_the_paths_in_order() -> None:
    rng = np.random.default_rng(0)
    root = np.sqrt(np.arange(1, 11))
    drawn = np.cumsum(rng.standard_normal((4000, 8, 10)), axis=2)
    smooth = pooled_deviations(drawn)
    np.testing.assert_array_equal(np.argsort(smooth, axis=1), np.argsort(drawn, axis=1))
    truth = root * rng.standard_normal((4000, 10))
    perfect = np.broadcast_to(norm.ppf(np.arange(1, 100) / 100)[:, None] * root, (4000, 99, 10))
    raw, smoothed, best = (crps(each, truth).mean() for each in (drawn, smooth, perfect))
    assert smoothed - best < 0.75 * (raw - best)


def test_smoothing_is_chosen_if_it_helps_and_used_by_every_forecast() -> None:
    windows, _ = market_windows(sessions=3000)
    selected, calendar = select_windows(windows, config=EvaluationConfig()), session_calendar(windows)
    forecasts = noisy_forecasts(selected, model="sft", knowledge=0.0, noise=0.0, samples=9)
    found = fit_factors(selected, forecasts, model="sft", calendar=calendar)
    assert found.smooth
    before = figures(selected, forecasts, calendar)
    after = figures(selected, calibrated(selected, forecasts, factors=found), calendar)
    assert (after["crps"] or 9) < 0.99 * (before["crps"] or 0)


@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_a_wrong_spread_is_undone_and_the_bands_hold_what_they_should(spread: float) -> None:
    windows, _ = market_windows(sessions=3000)
    selected, calendar = select_windows(windows, config=EvaluationConfig()), session_calendar(windows)
    forecasts = narrow(selected, median=1.0, spread=spread)
    found = fit_factors(selected, forecasts, model="sft", calendar=calendar)
    assert found.spread == pytest.approx(1 / spread, rel=0.25)
    before = figures(selected, forecasts, calendar)
    after = figures(selected, calibrated(selected, forecasts, factors=found), calendar)
    assert (after["crps"] or 9) < 0.97 * (before["crps"] or 0)
    assert abs((after["coverage"] or 0) - 0.8) < 0.07


@pytest.mark.nightly
def test_calibrated_forecasts_are_left_nearly_as_they_are() -> None:
    changes = []
    for seed in range(8):
        windows, _ = market_windows(sessions=1500, seed=seed)
        selected, calendar = select_windows(windows, config=EvaluationConfig()), session_calendar(windows)
        forecasts = narrow(selected, median=1.0, spread=1.0, seed=seed)
        found = fit_factors(selected, forecasts, model="sft", calendar=calendar)
        before = figures(selected, forecasts, calendar)["crps"] or 0
        after = figures(selected, calibrated(selected, forecasts, factors=found), calendar)["crps"] or 0
        changes.append(after / before - 1)
    assert np.mean(changes) < 0.004


def test_too_few_windows_and_windows_without_an_answer_change_nothing() -> None:
    windows, _ = market_windows()
    few = select_windows(windows, config=EvaluationConfig(max_windows=6))
    forecasts = narrow(few, median=1.0, spread=0.4)
    assert fit_factors(few, forecasts, model="sft", calendar=session_calendar(windows)) == Factors()
    silent = forecasts.assign(samples=pd.Series([[]] * len(forecasts), forecasts.index), n_valid=0)
    again = calibrated(few, silent, factors=Factors(median=0.5, spread=2))
    for one, other in zip(again["median"], silent["median"], strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_test_split_is_not_looked_at() -> None:
    windows, _ = market_windows(sessions=1500)
    selected, calendar = select_windows(windows, config=EvaluationConfig()), session_calendar(windows)
    forecasts = narrow(selected, median=1.0, spread=0.5)
    shaken = selected.copy()
    later = shaken["split"] == "test"
    shaken.loc[later, "target"] = pd.Series([1.3 * each for each in selected.loc[later, "target"]], shaken.index[later])
    kept = [fit_factors(frame, forecasts, model="sft", calendar=calendar) for frame in (selected, shaken)]
    assert kept[0] == kept[1]
    assert not kept[0].change_nothing
