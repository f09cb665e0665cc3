"""Live scores: equal to the comparison's figures and to manual errors, and unchanged by what must not matter."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from evaluation_frames import forecasts_of, market_windows
from live_frames import issued_frame
from tickerforge.evaluation.comparison.compare import compare
from tickerforge.evaluation.core.config import EvaluationConfig
from tickerforge.evaluation.core.contracts import EvalReport
from tickerforge.evaluation.core.errors import ForecastsError
from tickerforge.evaluation.metrics.accuracy import band
from tickerforge.evaluation.monitoring.live import LiveScores, score_live
from tickerforge.features.config import SyntheticConfig
from tickerforge.features.synthetic import market

SESSIONS = pd.bdate_range("2026-01-05", periods=60)


@cache
def compared() -> tuple[pd.DataFrame, pd.Series, EvalReport]:
    """Forecasts of the test split as if they had been issued, the closes, and their scores in the comparison."""
    windows, train = market_windows()
    forecasts = forecasts_of(windows, train, knowledge={"sft": 0.1})
    report = compare(windows, forecasts, config=EvaluationConfig())
    rows = forecasts[(forecasts["model"] == "sft") & (forecasts["split"] == "test")].sort_values("origin")
    known = windows[windows["split"] == "test"].sort_values("origin")
    bands = [band(np.array(samples), interval=0.8) for samples in rows["samples"]]
    issued = issued_frame(
        known,
        median=rows["median"].to_list(),
        lower=[lower for lower, _ in bands],
        upper=[upper for _, upper in bands],
    )
    bars = market(SyntheticConfig(process="random_walk", sessions=600, seed=3))
    return issued, bars.set_index("date")["adj_close"], report


def one(**changed: object) -> pd.DataFrame:
    """One forecast of three sessions from the 20th session on: up 1 %, 2 %, 3 % from a close of 50 USD."""
    median = np.array([50.5, 51.0, 51.5])
    row = {
        "ticker": "DEMO",
        "version": 1,
        "origin": SESSIONS[20].date(),
        "issued_at": SESSIONS[20].tz_localize("UTC"),
        "late": False,
        "origin_close": 50.0,
        "sigma": 0.01,
        "interval": 0.8,
        "target_dates": [day.date() for day in SESSIONS[21:24]],
        "provisional_dates": [],
        "median": median,
        "lower": median - 0.6,
        "upper": median + 0.6,
    }
    return pd.DataFrame([row | changed])


def flat(*, sessions: int = 60, price: float = 100.0) -> pd.Series:
    return pd.Series(price, index=SESSIONS[:sessions])


def test_forecasts_of_the_test_split_get_the_very_figures_of_the_comparison() -> None:
    issued, closes, report = compared()
    live = score_live(issued, closes, ticker="DEMO")
    assert len(live.windows) == report.summary("test").windows
    assert live.independent == report.summary("test").independent
    assert live.scaled_mse == pytest.approx(report.value("sft", split="test", metric="scaled_mse"))
    assert live.persistence == pytest.approx(report.value("persistence", split="test", metric="scaled_mse"))
    assert live.skill == pytest.approx(report.value("sft", split="test", metric="skill"))
    assert live.coverage == pytest.approx(report.value("sft", split="test", metric="coverage"))
    test = report.test_of("sft", split="test")
    assert test is not None
    assert live.p_value == pytest.approx(test.p_value)
    ahead = [row for row in report.metrics if (row.split, row.metric) == ("test", "scaled_mse") and row.horizon]
    assert [step.scaled_mse for step in live.steps] == pytest.approx([row.values["sft"] for row in ahead])


def test_a_forecast_is_scored_by_hand_computed_errors() -> None:
    live = score_live(one(), flat(), ticker="DEMO")
    expected = np.mean((np.log([1.01, 1.02, 1.03]) / 0.01) ** 2)
    assert live.scaled_mse == pytest.approx(expected)
    assert (live.persistence, live.skill) == (0.0, None)
    assert "no price moved" in live.text
    assert live.coverage == pytest.approx(1 / 3)


def test_a_split_and_a_dividend_after_the_origin_change_no_figure() -> None:
    issued, closes, _ = compared()
    before = score_live(issued, closes, ticker="DEMO")
    after = score_live(issued, closes * 0.25 * 0.993, ticker="DEMO")
    assert after.scaled_mse == pytest.approx(before.scaled_mse)
    assert after.coverage == pytest.approx(before.coverage)


def test_half_arrived_forecasts_count_in_the_steps_only() -> None:
    issued, closes, _ = compared()
    cut = closes.iloc[: closes.index.get_loc(pd.Timestamp(issued["origin"].iloc[30])) + 1]
    live = score_live(issued, cut, ticker="DEMO")
    assert len(live.windows) == 21
    assert live.pending == len(issued) - 21
    assert [step.forecasts for step in live.steps] == list(range(30, 20, -1))
    assert live.scaled_mse == pytest.approx(np.mean([window.loss for window in live.windows]))


def test_overlapping_forecasts_are_not_taken_as_independent_ones() -> None:
    issued, closes, _ = compared()
    live = score_live(issued.head(25), closes, ticker="DEMO")
    assert (len(live.windows), live.independent, live.p_value) == (25, 3, 1.0)
    assert "only 3 independent windows" in live.text


def test_a_session_without_a_price_moves_the_path_to_the_next_ones_and_is_listed() -> None:
    closes = flat()
    closes.iloc[23] = 110.0
    closes.iloc[24] = 120.0
    live = score_live(one(), closes.drop(SESSIONS[22]), ticker="DEMO")
    moves = np.log([1.0, 1.1, 1.2])
    assert live.scaled_mse == pytest.approx(np.mean(((moves - np.log([1.01, 1.02, 1.03])) / 0.01) ** 2))
    assert live.missing_dates == (SESSIONS[22].date(),)
    assert "planned sessions without a price: 2026-02-04" in live.text
    guessed = score_live(one(provisional_dates=[SESSIONS[22].date()]), closes.drop(SESSIONS[22]), ticker="DEMO")
    assert guessed.missing_dates == ()
    assert guessed.windows == live.windows


def test_forecasts_without_a_band_are_scored_and_leave_the_coverage_to_the_others() -> None:
    bare = one(lower=[None] * 3, upper=[None] * 3)
    alone = score_live(bare, flat(), ticker="DEMO")
    banded = score_live(one(), flat(), ticker="DEMO")
    assert alone.coverage is None
    assert all(step.coverage is None for step in alone.steps)
    assert alone.scaled_mse == banded.scaled_mse
    assert "band" in banded.text
    assert "band" not in alone.text
    later = bare.assign(origin=SESSIONS[30].date(), target_dates=[[day.date() for day in SESSIONS[31:34]]])
    assert score_live(pd.concat([one(), later]), flat(), ticker="DEMO").coverage == banded.coverage


def test_an_origin_that_the_data_have_lost_is_counted_and_not_scored() -> None:
    live = score_live(one(), flat().drop(SESSIONS[20]), ticker="DEMO")
    assert (live.unplaced, live.pending, live.windows) == (1, 0, ())


def test_late_forecasts_and_later_versions_of_an_origin_are_counted_and_not_scored() -> None:
    first, second, late = one(version=2), one(version=3), one(version=4, late=True)
    second["issued_at"] += pd.Timedelta(hours=1)
    late["issued_at"] -= pd.Timedelta(hours=1)
    live = score_live(pd.concat([second, late, first]), flat(), ticker="DEMO")
    assert [window.version for window in live.windows] == [2]
    assert (live.issued, live.late, live.repeated) == (3, 1, 1)


def test_forecasts_of_a_former_horizon_are_counted_and_not_mixed_in() -> None:
    short = one(origin=SESSIONS[10].date(), target_dates=[SESSIONS[11].date()], median=[50.0], lower=[49], upper=[51])
    live = score_live(pd.concat([short, one()]), flat(), ticker="DEMO")
    assert (live.horizon, live.outdated, len(live.windows)) == (3, 1, 1)


@pytest.mark.parametrize("issued", [pd.DataFrame(), one()])
def test_nothing_arrived_is_said_and_is_no_error(issued: pd.DataFrame) -> None:
    live = score_live(issued, flat(sessions=21), ticker="DEMO")
    assert (live.scaled_mse, live.skill, live.p_value, live.steps) == (None, None, 1.0, ())
    assert "No issued forecast of DEMO is complete yet" in live.text
    assert LiveScores.model_validate_json(live.model_dump_json()) == live


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"ticker": "AAPL"}, "another ticker"),
        ({"median": [50.0]}, "for each target date"),
        ({"sigma": 0.0}, "not positive and finite"),
    ],
)
def test_issued_forecasts_that_cannot_be_scored_are_refused(changed: dict, match: str) -> None:
    with pytest.raises(ForecastsError, match=match):
        score_live(one(**changed), flat(), ticker="DEMO")


def test_a_forecast_from_a_session_that_the_data_do_not_hold_yet_is_pending() -> None:
    live = score_live(one(), flat(sessions=20), ticker="DEMO")
    assert (live.pending, live.unplaced) == (1, 0)


def test_the_crps_of_issued_quantiles_is_compared_with_the_random_walks() -> None:
    issued, closes, _ = compared()
    levels = np.linspace(0.05, 0.95, 19)
    sigma = issued["sigma"].to_numpy()
    spread = norm.ppf(levels) * np.sqrt(np.arange(1, 11))[:, None]
    walks = [close * np.exp(each * spread) for close, each in zip(issued["origin_close"], sigma, strict=True)]
    wide = [close * np.exp(3 * each * spread) for close, each in zip(issued["origin_close"], sigma, strict=True)]
    same, worse = (
        score_live(issued.assign(quantiles=quantiles, reference=walks), closes, ticker="DEMO")
        for quantiles in (walks, wide)
    )
    assert (same.distributions, same.crps_skill) == (len(same.windows), 0)
    first = same.windows[0]
    moves = np.log(first.moves) / sigma[0]
    by_hand = np.abs(spread - moves[:, None]).mean() - np.abs(spread[:, :, None] - spread[:, None, :]).mean() / 2
    assert first.crps == pytest.approx(by_hand)
    assert worse.crps_skill is not None
    assert worse.crps_skill < -0.2
    assert f"The CRPS of {len(worse.windows)} of them is {-worse.crps_skill:.1%}"[:-1] in worse.text
    assert "above the random walk's" in worse.text
    without = score_live(issued.assign(quantiles=[()] * len(issued), reference=walks), closes, ticker="DEMO")
    assert (without.distributions, without.crps_skill) == (0, None)
