"""Recalibration: what is fitted, how it is shrunk, and that it helps or does nothing out of sample."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from evaluation_frames import market_windows, noisy_forecasts
from tickerforge.evaluation.baselines.simple import baseline_forecasts
from tickerforge.evaluation.comparison.compare import select_windows
from tickerforge.evaluation.comparison.recalibrate import fit_recalibration, recalibrated_frame
from tickerforge.evaluation.core.config import EvaluationConfig
from tickerforge.evaluation.core.errors import ForecastsError
from tickerforge.evaluation.core.panels import answers_of, session_calendar, truth_of
from tickerforge.evaluation.core.recalibration import Recalibration, followed_answers, recalibrated, spreads
from tickerforge.evaluation.metrics.scores import score
from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.features.splits import split_borders
from tickerforge.features.synthetic import market
from tickerforge.features.windows import build_windows

NORMAL = tuple(float(each) for each in norm.ppf(np.arange(1, 100) / 100))


def stretched(windows: pd.DataFrame, *, median: float = 1.0, spread: float, seed: int = 0) -> pd.DataFrame:
    """Forecasts that know 10 % of each move, with the median's move and the spread multiplied."""
    made = noisy_forecasts(windows, model="sft", knowledge=0.1, noise=0.2, samples=32, seed=seed)
    origins = [float(history[-1]) for history in windows["history"]]
    for row, origin in enumerate(origins):
        middle = np.log(np.asarray(made.at[row, "median"]) / origin)
        apart = np.log(np.stack(made.at[row, "samples"]) / origin) - middle
        made.at[row, "samples"] = list(origin * np.exp(median * middle + spread * apart))
        made.at[row, "median"] = origin * np.exp(median * middle)
    return made


def train_of(windows: pd.DataFrame) -> pd.DataFrame:
    return windows[windows["split"] == "train"]


def figures(windows: pd.DataFrame, forecasts: pd.DataFrame, calendar: np.ndarray) -> dict[str, float | None]:
    truth = truth_of(windows, split="test", calendar=calendar)
    return score(truth, answers_of(forecasts, model="sft", truth=truth), interval=0.8)[0]


def test_errors_of_the_past_take_the_place_of_deviations_in_the_order_of_the_answers() -> None:
    found = Recalibration(median=0.5, variation=0.0, sizes=(1.0, 2.0), errors=NORMAL)
    samples = 100 * np.exp(np.array([[0.1, 0.5], [0.2, 0.3], [0.4, 0.2]]))
    middle = 100 * np.exp(np.array([0.2, 0.3]))
    drawn, median = recalibrated(samples, middle, origin_price=100.0, sigma=0.05, recalibration=found)
    np.testing.assert_allclose(np.log(median / 100), [0.1, 0.15])
    low, high = (followed_answers(3) == answer for answer in (0, 2))
    for session, (size, lowest, highest) in enumerate(((0.05, low, high), (0.1, high, low))):
        apart = np.log(drawn[:, session] / median[session])
        np.testing.assert_allclose(np.sort(apart), size * np.array(NORMAL), atol=1e-12)
        assert apart[lowest].max() < np.delete(apart, np.flatnonzero(lowest)).min()
        assert apart[highest].min() > np.delete(apart, np.flatnonzero(highest)).max()

    same, _ = recalibrated(samples, middle, origin_price=100.0, sigma=0.05, recalibration=Recalibration())
    np.testing.assert_allclose(same, samples)


def test_the_spread_of_a_window_moves_towards_the_usual_one_by_the_share_that_is_not_kept() -> None:
    apart = np.array([[[-0.02, -0.02 * np.sqrt(2)], [0.02, 0.02 * np.sqrt(2)]], [[0.0, 0.0], [0.0, 0.0]]])
    sigma = np.array([0.01, 0.01])
    np.testing.assert_allclose(spreads(apart, sigma=sigma), [2.0, 0.0])
    for variation, times in ((1.0, 4.0), (0.5, 2.0), (0.0, 1.0)):
        found = Recalibration(variation=variation, width=0.5, sizes=(1.0, 1.4), errors=NORMAL)
        scales = found.scales(apart, sigma=sigma)
        np.testing.assert_allclose(scales, [[0.01 * times, 0.014 * times], [0.01, 0.014]])


def test_a_recalibrated_frame_still_counts_its_valid_answers_and_repeats_what_the_model_thought() -> None:
    windows, _ = market_windows(sessions=1500)
    selected, calendar = select_windows(windows, config=EvaluationConfig()), session_calendar(windows)
    forecasts = noisy_forecasts(selected, model="sft", knowledge=0.0, noise=0.0, samples=9)
    forecasts["thoughts"] = pd.Series([[str(each) for each in range(9)]] * len(forecasts), forecasts.index)
    found = Recalibration(sizes=tuple(np.sqrt(np.arange(1.0, 11))), errors=NORMAL)
    made = recalibrated_frame(selected, forecasts, recalibration=found)
    truth = truth_of(selected, split="test", calendar=calendar)
    answers = answers_of(made, model="sft", truth=truth)
    assert set(answers.n_valid) == {9}
    assert set(answers.n_members) == {99} == {len(each) for each in made["thoughts"]}
    assert len(answers.samples) == 99 * len(truth.origins)
    assert made["thoughts"].iloc[0][::11] == [str(each) for each in range(9)]


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
    found = fit_recalibration(selected, forecasts, train=train_of(windows), model="sft", calendar=calendar)
    before = figures(selected, forecasts, calendar)["crps"] or 0
    after = figures(selected, recalibrated_frame(selected, forecasts, recalibration=found), calendar)["crps"] or 9
    if knows:
        assert found.variation > 0.7
        assert after < 1.01 * before
    else:
        assert found.variation < 0.3
        assert after < 0.97 * before


@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_a_wrong_spread_is_undone_and_the_bands_hold_what_they_should(spread: float) -> None:
    windows, _ = market_windows(sessions=3000)
    selected, calendar = select_windows(windows, config=EvaluationConfig()), session_calendar(windows)
    forecasts = stretched(selected, spread=spread)
    found = fit_recalibration(selected, forecasts, train=train_of(windows), model="sft", calendar=calendar)
    before = figures(selected, forecasts, calendar)
    after = figures(selected, recalibrated_frame(selected, forecasts, recalibration=found), calendar)
    assert (after["crps"] or 9) < 0.97 * (before["crps"] or 0)
    assert abs((after["coverage"] or 0) - 0.8) < 0.07


def test_few_answers_score_better_with_the_errors_of_the_past() -> None:
    windows, _ = market_windows(sessions=3000)
    selected, calendar = select_windows(windows, config=EvaluationConfig()), session_calendar(windows)
    forecasts = noisy_forecasts(selected, model="sft", knowledge=0.0, noise=0.0, samples=9)
    found = fit_recalibration(selected, forecasts, train=train_of(windows), model="sft", calendar=calendar)
    before = figures(selected, forecasts, calendar)
    after = figures(selected, recalibrated_frame(selected, forecasts, recalibration=found), calendar)
    assert (after["crps"] or 9) < 0.99 * (before["crps"] or 0)


def test_a_median_that_is_only_noise_is_taken_back_even_with_a_dozen_independent_windows() -> None:
    losses: dict[str, list[float]] = {"before": [], "after": [], "none": []}
    for seed in range(4):
        windows, _ = market_windows(sessions=1260, seed=seed)
        selected, calendar = select_windows(windows, config=EvaluationConfig()), session_calendar(windows)
        forecasts = noisy_forecasts(selected, model="sft", knowledge=0.0, noise=1.0, samples=32, seed=seed)
        found = fit_recalibration(selected, forecasts, train=train_of(windows), model="sft", calendar=calendar)
        assert found.median < 0.6
        none = found.model_copy(update={"median": 0.0})
        for name, each in (("before", Recalibration()), ("after", found), ("none", none)):
            made = recalibrated_frame(selected, forecasts, recalibration=each)
            losses[name].append(figures(selected, made, calendar)["crps"] or 0)
    before, after, none_at_all = (float(np.mean(each)) for each in losses.values())
    assert after < 0.5 * before + 0.5 * none_at_all


def test_windows_without_ranges_keep_the_unit_of_their_prompts_and_a_forecast_without_a_window_is_refused() -> None:
    windows, _ = market_windows(sessions=1500)
    selected, calendar = select_windows(windows, config=EvaluationConfig()), session_calendar(windows)
    forecasts = stretched(selected, spread=0.5)
    plain = train_of(windows).drop(columns="past_variance")
    found = fit_recalibration(selected, forecasts, train=plain, model="sft", calendar=calendar)
    assert not found.changes_nothing
    assert found.volatility.coefficients == ()
    with pytest.raises(ForecastsError, match="has no window"):
        recalibrated_frame(selected.iloc[1:], forecasts, recalibration=found)


def test_prices_that_never_move_change_nothing() -> None:
    windows, _ = market_windows(sessions=1500)
    selected, calendar = select_windows(windows, config=EvaluationConfig()), session_calendar(windows)
    forecasts = stretched(selected, spread=0.5)
    still = selected.assign(
        target=pd.Series([np.full(10, history[-1]) for history in selected["history"]], selected.index)
    )
    found = fit_recalibration(still, forecasts, train=train_of(windows), model="sft", calendar=calendar)
    assert found.changes_nothing


def test_an_adapter_that_knows_nothing_ends_near_the_best_free_forecast_where_volatility_changes() -> None:
    bars = market(SyntheticConfig(process="garch", sessions=5000))
    features = FeatureConfig()
    windows = build_windows(bars, ticker="DEMO", config=features)
    selected, calendar = select_windows(windows, config=EvaluationConfig()), session_calendar(windows)
    forecasts = noisy_forecasts(selected, model="sft", knowledge=0.0, noise=0.0, samples=32)
    found = fit_recalibration(selected, forecasts, train=train_of(windows), model="sft", calendar=calendar)
    train = bars.iloc[: split_borders(len(bars), features).train_end]
    free = baseline_forecasts(selected, windows=windows, train=train)
    truth = truth_of(selected, split="test", calendar=calendar)
    scores = {}
    for model, frame in (("sft", forecasts), ("after", recalibrated_frame(selected, forecasts, recalibration=found))):
        answers = answers_of(frame.assign(model=model), model=model, truth=truth)
        scores[model] = score(truth, answers, interval=0.8)[0]["crps"] or 0
    for model in ("random_walk", "random_walk_har"):
        scores[model] = score(truth, answers_of(free, model=model, truth=truth), interval=0.8)[0]["crps"] or 0
    assert scores["random_walk_har"] < scores["random_walk"] < scores["sft"]
    assert scores["after"] < 0.5 * scores["random_walk"] + 0.5 * scores["random_walk_har"]


@pytest.mark.nightly
def test_good_forecasts_are_left_nearly_as_they_are() -> None:
    changes = []
    for seed in range(8):
        windows, _ = market_windows(sessions=1500, seed=seed)
        selected, calendar = select_windows(windows, config=EvaluationConfig()), session_calendar(windows)
        forecasts = stretched(selected, spread=1.0, seed=seed)
        found = fit_recalibration(selected, forecasts, train=train_of(windows), model="sft", calendar=calendar)
        before = figures(selected, forecasts, calendar)["crps"] or 0
        after = figures(selected, recalibrated_frame(selected, forecasts, recalibration=found), calendar)["crps"] or 0
        changes.append(after / before - 1)
    assert np.mean(changes) < 0.004


def test_too_few_windows_and_windows_without_an_answer_change_nothing() -> None:
    windows, _ = market_windows()
    few = select_windows(windows, config=EvaluationConfig(max_windows=6))
    forecasts = stretched(few, spread=0.4)
    assert (
        fit_recalibration(few, forecasts, train=train_of(windows), model="sft", calendar=session_calendar(windows))
        == Recalibration()
    )
    silent = forecasts.assign(samples=pd.Series([[]] * len(forecasts), forecasts.index), n_valid=0)
    found = Recalibration(median=0.5, sizes=tuple(np.sqrt(np.arange(1.0, 11))), errors=NORMAL)
    again = recalibrated_frame(few, silent, recalibration=found)
    for one, other in zip(again["median"], silent["median"], strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_test_split_is_not_looked_at() -> None:
    windows, _ = market_windows(sessions=1500)
    selected, calendar = select_windows(windows, config=EvaluationConfig()), session_calendar(windows)
    forecasts = stretched(selected, spread=0.5)
    shaken = selected.copy()
    later = shaken["split"] == "test"
    shaken.loc[later, "target"] = pd.Series([1.3 * each for each in selected.loc[later, "target"]], shaken.index[later])
    kept = [
        fit_recalibration(frame, forecasts, train=train_of(windows), model="sft", calendar=calendar)
        for frame in (selected, shaken)
    ]
    assert kept[0] == kept[1]
    assert not kept[0].changes_nothing
