"""The clock: schedules over a change to and from summer time, and machines that stand in another time zone."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tickerforge.deployments.prefect.entries import NIGHTLY, TickersFile, for_night, read_entries
from tickerforge.tasks.prices.sessions import close_of, exchange_date, is_session, stale_by

NEW_YORK = ZoneInfo("America/New_York")


@pytest.fixture(params=["UTC", "Pacific/Auckland", "America/Los_Angeles"])
def zone(request: pytest.FixtureRequest) -> Iterator[str]:
    """The time zone in which this machine stands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


def scheduled(cron: str, *, start: datetime, days: int) -> list[datetime]:
    """The instants (UTC) for which Prefect's server makes SCHEDULED runs of a schedule in New York."""
    from prefect.server.schemas.schedules import CronSchedule

    schedule = CronSchedule(cron=cron, timezone="America/New_York")
    found = asyncio.run(schedule.get_dates(n=100, start=start, end=start + timedelta(days=days)))
    return [instant.astimezone(UTC) for instant in found]


def night_cron() -> str:
    (night,) = [entry for entry in read_entries() if entry.entrypoint == NIGHTLY]
    (schedule,) = for_night(night, TickersFile()).schedules
    assert schedule.timezone == "America/New_York"
    return schedule.cron


@pytest.mark.parametrize(("changes", "before", "after"), [("2026-03-08", 4, 3), ("2026-11-01", 3, 4)])
def test_the_night_keeps_its_hour_in_new_york_over_the_change_of_the_clock(
    zone: str, changes: str, before: int, after: int
) -> None:
    sunday = datetime.fromisoformat(changes).replace(tzinfo=NEW_YORK)
    instants = scheduled(night_cron(), start=sunday - timedelta(days=3), days=6)
    days = [instant.astimezone(NEW_YORK) for instant in instants]
    assert [(f"{day:%a}", day.hour, day.minute) for day in days] == [
        (name, 23, 30) for name in ("Thu", "Fri", "Mon", "Tue")
    ]
    # 23:30 in New York is 04:30 of the next day in UTC in winter and 03:30 in summer.
    assert [(instant.hour, instant.minute) for instant in instants] == [(before, 30)] * 2 + [(after, 30)] * 2


@pytest.mark.parametrize("cron", ["30 1 * * *", "30 2 * * *"])
@pytest.mark.parametrize("changes", ["2026-03-08", "2026-11-01"])
def test_an_hour_that_is_missing_or_comes_twice_yields_one_run_a_day(zone: str, cron: str, changes: str) -> None:
    sunday = datetime.fromisoformat(changes).replace(tzinfo=NEW_YORK)
    instants = scheduled(cron, start=sunday - timedelta(days=2), days=5)
    days = [instant.astimezone(NEW_YORK).date() for instant in instants]
    assert days == [sunday.date() + timedelta(days=offset) for offset in (-2, -1, 0, 1, 2)]
    assert len(set(instants)) == 5


@pytest.mark.parametrize(
    ("instant", "day"),
    [
        (datetime(2026, 3, 7, 4, 30, tzinfo=UTC), date(2026, 3, 6)),
        (datetime(2026, 3, 10, 3, 30, tzinfo=UTC), date(2026, 3, 9)),
        (datetime(2026, 10, 31, 3, 30, tzinfo=UTC), date(2026, 10, 30)),
        (datetime(2026, 11, 3, 4, 30, tzinfo=UTC), date(2026, 11, 2)),
    ],
)
def test_a_night_that_falls_on_the_next_day_in_utc_belongs_to_its_session(
    zone: str, instant: datetime, day: date
) -> None:
    assert exchange_date(instant, exchange="XNYS") == day
    assert is_session(day, exchange="XNYS")
    assert stale_by(day, instant, exchange="XNYS") == 0
    assert stale_by(day - timedelta(days=1), instant, exchange="XNYS") == 1


@pytest.mark.parametrize(
    ("day", "hour"), [(date(2026, 3, 6), 21), (date(2026, 3, 9), 20), (date(2026, 10, 30), 20), (date(2026, 11, 2), 21)]
)
def test_the_closing_bell_moves_with_the_clock(zone: str, day: date, hour: int) -> None:
    close = close_of(day, exchange="XNYS")
    assert close == datetime(day.year, day.month, day.day, hour, tzinfo=UTC)
    day_before = day - timedelta(days=1)
    assert stale_by(day, close, exchange="XNYS") == 0
    assert stale_by(day_before, close, exchange="XNYS") == 1
    assert stale_by(day_before, close - timedelta(minutes=1), exchange="XNYS") == 0


def test_a_run_that_is_due_at_an_instant_sees_the_same_session_in_every_time_zone(
    zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tickerforge.flows.settings import scope

    def on(instant: datetime) -> bool:
        monkeypatch.setattr(scope, "due", lambda: instant)
        return scope.due_on_session("XNYS")

    assert on(datetime(2026, 3, 7, 4, 30, tzinfo=UTC))
    assert not on(datetime(2026, 3, 8, 4, 30, tzinfo=UTC))
    assert not on(datetime(2026, 3, 9, 3, 30, tzinfo=UTC))
    assert on(datetime(2026, 3, 10, 3, 30, tzinfo=UTC))
