"""Issued forecasts: recorded once, never rewritten with hindsight, and scored when their prices have come."""

import json
import logging
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from tickerforge.tasks.outputs.live import (
    IssuedForecast,
    check_record,
    issue_forecast,
    read_issued,
    record_outcomes,
    score_issued,
    seal_records,
)
from tickerforge.tasks.prices.sessions import next_sessions

ORIGIN = date(2026, 10, 30)
CLOSE_OF_FIRST = datetime(2026, 11, 2, 21, tzinfo=UTC)
EVENING = datetime(2026, 10, 30, 22, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _own_home(working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TICKERFORGE_STORE", raising=False)


def issue(  # type: ignore[no-untyped-def]
    *, origin: date = ORIGIN, version: int | None = 1, issued_at: datetime = EVENING, level: float = 1.0, **other
):
    """Three sessions after the origin: a median of `level` times the close of 100 USD, and a band of 2 USD around."""
    days = next_sessions(pd.Series(pd.bdate_range(end=origin, periods=80)), count=3, ticker="DEMO")
    arguments = {
        "ticker": "DEMO",
        "version": version,
        "origin": origin,
        "origin_close": 100.0,
        "sigma": 0.01,
        "interval": 0.8,
        "target_dates": [day.date() for day in days],
        "median": [100.0 * level] * 3,
        "lower": [100.0 * level - 2] * 3,
        "upper": [100.0 * level + 2] * 3,
        "issued_at": issued_at,
    }
    return issue_forecast(**(arguments | other))


def bars(closes: list[float]) -> pd.DataFrame:
    """Bars that end with the given closes, the first of them at the origin."""
    days = pd.bdate_range(ORIGIN, periods=len(closes))
    return pd.DataFrame({"date": days, "adj_close": closes})


def test_an_issued_forecast_is_read_back_as_it_was() -> None:
    made = issue()
    assert read_issued("DEMO") == (made,)
    assert (made.first_close, made.late) == (CLOSE_OF_FIRST, False)
    assert read_issued("DEM") == ()


def test_the_first_forecast_of_an_origin_and_version_stands_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = issue()
    with caplog.at_level(logging.INFO):
        second = issue(level=1.05, issued_at=EVENING + timedelta(hours=1))
    assert second == first
    assert read_issued("DEMO") == (first,)
    assert "DEMO: version 1 has a forecast from 2026-10-30 already, issued at 2026-10-30T22:00:00+00:00" in caplog.text


def test_a_free_forecast_is_scored_and_the_challengers_beside_it_only_kept() -> None:
    free = issue(version=None, issuer="random_walk_har", why="its CRPS is lowest", level=1.02)
    issue(version=3, issuer="challenger", beside=True, level=1.0)
    again = issue(version=None, issuer="random_walk_har", level=1.05)
    assert (free.version, free.issuer, free.why, again) == (0, "random_walk_har", "its CRPS is lowest", free)
    assert [record.version for record in read_issued("DEMO")] == [0, 3]
    live = score_issued("DEMO", bars([100.0, 102.0, 102.0, 102.0]))
    assert (live.issued, [window.version for window in live.windows]) == (1, [0])
    assert live.scaled_mse == pytest.approx(0.0)


def test_another_version_of_the_same_origin_is_kept_beside_and_the_first_one_is_scored() -> None:
    issue(version=2, level=1.02)
    issue(version=10, level=1.0, issued_at=EVENING + timedelta(hours=1))
    live = score_issued("DEMO", bars([100.0, 102.0, 102.0, 102.0]))
    assert [record.version for record in read_issued("DEMO")] == [2, 10]
    assert (live.issued, live.repeated, [window.version for window in live.windows]) == (2, 1, [2])
    assert live.scaled_mse == pytest.approx(0.0)


@pytest.mark.parametrize(("seconds", "late"), [(-1, False), (0, True)])
def test_a_forecast_issued_once_its_first_price_is_known_is_late_and_never_scored(
    seconds: int, late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    made = issue(issued_at=CLOSE_OF_FIRST + timedelta(seconds=seconds))
    live = score_issued("DEMO", bars([100.0, 101.0, 102.0, 103.0]))
    assert (made.late, live.late, len(live.windows)) == (late, int(late), int(not late))
    assert ("is late" in caplog.text) is late


def test_the_exchange_tells_when_the_first_price_is_known() -> None:
    tokyo_evening = datetime(2026, 11, 2, 7, tzinfo=UTC)
    assert issue(issued_at=tokyo_evening, exchange="XTKS").late
    assert not issue(issued_at=tokyo_evening, version=2).late


def test_prices_score_the_forecasts_as_far_as_they_have_come() -> None:
    issue()
    issue(origin=date(2026, 11, 2), level=1.01, issued_at=EVENING + timedelta(days=3))
    live = score_issued("DEMO", bars([100.0, 101.0, 102.0, 103.0]))
    moves = np.log([1.01, 1.02, 1.03]) / 0.01
    assert (live.issued, live.pending, len(live.windows)) == (2, 1, 1)
    assert live.scaled_mse == pytest.approx(np.mean(moves**2)) == live.persistence
    assert [step.forecasts for step in live.steps] == [2, 2, 1]
    assert live.coverage == pytest.approx(2 / 3)


def test_a_split_after_the_issue_changes_no_score() -> None:
    issue(level=1.01)
    before = score_issued("DEMO", bars([100.0, 101.0, 102.0, 103.0]))
    after = score_issued("DEMO", bars([25.0, 25.25, 25.5, 25.75]))
    assert after.scaled_mse == pytest.approx(before.scaled_mse)


def test_a_stock_without_issued_forecasts_has_empty_scores() -> None:
    live = score_issued("DEMO", bars([100.0, 101.0]))
    assert (live.issued, live.scaled_mse) == (0, None)


def test_an_instant_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        issue(issued_at=datetime(2026, 10, 30, 22))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"median": [100.0]}, "equally long"),
        ({"median": [100.0, float("nan"), 100.0]}, "finite number"),
        ({"target_dates": [ORIGIN, date(2026, 11, 2), date(2026, 11, 3)]}, "after the origin"),
    ],
)
def test_paths_that_are_no_forecast_are_refused(changed: dict, match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        issue(**changed)
    assert read_issued("DEMO") == ()


def test_a_record_survives_json() -> None:
    made = issue()
    assert IssuedForecast.model_validate_json(made.model_dump_json()) == made


def test_the_record_has_the_outcomes_and_a_changed_forecast_or_outcome_shows(tmp_path: Path) -> None:
    fan = [[98.0 + step / 5 for step in range(1, 20)]] * 3
    made = issue(version=None, issuer="random_walk_har", quantiles=fan, reference=fan)
    late = issue(origin=date(2026, 11, 2), issued_at=EVENING + timedelta(days=3))
    seal_records([made.record, late.record], at=CLOSE_OF_FIRST + timedelta(days=3), since=EVENING)
    live = score_issued("DEMO", bars([100.0, 101.0, 102.0, 103.0]))
    recorded = CLOSE_OF_FIRST + timedelta(days=4)
    names = list(record_outcomes(live, at=recorded))
    assert names == ["outcomes/DEMO/2026-10-30-random_walk_har"]
    # The night was killed before it sealed them, and the next one does it.
    assert record_outcomes(live, at=recorded + timedelta(days=1)) == {names[0]: recorded}
    end = seal_records(names, at=recorded + timedelta(days=1), since=recorded)
    assert seal_records(names, at=recorded + timedelta(days=2), since=recorded) == end
    assert record_outcomes(live, at=recorded + timedelta(days=31)) == {}
    found = check_record()
    assert (found.forecasts, found.outcomes, found.late, found.head, found.faults) == (2, 1, 2, end, ())
    outcome = tmp_path / "home" / "state" / "records" / f"{names[0]}.json"
    assert json.loads(outcome.read_text())["moves"] == pytest.approx([1.01, 1.02, 1.03])
    outcome.write_text(outcome.read_text().replace("1.01", "1.02"))
    assert check_record().faults[0].startswith(f"{names[0]}: the record was changed")


def test_quantiles_of_other_levels_are_refused() -> None:
    with pytest.raises(ValidationError, match="19 levels"):
        issue(quantiles=[[99.0, 100.0]] * 3)
