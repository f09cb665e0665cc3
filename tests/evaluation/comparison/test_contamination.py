"""A cut-off of the base model: earlier windows are marked, the gate judges the rest, prompts reveal no series."""

import numpy as np
import pandas as pd
import pytest

from evaluation_frames import forecasts_of, market_windows
from tickerforge.evaluation.comparison.compare import compare
from tickerforge.evaluation.comparison.contamination import cut_off, parity, split_title
from tickerforge.evaluation.comparison.gate import decide
from tickerforge.evaluation.core.config import EvaluationConfig, GateConfig
from tickerforge.evaluation.core.contracts import EvalReport
from tickerforge.evaluation.monitoring.drift import expected_error
from tickerforge.evaluation.report.report import pictures_of, render_markdown
from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.features.prices.bars import adjust
from tickerforge.features.prices.schemas import PRICE_COLUMNS
from tickerforge.features.prompts import render_all
from tickerforge.features.synthetic import market
from tickerforge.features.windows import build_windows

KNOWLEDGE = {"base": 0.0, "sft": 0.2}
Frames = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]


@pytest.fixture(scope="module")
def frames() -> Frames:
    windows, train = market_windows()
    opens = adjust(market(SyntheticConfig(process="random_walk", sessions=600, seed=3)))[["date", "open"]]
    return windows, forecasts_of(windows, train, knowledge=KNOWLEDGE), opens.assign(ticker="DEMO")


def report_after(frames: Frames, share: float) -> EvalReport:
    """A report with the cut-off after this share of the test origins; 2 is after all of them, −1 before."""
    windows, forecasts, opens = frames
    origins = windows.loc[windows["split"] == "test", "origin"].sort_values().to_numpy()
    beyond = np.timedelta64(400, "D")
    if share < 0:
        day = origins[0] - beyond
    else:
        day = origins[-1] + beyond if share > 1 else origins[int(share * len(origins))]
    config = EvaluationConfig(test_after=pd.Timestamp(day).date())
    return compare(windows, forecasts, config=config, opens=opens)


def test_a_cut_off_before_the_test_split_changes_no_figure_and_marks_nothing_on_test(frames: Frames) -> None:
    windows, forecasts, opens = frames
    report = report_after(frames, -1)
    plain = compare(windows, forecasts, config=EvaluationConfig(), opens=opens)
    assert report.model_copy(update={"test_after": None}) == plain
    assert report.judged == "test"
    assert parity(report, "test") == parity(report, "validation") == ""
    assert "parity" not in render_markdown(report, decide(report, GateConfig()))


def test_a_cut_off_within_test_makes_the_windows_after_it_a_table_of_their_own(frames: Frames) -> None:
    windows, forecasts, _ = frames
    report = report_after(frames, 0.5)
    assert report.judged == "after"
    test, after = report.summary("test"), report.summary("after")
    assert test.before + after.windows == test.windows == 111
    assert after.first_origin >= report.test_after
    assert after.before == 0
    kept = windows[(windows["split"] == "test") & (windows["origin"] >= pd.Timestamp(report.test_after))]
    target, median = (
        np.stack(list(frame.sort_values("origin")[name]))
        for frame, name in (
            (kept, "target"),
            (forecasts[(forecasts["model"] == "sft") & forecasts["origin"].isin(kept["origin"])], "median"),
        )
    )
    expected = np.square(np.log(target / median) / kept["sigma"].to_numpy()[:, None]).mean()
    assert report.value("sft", split="after", metric="scaled_mse") == pytest.approx(expected)
    assert report.backtest is not None
    assert report.backtest.split == "after"
    assert report.backtest.dates[0] > report.test_after


def test_every_table_with_windows_before_the_cut_off_bears_the_mark(frames: Frames) -> None:
    report = report_after(frames, 0.5)
    text = render_markdown(report, decide(report, GateConfig()))
    assert "## Validation split (parity only)" in text
    assert "## Test split (parity only)" in text
    assert f"## Test split after {report.test_after:%-d %B %Y}: distributions\n" in text
    test = report.summary("test")
    assert f"Parity only: {test.before} of 111 windows are about sessions up to" in text
    assert text.index("Test split after") < text.index("Test split (parity only)")
    assert f"The verdict on test uses the {report.summary('after').windows} windows after that" in text
    everything = report_after(frames, 2)
    text = render_markdown(everything, decide(everything, GateConfig()))
    assert "Parity only: all 111 windows are about sessions up to" in text
    assert "Test split after" not in text
    trading = text[text.index("## Trading on the forecasts") :]
    assert trading.split("\n")[2].startswith("Parity only: all 111 windows")


def test_the_gate_judges_the_windows_after_the_cut_off_alone(frames: Frames) -> None:
    report = report_after(frames, 0.3)
    verdict = decide(report, GateConfig())
    assert verdict.promoted, verdict.headline
    texts = {reason.name: reason.text for reason in verdict.reasons}
    assert texts["free_test"].startswith(f"On test after {report.test_after:%-d %B %Y} its CRPS is ")
    worse = tuple(
        row.model_copy(update={"values": row.values | {"sft": 99.0}})
        if (row.split, row.metric, row.horizon) == ("after", "crps", None)
        else row
        for row in report.metrics
    )
    refused = decide(report.model_copy(update={"metrics": worse}), GateConfig())
    assert {reason.name for reason in refused.failures} == {"free_test"}
    seen = tuple(
        row.model_copy(update={"values": row.values | {"sft": 99.0}})
        if (row.split, row.metric, row.horizon) == ("test", "crps", None)
        else row
        for row in report.metrics
    )
    assert decide(report.model_copy(update={"metrics": seen}), GateConfig()).promoted


def test_too_few_windows_after_the_cut_off_refuse_in_words(frames: Frames) -> None:
    report = report_after(frames, 0.8)
    verdict = decide(report, GateConfig())
    evidence = verdict.failures[0]
    assert evidence.name == "evidence"
    assert evidence.text.startswith(
        f"After {report.test_after:%-d %B %Y}, the last day that the base model may have seen"
    )
    assert "3 independent windows (23 overlapping ones); at least 5 are needed: too little evidence." in evidence.text


def test_without_a_window_after_the_cut_off_nothing_is_promoted_or_claimed(frames: Frames) -> None:
    report = report_after(frames, 2)
    verdict = decide(report, GateConfig())
    assert not verdict.promoted
    assert report.judged is None
    assert verdict.failures[0].text.count("0 independent windows (0 overlapping ones)") == 1
    assert [reason.name for reason in verdict.reasons if reason.name.endswith("_test")] == []
    assert "No test window is after that" in cut_off(report)
    assert split_title(report, "test") == "Test split (parity only)"


def prompts_changed(bars: pd.DataFrame, *, config: FeatureConfig, factor: float | np.ndarray = 8.0) -> dict[str, int]:
    """Count the test prompts that change when the series is renamed, moved by 364 days, or multiplied.

    The default factor is a power of two: it keeps every ratio to the last bit, so no half rounds the other way.
    """
    others = {
        "masked": (bars, "MASKED"),
        "shifted": (bars.assign(date=bars["date"] + pd.Timedelta(days=364)), "DEMO"),
        "rescaled": (bars.assign(**{name: factor * bars[name] for name in PRICE_COLUMNS}), "DEMO"),
    }

    def prompts(given: pd.DataFrame, ticker: str) -> list:
        windows = build_windows(given, ticker=ticker, config=config)
        return render_all(windows[windows["split"] == "test"], config=config)

    asked = prompts(bars, "DEMO")
    return {
        name: sum(one != two for one, two in zip(asked, prompts(*other), strict=True)) for name, other in others.items()
    }


@pytest.mark.parametrize("units", ["sigma", "train_standard"])
def test_prompts_are_the_same_for_another_name_other_dates_and_other_prices(units: str) -> None:
    """Prompts have no ticker, date or price, so masking, shifting and rescaling a series cannot change an answer."""
    config = FeatureConfig.model_validate({"units": units})
    for seed in (5, 6):
        bars = market(SyntheticConfig(sessions=400, seed=seed))
        assert prompts_changed(bars, config=config) == {"masked": 0, "shifted": 0, "rescaled": 0}


def test_prices_multiplied_by_different_factors_change_the_prompts() -> None:
    """Another series gets other prompts, so the counts of the test above can differ from zero."""
    bars = market(SyntheticConfig(sessions=400, seed=5))
    changed = prompts_changed(bars, config=FeatureConfig(), factor=np.linspace(1, 2, len(bars)))
    assert changed["masked"] == changed["shifted"] == 0
    assert (
        changed["rescaled"]
        > 0.9 * (build_windows(bars, ticker="DEMO", config=FeatureConfig())["split"] == "test").sum()
    )


def test_the_windows_drawn_next_to_the_verdict_are_those_that_it_is_about(frames: Frames) -> None:
    windows, forecasts, _ = frames
    report = report_after(frames, 0.5)
    config = EvaluationConfig(test_after=report.test_after)
    pictures = pictures_of(report, windows, forecasts, training_metrics=None, config=config)
    assert report.test_after is not None
    assert pictures[0].heading.startswith(f"On test after {report.test_after:%-d %B %Y} ")
    figure = pictures[0].draw()
    origins = [pd.Timestamp(axes.get_title(loc="left")) for axes in figure.axes if axes.lines]
    assert len(origins) == config.examples
    assert min(origins) >= pd.Timestamp(report.test_after)


def test_a_champions_expected_error_is_that_of_the_windows_that_it_was_judged_on(frames: Frames) -> None:
    windows, forecasts, _ = frames
    report = report_after(frames, 0.5)
    expected = expected_error(windows, forecasts, model="sft", config=EvaluationConfig(test_after=report.test_after))
    assert expected.windows == report.summary("after").windows
    assert expected.scaled_mse == pytest.approx(report.value("sft", split="after", metric="scaled_mse"))
