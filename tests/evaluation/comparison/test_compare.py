"""The comparison: forecasts collected, scored on the same windows, and a choice on validation alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evaluation_frames import forecasts_of, market_windows, noisy_forecasts
from tickerforge.evaluation.comparison.compare import choose, compare, select_windows
from tickerforge.evaluation.core.config import EvaluationConfig
from tickerforge.evaluation.core.contracts import BASELINES, FORECAST_COLUMNS, FREE, EvalReport
from tickerforge.evaluation.core.errors import EvaluationError, ForecastsError
from tickerforge.evaluation.core.forecasts import Generate, collect_forecasts, nearest_thoughts
from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.features.prompts import Chat, render, render_answer
from tickerforge.features.stages import ADAPTERS
from tickerforge.features.synthetic import market
from tickerforge.features.windows import latest_window

CONFIG = EvaluationConfig()
FEATURES = FeatureConfig()
KNOWLEDGE = {"base": -0.1, "grpo_1st": 0.02, "sft": 0.08, "grpo_2nd": 0.05}
ZEROS = render_answer([0] * 10)
Frames = tuple[pd.DataFrame, pd.DataFrame]


@pytest.fixture(scope="module")
def frames() -> Frames:
    windows, train = market_windows()
    return windows, forecasts_of(windows, train, knowledge=KNOWLEDGE)


def always(texts: Sequence[str]) -> Generate:
    """A model that gives every prompt the same answers."""

    def generate(prompts: list[Chat], n: int) -> list[list[str]]:
        return [list(texts) for _ in prompts]

    return generate


def collect(windows: pd.DataFrame, texts: Sequence[str], *, config: FeatureConfig = FEATURES) -> pd.DataFrame:
    return collect_forecasts(windows, always(texts), model="sft", config=config, n_samples=len(texts))


def test_every_window_is_asked_with_its_own_prompt_and_answered_in_order(frames: Frames) -> None:
    windows = frames[0].tail(5)
    asked: list[Chat] = []

    def generate(prompts: list[Chat], n: int) -> list[list[str]]:
        asked.extend(prompts)
        return [[render_answer([place] * 10, think=f"it is {place}")] * n for place in range(len(prompts))]

    forecasts = collect_forecasts(windows, generate, model="sft", config=FEATURES, n_samples=3)
    assert asked == [render(record, config=FEATURES) for record in windows.to_dict("records")]
    assert tuple(forecasts.columns) == (*FORECAST_COLUMNS, "thoughts")
    assert forecasts["thoughts"].tolist() == [[f"it is {place}"] * 3 for place in range(5)]
    for place, (row, window) in enumerate(zip(forecasts.itertuples(), windows.itertuples(), strict=True)):
        np.testing.assert_allclose(row.median, window.history[-1] * np.exp(place * window.sigma / 10))
        assert np.shape(row.samples) == (3, 10)


def test_answers_that_cancel_forecast_exactly_no_move(frames: Frames) -> None:
    window = frames[0].tail(1)
    forecasts = collect(window, [render_answer([-40] * 10), render_answer([40] * 10)])
    np.testing.assert_array_equal(forecasts["median"].iloc[0], [window["history"].iloc[0][-1]] * 10)


def test_a_window_without_a_valid_answer_becomes_persistence_and_stays(frames: Frames) -> None:
    window = frames[0].tail(1)
    row = collect(window, ["", "<answer>[nan]</answer>", render_answer([1] * 9)]).iloc[0]
    assert row["median"] == [window["history"].iloc[0][-1]] * 10
    assert (row["n_samples"], row["n_valid"], row["samples"]) == (3, 0, [])


def test_invalid_answers_are_left_out_of_the_median_and_counted(frames: Frames) -> None:
    row = collect(frames[0].tail(1), [ZEROS, "no idea", render_answer([10] * 10), render_answer([20] * 10)]).iloc[0]
    expected = collect(frames[0].tail(1), [render_answer([10] * 10)]).iloc[0]
    assert row["median"] == expected["median"]
    assert (row["n_samples"], row["n_valid"]) == (4, 3)


def test_a_value_beyond_what_a_prompt_can_say_is_cut_to_it(frames: Frames) -> None:
    far, limit = (collect(frames[0].tail(1), [render_answer([value] * 10)]) for value in (999_999, 300))
    assert far["median"].to_list() == limit["median"].to_list()


def test_standardised_answers_are_read_as_z_scores_and_negative_prices_are_invalid(frames: Frames) -> None:
    window, config = frames[0].tail(1), FeatureConfig(units="train_standard")
    answers = [render_answer([value] * 10, decimals=4) for value in (0.5, -50.0)]
    row = collect(window, answers, config=config).iloc[0]
    expected = window["train_mean"].iloc[0] + 0.5 * window["train_std"].iloc[0]
    np.testing.assert_allclose(row["median"], expected)
    assert row["n_valid"] == 1


def test_the_latest_window_is_answered_though_it_has_no_split_and_no_future() -> None:
    window = latest_window(market(SyntheticConfig(sessions=400)), ticker="DEMO", config=FEATURES)
    forecasts = collect(window, [ZEROS])
    assert forecasts["median"].iloc[0] == [window["history"].iloc[0][-1]] * 10
    assert "split" not in forecasts


def test_a_model_that_returns_too_few_answers_is_refused(frames: Frames) -> None:
    with pytest.raises(ForecastsError, match="2 prompts must get 4 answers"):
        collect_forecasts(frames[0].tail(2), always([ZEROS]), model="sft", config=FEATURES, n_samples=4)


def test_selected_windows_are_evenly_spaced_from_first_to_last_and_never_train(frames: Frames) -> None:
    windows, config = frames[0], EvaluationConfig(max_windows=20)
    chosen = select_windows(windows, config=config)
    assert chosen["split"].value_counts().to_dict() == {"validation": 20, "test": 20}
    for split, rows in chosen.groupby("split"):
        everything = windows[windows["split"] == split]
        places = np.searchsorted(everything["origin"], rows["origin"])
        assert (places[0], places[-1]) == (0, len(everything) - 1)
        assert np.ptp(np.diff(places)) <= 1
    pd.testing.assert_frame_equal(select_windows(chosen, config=config), chosen)


def test_the_report_holds_the_baselines_the_choice_and_the_significance_of_all(frames: Frames) -> None:
    report = compare(*frames, config=CONFIG)
    assert report.models == (*BASELINES, "base", "grpo_1st", "sft", "grpo_2nd")
    assert report.chosen == "sft"
    assert report.value("persistence", split="test", metric="skill") == 0.0
    assert report.value("persistence", split="test", metric="directional_accuracy") == 0.5
    assert (
        (report.value("sft", split="test", metric="skill") or 0)
        > 0
        > (report.value("base", split="test", metric="skill") or 0)
    )
    against_persistence = {(test.split, test.model) for test in report.significance if test.loss == "scaled_mse"}
    assert against_persistence == {
        (split, model) for split in ("validation", "test") for model in report.models if model != "persistence"
    }
    whole = {(test.model, test.against) for test in report.significance if (test.split, test.loss) == ("test", "crps")}
    adapters = ("grpo_1st", "sft", "grpo_2nd")
    assert whole == {(model, reference) for model in adapters for reference in FREE} | {
        (model, "random_walk") for model in ("random_walk_har", "drift", "base")
    }
    assert report.value("random_walk", split="test", metric="crps_skill") == 0.0
    for metric in ("qlike", "qlike_squared", "var_5", "kupiec_5", "christoffersen_5", "members"):
        assert report.value("random_walk_har", split="test", metric=metric) is not None
    test = report.summary("test")
    assert (test.windows, test.available, test.independent) == (111, 111, 12)
    assert report.summary("validation").last_target < test.first_origin


def test_the_choice_sees_validation_only(frames: Frames) -> None:
    windows, forecasts = frames
    is_test = forecasts["split"] == "test"
    spoiled = forecasts["model"].isin(["sft"]) & is_test
    worse = forecasts.copy()
    worse.loc[spoiled, "median"] = pd.Series(
        [(2 * np.asarray(value)).tolist() for value in forecasts.loc[spoiled, "median"]],
        index=forecasts.index[spoiled],
        dtype=object,
    )
    report = compare(windows, worse, config=CONFIG)
    assert report.chosen == "sft"
    assert (report.value("sft", split="test", metric="skill") or 0) < -10


def test_the_earlier_stage_wins_a_tie_and_base_is_no_candidate() -> None:
    assert choose({"base": 0.1, "sft": 0.5, "grpo_1st": 0.5, "champion": 0.2}, among=ADAPTERS) == "grpo_1st"
    assert choose({"base": 0.1, "persistence": 1.0}, among=ADAPTERS) is None


def test_a_model_that_never_answers_scores_as_persistence_and_is_reported(frames: Frames) -> None:
    windows, forecasts = frames
    selected = select_windows(windows, config=CONFIG)
    silent = collect_forecasts(selected, always(["?"] * 4), model="champion", config=FEATURES, n_samples=4)
    report = compare(windows, pd.concat([forecasts, silent], ignore_index=True), config=CONFIG)
    assert report.value("champion", split="test", metric="skill") == 0.0
    assert report.value("champion", split="test", metric="valid_rate") == 0.0
    champion = report.test_of("champion", split="test")
    assert champion is not None
    assert champion.p_value == 1.0
    assert any("Current champion gave no valid answer in 111 of 111 test windows" in note for note in report.notes)


def test_the_report_survives_json_and_its_frames_survive_parquet(frames: Frames, tmp_path: Path) -> None:
    report = compare(*frames, config=CONFIG)
    assert EvalReport.model_validate_json(report.model_dump_json()) == report
    again = []
    nested = frames[1].assign(samples=[list(each) for each in frames[1]["samples"]])
    for name, frame in (("windows", frames[0]), ("forecasts", nested)):
        frame.to_parquet(tmp_path / f"{name}.parquet")
        again.append(pd.read_parquet(tmp_path / f"{name}.parquet"))
    assert compare(again[0], again[1], config=CONFIG) == report


def test_the_long_table_has_one_row_per_metric_and_one_per_session_ahead(frames: Frames) -> None:
    report = compare(*frames, config=CONFIG)
    table = report.metrics_frame()
    assert list(table.columns[:4]) == ["ticker", "split", "metric", "horizon"]
    for metric in ("scaled_mse", "crps"):
        mine = table[(table["split"] == "test") & (table["metric"] == metric)]
        ahead, whole = mine[mine["horizon"].notna()], mine[mine["horizon"].isna()]
        assert ahead["horizon"].to_list() == list(range(1, 11))
        np.testing.assert_allclose(ahead[list(report.models)].mean(), whole[list(report.models)].iloc[0])


def test_thinning_is_the_same_for_every_model_and_stated(frames: Frames) -> None:
    windows, forecasts = frames
    report = compare(windows, forecasts, config=EvaluationConfig(max_windows=30))
    assert (report.summary("test").windows, report.summary("test").available) == (30, 111)
    test = report.test_of("sft", split="test")
    assert test is not None
    assert test.windows == 30
    assert test.lag < 18


def test_a_split_with_too_few_windows_for_a_test_is_named_in_the_notes(frames: Frames) -> None:
    report = compare(*frames, config=EvaluationConfig(max_windows=3))
    assert any(
        note.startswith("On test p is set to 1 for Mean of window, Random walk, Random walk (HAR), Drift")
        for note in report.notes
    )


def _doubled(forecasts: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([forecasts, forecasts.tail(1)], ignore_index=True)


def _without(model: str, forecasts: pd.DataFrame) -> pd.DataFrame:
    return forecasts[forecasts["model"] != model]


def _last_median(value: list[float], forecasts: pd.DataFrame) -> pd.DataFrame:
    broken = forecasts.copy()
    broken.at[broken.index[-1], "median"] = value
    return broken


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda frame: frame.iloc[:-1], r"test, model grpo_2nd: 1 of 111 windows have no forecast, the first at 20"),
        (_doubled, "more than one forecast for the same origin"),
        (lambda frame: _without("drift", frame), "needs the free forecasters; drift is missing"),
        (lambda frame: frame.assign(model="mine"), r"unknown models \['mine'\]"),
        (lambda frame: _last_median([float("nan")] * 10, frame), "not a positive, finite price"),
        (lambda frame: _last_median([0.0] * 10, frame), "not a positive, finite price"),
        (lambda frame: _last_median([50.0] * 9, frame), "does not have 10 values"),
        (lambda frame: frame.assign(n_valid=1), "n_valid does not count the samples"),
        (lambda frame: frame.drop(columns=["samples"]), "lacks the columns samples"),
    ],
)
def test_forecasts_that_do_not_fit_are_refused_by_name(frames: Frames, break_it, message: str) -> None:
    with pytest.raises(ForecastsError, match=message):
        compare(frames[0], break_it(frames[1]), config=CONFIG)


def test_a_comparison_without_test_windows_or_with_two_tickers_is_refused(frames: Frames) -> None:
    windows, forecasts = frames
    with pytest.raises(EvaluationError, match="DEMO: no test windows to score"):
        compare(windows[windows["split"] != "test"], forecasts, config=CONFIG)
    two = pd.concat([windows, windows.assign(ticker="OTHER")])
    with pytest.raises(EvaluationError, match="one ticker, not of 2"):
        compare(two, forecasts, config=CONFIG)


def test_forecasts_of_windows_that_are_not_scored_are_left_out(frames: Frames) -> None:
    windows, forecasts = frames
    train = noisy_forecasts(windows[windows["split"] == "train"], model="sft", knowledge=0.9)
    more = pd.concat([forecasts, train], ignore_index=True)
    assert compare(windows, more, config=CONFIG) == compare(windows, forecasts, config=CONFIG)


def test_the_thoughts_of_the_answers_nearest_to_the_median_are_kept_each_once() -> None:
    samples = np.array([[90.0, 90.0], [101.0, 101.0], [100.0, 100.0], [102.0, 99.0], [140.0, 140.0]])
    thoughts = ["far", "near", "  nearest ", "nearest", "x" * 5000]
    found = nearest_thoughts(thoughts, samples, np.array([100.0, 100.0]))
    assert found == ("nearest", "near", "far")
    assert nearest_thoughts(["", ""], samples[:2], samples[0]) == ()
