"""Drift: no alarm without drift, an alarm with it, and the figures behind it."""

import numpy as np
import pandas as pd
import pytest

from evaluation_frames import forecasts_of, market_windows, noisy_forecasts
from live_frames import issued_frame
from tickerforge.evaluation.comparison.compare import compare
from tickerforge.evaluation.core.config import EvaluationConfig
from tickerforge.evaluation.core.contracts import Floats
from tickerforge.evaluation.core.errors import EvaluationError
from tickerforge.evaluation.metrics.accuracy import scaled_errors
from tickerforge.evaluation.monitoring.drift import ExpectedError, InputDrift, error_drift, expected_error, input_drift
from tickerforge.evaluation.monitoring.live import LiveScores, score_live
from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.features.synthetic import bars_from_log_prices, log_prices, market
from tickerforge.features.windows import build_windows

HORIZON = 10


def drift_of(
    kind: str, *, seed: int, factor: float = 1.0, trend: float = 0.0, sessions: int = 700, recent: int = 60
) -> InputDrift:
    """Input drift of a synthetic market whose last windows are more volatile by a factor, or trend by σ per session."""
    rng = np.random.default_rng(seed)
    if kind == "garch":
        returns = garch(sessions, rng=rng)
    else:
        prices = log_prices(kind, phi=0.8, sessions=sessions, volatility=0.016, tail=5.0, rng=rng)
        returns = np.diff(prices, prepend=0.0)
    changed = recent + HORIZON - 1
    returns[-changed - HORIZON :] = factor * returns[-changed - HORIZON :] + 0.016 * trend
    windows = build_windows(bars_from_log_prices(np.cumsum(returns), rng=rng), ticker="DEMO", config=FeatureConfig())
    return input_drift(windows[windows["split"] == "train"], windows.tail(recent))


def garch(sessions: int, *, rng: np.random.Generator) -> Floats:
    """Daily returns of 1.6 % whose volatility clusters: h' = 0.02 + 0.08 r² + 0.90 h, Student-t with 5 degrees."""
    shocks, variance = rng.standard_t(5, sessions + 300) / np.sqrt(5 / 3), 1.0
    returns = np.empty(len(shocks))
    for day, shock in enumerate(shocks):
        returns[day] = np.sqrt(variance) * shock
        variance = 0.02 + 0.08 * returns[day] ** 2 + 0.90 * variance
    return 0.016 * returns[300:]


@pytest.mark.parametrize("kind", ["random_walk", "mean_reverting", "garch"])
def test_without_drift_an_input_alarm_is_rare(kind: str) -> None:
    """At most 1 of 10 markets: at 1 % per night, there would be more in 4 of 1000 such tests."""
    assert sum(drift_of(kind, seed=seed).drifted for seed in range(10)) <= 1


def test_doubled_volatility_is_found_and_named() -> None:
    found = [drift_of("random_walk", seed=seed, factor=2.0) for seed in range(8)]
    assert sum("volatility" in {each.name for each in drift.measures if each.drifted} for drift in found) >= 6
    assert "mean size of a daily move" in next(drift.text for drift in found if drift.drifted)


def test_a_trend_regime_is_found_and_named() -> None:
    found = [drift_of("random_walk", seed=seed, trend=0.6) for seed in range(8)]
    assert sum("moves" in {each.name for each in drift.measures if each.drifted} for drift in found) >= 6


def test_the_first_measure_is_the_kolmogorov_smirnov_test_of_non_overlapping_moves() -> None:
    windows, _ = market_windows(sessions=800)
    train, recent = windows[windows["split"] == "train"], windows.tail(60)
    measure = input_drift(train, recent).measures[0]
    before, now = ([], [])
    for values, frame in ((before, train), (now, recent)):
        for _, row in frame.iloc[::-1].iloc[::9].iterrows():
            values.extend(np.diff(np.log(row["history"])) / row["sigma"])
    grid = np.sort(before + now)
    steps = [np.searchsorted(np.sort(sample), grid, side="right") / len(sample) for sample in (before, now)]
    assert (measure.name, measure.rows) == ("moves", 63)
    assert measure.statistic == pytest.approx(np.abs(steps[0] - steps[1]).max())
    assert measure.recent == pytest.approx(np.mean(now))


def test_too_few_windows_are_not_judged_and_misplaced_ones_refused() -> None:
    windows, _ = market_windows()
    train = windows[windows["split"] == "train"]
    verdict = input_drift(train, windows.tail(29))
    assert not verdict.drifted
    assert "not judged" in verdict.text
    with pytest.raises(EvaluationError, match="must be after the reference"):
        input_drift(train, train.tail(40))


def live_of(losses: Floats) -> LiveScores:
    """Live scores with given losses of windows that share no session, with a loss of persistence of 5.5."""
    empty = score_live(pd.DataFrame(), pd.Series(dtype=float), ticker="DEMO")
    return empty.model_copy(
        update={"scaled_mse": float(np.mean(losses)), "persistence": 5.5, "independent": len(losses)}
    )


EXPECTED = ExpectedError(
    ticker="DEMO", model="sft", scaled_mse=5.0, persistence=5.5, relative_variance=1.0, windows=300, independent=30
)


def test_expected_error_is_that_of_the_report_with_the_variance_of_its_windows() -> None:
    windows, train = market_windows()
    forecasts = forecasts_of(windows, train, knowledge={"sft": 0.1})
    report = compare(windows, forecasts, config=EvaluationConfig())
    expected = expected_error(windows, forecasts, model="sft", config=EvaluationConfig())
    test = windows[windows["split"] == "test"].sort_values("origin")
    asked = forecasts[(forecasts["model"] == "sft") & (forecasts["split"] == "test")].sort_values("origin")
    target, median = (np.stack(values.to_list()) for values in (test["target"], asked["median"]))
    losses = scaled_errors(target, median, sigma=test["sigma"].to_numpy()).mean(axis=1)
    assert expected.scaled_mse == pytest.approx(report.value("sft", split="test", metric="scaled_mse"))
    assert expected.persistence == pytest.approx(report.value("persistence", split="test", metric="scaled_mse"))
    assert expected.relative_variance == pytest.approx(np.var(losses) / np.mean(losses) ** 2)
    assert expected.independent == report.summary("test").independent


def test_without_drift_an_error_alarm_comes_in_one_of_a_hundred_nights() -> None:
    """Losses of relative variance 1 are exponential: the ratio of their means is F distributed exactly."""
    rng = np.random.default_rng(5)
    alarms = []
    for _ in range(150):
        expected = EXPECTED.model_copy(update={"scaled_mse": float(rng.exponential(5.0, 30).mean())})
        alarms.append(error_drift(live_of(rng.exponential(5.0, 8)), expected).drifted)
    assert np.mean(alarms) <= 0.03


def test_errors_three_times_the_expected_are_found_and_said_in_words() -> None:
    drift = error_drift(live_of(np.full(12, 15.0)), EXPECTED)
    assert drift.drifted
    assert drift.ratio == pytest.approx(3.0)
    assert drift.persistence_ratio == pytest.approx(1.0)
    assert "3.00 times that of the test split (persistence's: 1.00 times)" in drift.text
    assert not error_drift(live_of(np.full(12, 6.0)), EXPECTED).drifted


def test_below_four_independent_windows_no_error_is_an_alarm() -> None:
    drift = error_drift(live_of(np.full(3, 500.0)), EXPECTED)
    assert (drift.drifted, drift.ratio, drift.limit) == (False, None, None)
    assert "3 independent forecasts are complete, 4 are needed" in drift.text


def test_overlapping_forecasts_of_a_steady_market_raise_no_error_alarm() -> None:
    """The whole path on real windows: the test split gives the expected error, the forecasts after it are live."""
    alarms = 0
    for seed in range(4):
        windows, train = market_windows("random_walk", sessions=900, seed=seed)
        test = windows[windows["split"] == "test"]
        past = windows.drop(test.index[-70:])
        forecasts = forecasts_of(windows, train, knowledge={"sft": 0.02})
        expected = expected_error(past, forecasts, model="sft", config=EvaluationConfig())
        later = noisy_forecasts(test.tail(60).reset_index(drop=True), model="sft", knowledge=0.02, seed=seed)
        alarms += error_drift(_issued_and_scored(test.tail(60), later, seed=seed), expected).drifted
    assert alarms == 0


def _issued_and_scored(windows: pd.DataFrame, forecasts: pd.DataFrame, *, seed: int) -> LiveScores:
    bars = market(SyntheticConfig(process="random_walk", sessions=900, seed=seed))
    issued = issued_frame(windows, **{name: forecasts["median"].to_list() for name in ("median", "lower", "upper")})
    return score_live(issued, bars.set_index("date")["adj_close"], ticker="DEMO")
