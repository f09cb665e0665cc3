"""The loss of variance forecasts and the tests of the value at risk, against closed forms and independent code."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bernoulli, chi2

from evaluation_frames import market_windows, noisy_forecasts
from tickerforge.evaluation.baselines.simple import baseline_forecasts
from tickerforge.evaluation.core.panels import answers_of, session_calendar, truth_of
from tickerforge.evaluation.metrics.risk import TailTest, qlike, tail_test
from tickerforge.evaluation.metrics.scores import Scales, scales_of, score


def test_qlike_is_the_normal_likelihood_up_to_terms_without_the_forecast() -> None:
    realised, one, other = np.array([0.5, 2.0]), np.array([1.0, 1.0]), np.array([0.7, 3.0])
    deviance = [np.log(v) + realised / v for v in (one, other)]
    np.testing.assert_allclose(qlike(one, realised) - qlike(other, realised), deviance[0] - deviance[1])
    np.testing.assert_array_equal(qlike(realised, realised), 0.0)


def by_definition(hits: np.ndarray, tail: float) -> tuple[float, float]:
    """Both p-values from Bernoulli likelihoods, one observation after the other."""
    free = bernoulli(hits.mean()).logpmf(hits).sum()
    kupiec = 2 * (free - bernoulli(tail).logpmf(hits).sum())
    later = hits[1:]
    chain = sum(bernoulli(part.mean()).logpmf(part).sum() for part in (later[hits[:-1] == s] for s in (0, 1)))
    runs = 2 * (chain - bernoulli(later.mean()).logpmf(later).sum())
    return float(chi2.sf(kupiec, 1)), float(chi2.sf(kupiec + runs, 2))


@pytest.mark.parametrize("tail", [0.01, 0.05])
def test_the_tests_of_the_value_at_risk_agree_with_their_definition(tail: float) -> None:
    hits = (np.random.default_rng(3).random(400) < 0.08).astype(int)
    found = tail_test(hits, follow_each_other=True, tail=tail)
    assert (found.kupiec, found.christoffersen) == pytest.approx(by_definition(hits, tail))
    assert found.hits == hits.mean()


def test_the_right_frequency_passes_and_runs_of_hits_are_found_by_christoffersen_alone() -> None:
    spread, clustered = np.zeros(500), np.zeros(500)
    spread[10::20] = clustered[100:125] = 1
    assert at_five_percent(spread).kupiec == pytest.approx(1.0)
    assert at_five_percent(clustered).kupiec == pytest.approx(1.0)
    assert (at_five_percent(clustered).christoffersen or 0.0) < 1e-6
    assert at_five_percent(np.zeros(500)).kupiec < 1e-6


def at_five_percent(hits: np.ndarray) -> TailTest:
    return tail_test(hits, follow_each_other=True, tail=0.05)


def test_windows_that_leave_out_sessions_have_no_test_of_runs() -> None:
    windows, train = market_windows(sessions=2000)
    test = windows[windows["split"] == "test"]
    figures = {}
    for step in (1, 2):
        some = test.iloc[::step]
        pool = pd.concat([some, some.assign(ticker="TWIN")])
        for name, rows in (("alone", some), ("pool", pool)):
            truth = truth_of(rows, split="test", calendar=session_calendar(windows))
            free = pd.concat(
                baseline_forecasts(own, windows=windows, train=train) for _, own in rows.groupby("ticker", sort=False)
            )
            figures[step, name] = score(truth, answers_of(free, model="random_walk", truth=truth), interval=0.8)[0]
    assert figures[1, "alone"]["christoffersen_5"] is not None
    assert figures[1, "pool"]["var_5_rejected"] is not None
    assert figures[2, "alone"]["christoffersen_5"] is None
    assert figures[2, "pool"]["var_5_rejected"] is None
    assert figures[2, "alone"]["kupiec_5"] is not None
    # Another ticker of a pool may trade every day.
    days = np.arange(test["origin"].min(), np.datetime64("2100-01-01"), dtype="datetime64[D]")
    truth = truth_of(test, split="test", calendar=days)
    free = baseline_forecasts(test, windows=windows, train=train)
    found = score(truth, answers_of(free, model="random_walk", truth=truth), interval=0.8)[0]
    assert found["christoffersen_5"] == figures[1, "alone"]["christoffersen_5"]


def test_five_of_a_hundred_right_forecasts_are_refused_by_kupiec() -> None:
    hits = np.random.default_rng(0).random((1000, 250)) < 0.05
    refused = np.mean([at_five_percent(row).kupiec < 0.05 for row in hits])
    assert 0.03 < refused < 0.08


def test_a_free_walk_has_its_variance_and_tails_and_sixteen_samples_have_no_one_percent_quantile() -> None:
    windows, train = market_windows(sessions=2000)
    test = windows[windows["split"] == "test"]
    truth = truth_of(test, split="test", calendar=session_calendar(windows))
    free = baseline_forecasts(test, windows=windows, train=train)
    figures, fit = score(truth, answers_of(free, model="random_walk", truth=truth), interval=0.8)
    np.testing.assert_allclose(fit.variance, fit.variance[0], rtol=1e-9)
    assert fit.variance[0] == pytest.approx(1.0, rel=0.15)
    assert 0.0 <= (figures["var_1"] or 0.0) < 0.03
    assert 0.02 < (figures["var_5"] or 0.0) < 0.08
    assert (figures["members"], figures["var_5_rejected"]) == (99, None)
    sampled = noisy_forecasts(test, model="sft", knowledge=0.0, noise=0.0)
    few, _ = score(truth, answers_of(sampled, model="sft", truth=truth), interval=0.8)
    assert (few["members"], few["var_1"], few["kupiec_5"]) == (16, None, None)
    assert few["qlike"] is not None
    point, _ = score(truth, answers_of(free, model="persistence", truth=truth), interval=0.8)
    assert (point["qlike"], point["var_5"], point["members"]) == (None, None, None)


def test_ranges_are_scaled_to_returns_on_the_train_windows_of_each_ticker() -> None:
    windows, _ = market_windows()
    wide = windows.assign(ticker="WIDE", target_variance=[4 * each for each in windows["target_variance"]])
    both = scales_of(windows), scales_of(wide)
    assert both[1].ranges["WIDE"] == pytest.approx(both[0].ranges["DEMO"] / 4)
    assert scales_of(windows[windows["split"] == "test"]) == Scales({}, {"DEMO": 1.0})
