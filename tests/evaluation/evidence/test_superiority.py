"""Many forecasters together: what the tests find, what stays open, and the sentence that says so."""

import numpy as np
import pytest

from evaluation_frames import forecasts_of, market_windows
from tickerforge.evaluation.comparison.compare import compare
from tickerforge.evaluation.core.config import EvaluationConfig
from tickerforge.evaluation.core.contracts import EvalReport, Floats, Superiority
from tickerforge.evaluation.evidence.superiority import superiority
from tickerforge.evaluation.report.wording import allowed_claim

SESSIONS = 240


def losses(*advantages: float, seed: int = 0) -> dict[str, Floats]:
    """A reference and forecasters whose mean loss of 10 is smaller by these advantages; noise of every day."""
    rng = np.random.default_rng(seed)
    common = 10 + rng.standard_normal(SESSIONS)
    found = {"reference": common}
    for number, advantage in enumerate(advantages):
        found[f"m{number}"] = common - advantage + rng.standard_normal(SESSIONS)
    return found


def result_of(found: dict[str, Floats], **options: int) -> Superiority:
    positions = np.arange(len(found["reference"]))
    return superiority(
        found,
        reference="reference",
        candidates=tuple(found)[1:],
        positions=positions,
        horizon=10,
        replications=200,
        **options,
    )


def test_a_clear_edge_is_found_and_its_interval_holds_it() -> None:
    found = result_of(losses(1.0, 0.0))
    assert found.p_value < 0.02
    assert found.confidence_set == ("m0",)
    low, high = found.skill_intervals["m0"]
    assert 0 < low < 0.1 < high < 0.2
    assert found.block == 20


@pytest.mark.nightly
def test_the_best_of_many_without_an_edge_is_not_taken_for_one() -> None:
    """Some would be significant at 5 % alone; the test corrects for the number of candidates."""
    rates = [result_of(losses(*[0.0] * 10, seed=seed)).p_value <= 0.05 for seed in range(40)]
    assert np.mean(rates) < 0.2
    assert "reference" in result_of(losses(*[0.0] * 10)).confidence_set


def test_copies_of_the_reference_are_neither_tested_nor_dropped_from_the_set() -> None:
    found = losses(0.0)
    found["copy"] = found["reference"]
    result = result_of(found)
    assert "copy" not in result.skill_intervals
    assert ("copy" in result.confidence_set) == ("reference" in result.confidence_set)
    only = result_of({"reference": found["reference"], "copy": found["reference"]})
    assert (only.p_value, only.note) == (1.0, "no candidate's losses differ from the reference's")


def test_too_few_sessions_are_no_evidence() -> None:
    short = {name: values[:25] for name, values in losses(1.0).items()}
    result = result_of(short)
    assert (result.p_value, result.note) == (1.0, "only 3 independent windows, too few for a test")


def test_the_same_losses_give_the_same_figures() -> None:
    assert result_of(losses(0.1, 0.2)) == result_of(losses(0.1, 0.2))


@pytest.fixture(scope="module")
def report() -> EvalReport:
    windows, train = market_windows()
    return compare(
        windows, forecasts_of(windows, train, knowledge={"base": 0.0, "sft": 0.1}), config=EvaluationConfig()
    )


def test_a_report_holds_all_forecasters_of_the_test_split_and_survives_json(report: EvalReport) -> None:
    found = report.whole_superiority
    assert found is not None
    assert (found.reference, found.candidates) == ("random_walk", ("base", "sft"))
    assert set(found.skill_intervals) == set(report.models) - {"random_walk"}
    assert EvalReport.model_validate_json(report.model_dump_json()) == report


def with_p_value(report: EvalReport, p_value: float) -> EvalReport:
    tests = tuple(test.model_copy(update={"p_value": p_value}) for test in report.significance)
    return report.model_copy(update={"significance": tests})


@pytest.mark.parametrize(
    ("interval", "p_value", "alone", "claim"),
    [
        ((0.01, 0.05), 0.01, 0.02, "The evidence shows that SFT is better than the random walk"),
        ((0.01, 0.05), 0.01, 0.06, "The evidence does not show that SFT differs from the random walk"),
        ((0.01, 0.05), 0.2, 0.1, "The evidence does not show that SFT differs from the random walk"),
        ((-0.03, 0.05), 0.01, 0.06, "The evidence does not show that SFT differs from the random walk"),
        ((-0.03, 0.05), 0.1, 0.04, "The evidence favours SFT but is not conclusive: tested alone it is better"),
        ((-0.3, -0.05), 0.9, 0.99, "The evidence shows that SFT is worse than the random walk"),
    ],
)
def test_the_sentence_claims_no_more_than_interval_and_test_carry(
    report: EvalReport, interval: tuple[float, float], p_value: float, alone: float, claim: str
) -> None:
    assert report.whole_superiority is not None
    found = report.whole_superiority.model_copy(update={"skill_intervals": {"sft": interval}, "p_value": p_value})
    text = allowed_claim(with_p_value(report.model_copy(update={"whole_superiority": found}), alone))
    assert text.startswith(claim)
    assert "the 2 trained or sampled forecasters have p" in text
    assert allowed_claim(report.model_copy(update={"whole_superiority": None})) == ""


def test_a_skill_without_an_interval_is_said_to_be_unknown_and_no_figure_is_made_up(report: EvalReport) -> None:
    assert report.whole_superiority is not None
    found = report.whole_superiority.model_copy(update={"skill_intervals": {}, "p_value": 0.01})
    text = allowed_claim(with_p_value(report.model_copy(update={"whole_superiority": found}), 0.2))
    assert text.startswith("The evidence does not show that SFT differs from the random walk: the size of its skill is")
    assert "95 %" not in text
