"""What is said about the end of prices: too early, in the future, or not closed yet."""

from datetime import UTC, date, datetime

import pytest

from tickerforge.tasks.prices.freshness import LONG_AGO, stale_end

SATURDAY = datetime(2026, 11, 28, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("last", "calendar", "expected"),
    [
        ("2026-11-27", "XNYS", ""),
        ("2026-11-25", "XNYS", "end on 2026-11-25, 1 session of XNYS before today"),
        ("2026-11-24", "XNYS", "end on 2026-11-24, 2 sessions of XNYS before today"),
        ("2017-09-01", "XNYS", "end on 2017-09-01, 2,321 sessions of XNYS before today"),
        ("2026-11-30", "XNYS", "end in the future, on 2026-11-30; today is 2026-11-28"),
        ("2026-11-28", "24/7", "of 2026-11-28, is not final: 24/7 closes at 00:00 UTC"),
        ("2026-11-26", None, ""),
        ("2026-11-20", None, "end on 2026-11-20, 4 weekdays before today"),
        ("2026-12-01", None, "end in the future"),
    ],
)
def test_the_end_of_prices_is_compared_with_the_last_closed_session(
    last: str, calendar: str | None, expected: str
) -> None:
    said = stale_end(date.fromisoformat(last), SATURDAY, ticker="ACME", calendar=calendar)
    assert expected in said
    assert bool(said) is bool(expected)


def test_a_session_counts_from_its_close_on() -> None:
    before, after = (datetime(2026, 11, 25, hour, 59, tzinfo=UTC) for hour in (20, 21))
    day = date(2026, 11, 25)
    assert "is not final: XNYS closes at 21:00 UTC" in stale_end(day, before, ticker="ACME", calendar="XNYS")
    assert stale_end(day, after, ticker="ACME", calendar="XNYS") == ""


def test_prices_that_only_train_may_lack_some_sessions() -> None:
    last = date(2026, 11, 19)
    assert "5 sessions" in stale_end(last, SATURDAY, ticker="ACME", calendar="XNYS")
    assert stale_end(last, SATURDAY, ticker="ACME", calendar="XNYS", tolerance=LONG_AGO) == ""
