"""The promotion rule: each condition alone can refuse, and says why with its figure."""

import pandas as pd
import pytest

from evaluation_frames import forecasts_of, market_windows, noisy_forecasts
from tickerforge.evaluation.comparison.compare import compare, select_windows
from tickerforge.evaluation.comparison.gate import decide
from tickerforge.evaluation.core.config import EvaluationConfig, GateConfig
from tickerforge.evaluation.core.contracts import FREE, SCORED_SPLITS, EvalReport, MetricRow, ScoredSplit
from tickerforge.evaluation.core.labels import model_phrase

CONFIG = EvaluationConfig()


@pytest.fixture(scope="module")
def skilled() -> EvalReport:
    """A report whose chosen adapter knows a tenth of each coming move."""
    windows, train = market_windows()
    forecasts = forecasts_of(windows, train, knowledge={"base": 0.0, "grpo_1st": 0.02, "sft": 0.1})
    champion = noisy_forecasts(select_windows(windows, config=CONFIG), model="champion", knowledge=0.05, seed=9)
    return compare(windows, pd.concat([forecasts, champion], ignore_index=True), config=CONFIG)


def changed(report: EvalReport, *, split: str, metric: str, model: str, value: float | None) -> EvalReport:
    """The same report with one figure replaced."""

    def edit(row: MetricRow) -> MetricRow:
        if (row.split, row.metric, row.horizon) != (split, metric, None):
            return row
        return row.model_copy(update={"values": row.values | {model: value}})

    return report.model_copy(update={"metrics": tuple(edit(row) for row in report.metrics)})


def with_p(report: EvalReport, p_value: float, *, against: str, loss: str) -> EvalReport:
    """The same report with another p-value of the chosen adapter on test."""
    wanted = ("sft", "test", against, loss)
    tests = tuple(
        test.model_copy(update={"p_value": p_value})
        if (test.model, test.split, test.against, test.loss) == wanted
        else test
        for test in report.significance
    )
    return report.model_copy(update={"significance": tests})


def test_an_adapter_that_beats_everything_is_promoted_with_every_reason_met(skilled: EvalReport) -> None:
    verdict = decide(skilled, GateConfig())
    assert verdict.promoted
    assert (verdict.model, verdict.free) == ("sft", skilled.free)
    assert not verdict.failures
    assert verdict.headline.startswith("SFT is promoted for DEMO: out of sample its CRPS is")
    assert " below the random walk's (p " in verdict.headline
    both = ("valid_rate", "free", "champion")
    expected = {"evidence", "significance_test", "coverage_test", "median_test"} | {
        f"{name}_{split}" for name in both for split in SCORED_SPLITS
    }
    assert {reason.name for reason in verdict.reasons} == expected


def test_the_best_free_forecaster_is_chosen_on_validation_by_its_crps(skilled: EvalReport) -> None:
    scores = {name: skilled.value(name, split="validation", metric="crps") or 9.9 for name in FREE}
    assert skilled.free == min(scores, key=lambda name: scores[name])


@pytest.mark.parametrize("split", SCORED_SPLITS)
@pytest.mark.parametrize("reference", [*FREE, "champion"])
def test_a_reference_with_a_smaller_crps_refuses(skilled: EvalReport, split: ScoredSplit, reference: str) -> None:
    own = skilled.value("sft", split=split, metric="crps")
    assert own is not None
    better = changed(skilled, split=split, metric="crps", model=reference, value=own / 1.25)
    verdict = decide(better, GateConfig())
    assert not verdict.promoted
    name = "champion" if reference == "champion" else "free"
    assert [reason.name for reason in verdict.failures] == [f"{name}_{split}"]
    assert f"On {split} its CRPS is 25.0 % above that of {model_phrase(reference)}" in verdict.failures[0].text
    assert "SFT is not promoted for DEMO: on " in verdict.headline


def test_a_median_that_is_worse_beyond_chance_refuses(skilled: EvalReport) -> None:
    assert decide(with_p(skilled, 0.949, against="persistence", loss="scaled_mse"), GateConfig()).promoted
    verdict = decide(with_p(skilled, 0.96, against="persistence", loss="scaled_mse"), GateConfig())
    assert [reason.name for reason in verdict.failures] == ["median_test"]
    assert "would have probability p = 0.040; more than 0.05 is needed" in verdict.failures[0].text


@pytest.mark.parametrize("reference", FREE)
def test_chance_against_any_free_forecaster_refuses(skilled: EvalReport, reference: str) -> None:
    verdict = decide(with_p(skilled, 0.31, against=reference, loss="crps"), GateConfig())
    assert [reason.name for reason in verdict.failures] == ["significance_test"]
    assert f"no better than that of {model_phrase(reference)}," in verdict.failures[0].text
    assert "p = 0.310; at most 0.05 is allowed" in verdict.failures[0].text


@pytest.mark.parametrize("share", [0.6, 0.97, None])
def test_a_band_that_holds_too_few_or_too_many_prices_refuses(skilled: EvalReport, share: float | None) -> None:
    verdict = decide(changed(skilled, split="test", metric="coverage", model="sft", value=share), GateConfig())
    assert [reason.name for reason in verdict.failures] == ["coverage_test"]
    expected = (
        f"On test {100 * share:.1f} % of the prices are inside its 80 % band" if share else "no 80 % band on test"
    )
    assert expected in verdict.failures[0].text
    assert "at most 15 points from 80 % are allowed" in verdict.failures[0].text


def test_equalling_the_champion_is_enough_but_equalling_the_free_forecast_is_not(skilled: EvalReport) -> None:
    own = skilled.value("sft", split="test", metric="crps")
    level = changed(skilled, split="test", metric="crps", model="champion", value=own)
    assert decide(level, GateConfig()).promoted
    verdict = decide(changed(skilled, split="test", metric="crps", model="random_walk", value=own), GateConfig())
    assert [reason.name for reason in verdict.failures] == ["free_test"]
    assert "its CRPS is equal to that of " in verdict.failures[0].text


def test_the_margin_must_be_exceeded(skilled: EvalReport) -> None:
    verdict = decide(skilled, GateConfig(min_skill=0.9))
    assert {reason.name for reason in verdict.failures} == {"free_validation", "free_test"}
    assert "more than 90.0 % below is needed" in verdict.failures[0].text
    assert verdict.headline.endswith("is needed. 1 more condition is not met.")


@pytest.mark.parametrize("rate", [0.98, None])
def test_answers_that_do_not_parse_refuse(skilled: EvalReport, rate: float | None) -> None:
    verdict = decide(changed(skilled, split="test", metric="valid_rate", model="sft", value=rate), GateConfig())
    assert [reason.name for reason in verdict.failures] == ["valid_rate_test"]
    assert f"{98.0 if rate else 0.0} % of its answers parse; at least 99.0 % are needed" in verdict.failures[0].text


def test_a_figure_that_just_misses_its_bound_does_not_read_like_meeting_it(skilled: EvalReport) -> None:
    verdict = decide(changed(skilled, split="test", metric="valid_rate", model="sft", value=0.9896), GateConfig())
    assert "98.96 % of its answers parse; at least 99.0 %" in verdict.failures[0].text
    own = skilled.value("sft", split="test", metric="crps") or 0.0
    hair = changed(skilled, split="test", metric="crps", model="random_walk", value=own * 1.0001)
    assert any("is 0.01 % below that of " in reason.text for reason in decide(hair, GateConfig()).reasons)


def test_too_few_independent_windows_refuse(skilled: EvalReport) -> None:
    verdict = decide(skilled, GateConfig(min_windows=13))
    assert [reason.name for reason in verdict.failures] == ["evidence"]
    assert (
        "12 independent windows (111 overlapping ones); at least 13 are needed: too little" in verdict.failures[0].text
    )


def test_without_an_adapter_nothing_is_promoted() -> None:
    windows, train = market_windows()
    report = compare(windows, forecasts_of(windows, train, knowledge={"base": 0.3}), config=CONFIG)
    verdict = decide(report, GateConfig())
    assert (verdict.promoted, verdict.model, report.chosen) == (False, None, None)
    assert "no trained adapter was compared" in verdict.headline


def test_forecasts_of_pure_noise_are_refused_on_a_random_walk() -> None:
    windows, train = market_windows(sessions=1200)
    report = compare(windows, forecasts_of(windows, train, knowledge={"sft": 0.0, "grpo_2nd": 0.0}), config=CONFIG)
    verdict = decide(report, GateConfig())
    assert not verdict.promoted
    assert "free_test" in {reason.name for reason in verdict.failures}
