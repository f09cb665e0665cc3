"""Sessions of exchanges: open days, the last close over changes of the clock, staleness, and what comes next."""

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo

import pandas as pd
import pytest

from tickerforge.tasks.base.errors import MarketDataError
from tickerforge.tasks.prices.sessions import (
    ALWAYS,
    EXCHANGE,
    YAHOO_ENDINGS,
    calendar_of,
    close_of,
    exchange_date,
    exchange_timezone,
    is_session,
    next_sessions,
    provisional,
    recorded,
    sessions_between,
    stale_by,
)

NEW_YORK = ZoneInfo("America/New_York")


def new_york(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=NEW_YORK)


@pytest.mark.parametrize(
    ("day", "exchange", "expected"),
    [
        ("2026-11-20", "XNYS", True),
        ("2026-11-21", "XNYS", False),
        ("2026-11-26", "XNYS", False),
        ("2026-11-26", "XLON", True),
        ("2012-10-29", "XNYS", False),
        ("2026-11-22", "24/7", True),
    ],
)
def test_weekends_holidays_and_storms_are_no_sessions(day: str, exchange: str, expected: bool) -> None:
    assert is_session(date.fromisoformat(day), exchange=exchange) is expected


def is_latest(day: date, instant: datetime, *, exchange: str = "XNYS") -> bool:
    """Whether a day's session is the last one that had closed by an instant."""
    before = stale_by(day - timedelta(days=1), instant, exchange=exchange)
    return (before, stale_by(day, instant, exchange=exchange)) == (1, 0)


@pytest.mark.parametrize(
    ("instant", "expected"),
    [
        ("2026-11-20 15:59:59", "2026-11-19"),
        ("2026-11-20 16:00:00", "2026-11-20"),
        ("2026-11-22 12:00:00", "2026-11-20"),
        ("2026-11-27 12:59:00", "2026-11-25"),
        ("2026-11-27 13:00:00", "2026-11-27"),
    ],
)
def test_the_latest_session_is_the_last_one_that_closed_early_closes_included(instant: str, expected: str) -> None:
    assert is_latest(date.fromisoformat(expected), new_york(instant))


@pytest.mark.parametrize("day", ["2026-03-06", "2026-03-09", "2026-10-30", "2026-11-02"])
def test_a_close_is_at_four_in_new_york_on_both_sides_of_a_change_of_the_clock(day: str) -> None:
    close = new_york(f"{day} 16:00")
    assert close_of(date.fromisoformat(day), exchange="XNYS") == close
    assert is_latest(date.fromisoformat(day), close)
    before = close.astimezone(UTC) - timedelta(seconds=1)
    assert stale_by(date.fromisoformat(day) - timedelta(days=1), before, exchange="XNYS") == 0


def test_the_same_instant_means_the_same_session_in_every_time_zone() -> None:
    instant = datetime(2026, 11, 20, 21, 30, tzinfo=UTC)
    for zone in ("Asia/Tokyo", "Europe/Berlin", "Pacific/Auckland"):
        assert is_latest(date(2026, 11, 20), instant.astimezone(ZoneInfo(zone)))


def test_an_exchange_ahead_of_utc_has_closed_its_day_by_the_early_morning() -> None:
    assert is_latest(date(2026, 11, 19), datetime(2026, 11, 20, 6, 29, tzinfo=UTC), exchange="XTKS")
    assert is_latest(date(2026, 11, 20), datetime(2026, 11, 20, 6, 30, tzinfo=UTC), exchange="XTKS")


def test_the_last_day_of_the_year_needs_no_holidays_of_the_next() -> None:
    assert is_latest(date(2026, 12, 31), datetime(2026, 12, 31, 12, tzinfo=UTC), exchange="XSHG")


def test_the_day_of_an_exchange_is_that_of_its_own_wall_clock() -> None:
    instant = datetime(2026, 11, 20, 23, 30, tzinfo=UTC)
    assert exchange_date(instant, exchange="XNYS") == date(2026, 11, 20)
    assert exchange_date(instant, exchange="XTKS") == date(2026, 11, 21)
    assert exchange_timezone("XNYS") == "America/New_York"


@pytest.mark.parametrize(
    ("last", "instant", "missing"),
    [
        ("2026-11-20", "2026-11-23 15:59", 0),
        ("2026-11-20", "2026-11-23 16:00", 1),
        ("2026-11-24", "2026-11-30 09:00", 2),
        ("2026-11-24", "2026-11-20 18:00", 0),
        ("2026-01-16", "2026-11-20 18:00", 213),
    ],
)
def test_staleness_counts_the_sessions_that_closed_since(last: str, instant: str, missing: int) -> None:
    assert stale_by(date.fromisoformat(last), new_york(instant), exchange="XNYS") == missing


def test_a_day_without_a_session_is_over_at_its_end() -> None:
    assert close_of(date(2026, 11, 26), exchange="XNYS") == datetime(2026, 11, 27, tzinfo=UTC)


def test_an_unknown_exchange_is_refused_with_known_ones() -> None:
    with pytest.raises(MarketDataError, match=r"no exchange 'NOWHERE'; known are XNYS \(New York\)"):
        is_session(date(2026, 11, 20), exchange="NOWHERE")


@pytest.mark.parametrize("exchange", ["XBOM", "XSHG", "XSES"])
def test_ten_sessions_at_the_end_of_the_recorded_year_are_those_of_the_calendar(exchange: str) -> None:
    dates = pd.Series(sessions_between(date(2026, 1, 1), date(2026, 12, 31), exchange=exchange)[-11:])
    coming = next_sessions(dates[:1], count=10, ticker="ACME", exchange=exchange)
    assert coming.tolist() == dates[1:].tolist()
    assert not provisional(coming, dates=dates[:1], ticker="ACME", exchange=exchange).any()


def test_days_after_the_recorded_ones_are_weekdays_and_provisional() -> None:
    first, last = recorded("XBOM")
    assert first == date(1997, 1, 1)
    dates = pd.Series([pd.Timestamp(last) - pd.Timedelta(days=3)])
    coming = next_sessions(dates, count=6, ticker="TCS.NS")
    after = pd.bdate_range(pd.Timestamp(last) + pd.Timedelta(days=1), periods=6)
    guessed = provisional(coming, dates=dates, ticker="TCS.NS")
    assert 0 < guessed.sum() < 6
    assert coming[guessed].tolist() == after[: guessed.sum()].tolist()
    assert close_of(after[0].date(), exchange="XBOM") == after[0].tz_localize("Asia/Kolkata") + pd.Timedelta("15h30min")
    assert not is_session((after[0] + pd.offsets.Week(weekday=6)).date(), exchange="XBOM")
    noon = after[4].tz_localize("UTC") + pd.Timedelta(hours=12)
    assert stale_by(last, noon.to_pydatetime(), exchange="XBOM") == 5


def months(count: int) -> pd.DatetimeIndex:
    return pd.date_range(pd.Timestamp.now().normalize(), periods=count, freq="MS").union([pd.Timestamp(2026, 11, 12)])


def assert_ten_sessions_follow(exchange: str, day: pd.Timestamp) -> None:
    dates = pd.Series([day])
    coming = next_sessions(dates, count=10, ticker="ACME", exchange=exchange)
    known = ~provisional(coming, dates=dates, ticker="ACME", exchange=exchange)
    assert len(coming) == 10
    assert (coming > day).all()
    assert set(coming[known]) <= set(sessions_between(day.date(), coming[-1].date(), exchange=exchange))
    assert (coming[-1] - day).days <= 35
    assert close_of(coming[0].date(), exchange=exchange) > day.tz_localize("UTC")


@pytest.mark.parametrize("exchange", ["XBOM", "XSHG", "XSES", "XSAU", "XNYS", "24/7"])
def test_ten_sessions_follow_at_every_month_that_comes(exchange: str) -> None:
    for day in months(14):
        assert_ten_sessions_follow(exchange, day)


@pytest.mark.nightly
@pytest.mark.parametrize("exchange", sorted({*YAHOO_ENDINGS.values(), EXCHANGE, ALWAYS}))
def test_ten_sessions_follow_on_every_exchange_that_an_ending_stands_for(exchange: str) -> None:
    for day in months(14):
        assert_ten_sessions_follow(exchange, day)


def test_sessions_without_a_known_exchange_are_provisional_unless_the_user_says_there_is_none() -> None:
    dates = pd.Series(pd.bdate_range("2026-08-05", "2026-12-23"))
    coming = next_sessions(dates, count=3, ticker="SAP")
    assert provisional(coming, dates=dates, ticker="SAP").all()
    assert not provisional(coming, dates=dates, ticker="SAP", exchange="none").any()
    assert not provisional(coming, dates=dates, ticker="SAP.DE").any()


def test_a_calendar_that_the_library_cannot_build_is_refused_with_the_cure() -> None:
    with pytest.raises(MarketDataError, match=r"cannot build the calendar ASEX.*name another exchange or none"):
        is_session(date(2026, 11, 20), exchange="ASEX")


@pytest.mark.parametrize("ask", [partial(stale_by, date(2026, 11, 20)), exchange_date])
def test_an_instant_without_a_time_zone_is_refused(ask) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="has no time zone"):
        ask(datetime(2026, 11, 20, 12), exchange="XNYS")  # noqa: DTZ001


def test_sessions_that_come_leave_out_holidays_and_continue_the_exchange_of_the_dates() -> None:
    held = pd.Series(pd.bdate_range("2026-08-05", "2026-11-24").difference(pd.to_datetime(["2026-09-07"])))
    coming = next_sessions(held, count=3, ticker="AAPL")
    assert [str(day.date()) for day in coming] == ["2026-11-25", "2026-11-27", "2026-11-30"]


@pytest.mark.parametrize(
    ("ticker", "calendar", "expected"),
    [
        ("VOD.L", "XLON", ["2026-12-24", "2026-12-29", "2026-12-30"]),
        ("7203.T", "XTKS", ["2026-12-24", "2026-12-25", "2026-12-28"]),
        ("BTC-USD", "24/7", ["2026-12-24", "2026-12-25", "2026-12-26"]),
        ("AAPL", "XNYS", ["2026-12-24", "2026-12-28", "2026-12-29"]),
    ],
)
def test_what_comes_next_are_sessions_of_the_tickers_own_exchange(
    ticker: str, calendar: str, expected: list[str]
) -> None:
    sessions = pd.Series(sessions_between(date(2026, 8, 3), date(2026, 12, 23), exchange=calendar))
    held = sessions[(sessions >= "2026-08-03") & (sessions <= "2026-12-23")]
    coming = next_sessions(held, count=3, ticker=ticker)
    assert [str(day.date()) for day in coming] == expected


def test_a_named_exchange_counts_whatever_the_ticker_is_called_and_none_goes_on_as_the_dates_do() -> None:
    held = pd.Series(pd.bdate_range("2026-08-05", "2026-12-23"))
    london = next_sessions(held, count=3, ticker="AAPL", exchange="XLON")
    assert [str(day.date()) for day in london] == ["2026-12-24", "2026-12-29", "2026-12-30"]
    plain = next_sessions(held, count=3, ticker="AAPL", exchange="none")
    assert [str(day.date()) for day in plain] == ["2026-12-24", "2026-12-25", "2026-12-28"]
    with pytest.raises(MarketDataError, match="there is no exchange 'XXXX'"):
        next_sessions(held, count=3, ticker="AAPL", exchange="XXXX")


def test_the_calendars_are_loaded_only_when_asked_for() -> None:
    code = (
        "import sys, tickerforge.tasks.prices.sessions, tickerforge.tasks.models.forecasting\n"
        "print('exchange_calendars' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("ticker", "exchange", "held", "expected"),
    [
        ("VOD.L", "auto", "2026-08-24", ["2026-08-25", "2026-08-26", "2026-08-27"]),
        ("VOD.L", "auto", "2026-08-28", ["2026-09-01", "2026-09-02", "2026-09-03"]),
        ("7203.T", "auto", "2026-11-20", ["2026-11-24", "2026-11-25", "2026-11-26"]),
        ("ACME", "XETR", "2026-12-23", ["2026-12-28", "2026-12-29", "2026-12-30"]),
    ],
)
def test_an_ending_tells_the_exchange_whatever_days_the_dates_lack_or_hold(
    ticker: str, exchange: str, held: str, expected: list[str]
) -> None:
    dates = pd.Series(pd.bdate_range(end=held, periods=100))
    assert [str(day.date()) for day in next_sessions(dates, count=3, ticker=ticker, exchange=exchange)] == expected


def test_a_market_that_trades_every_day_goes_on_over_the_weekend() -> None:
    dates = pd.Series(pd.date_range(end="2026-11-20", periods=100))
    coming = next_sessions(dates, count=3, ticker="BTC-USD")
    assert [str(day.date()) for day in coming] == ["2026-11-21", "2026-11-22", "2026-11-23"]


def test_a_default_is_only_for_stocks_that_do_not_tell_their_exchange() -> None:
    weekdays = pd.Series(pd.bdate_range("2026-08-05", "2026-11-20"))
    every_day = pd.Series(pd.date_range("2026-08-05", "2026-11-20"))
    found = {
        ("VOD.L", calendar_of("VOD.L", weekdays, default="XTKS")),
        ("BTC-USD", calendar_of("BTC-USD", every_day, default="XTKS")),
        ("7203", calendar_of("7203", weekdays, default="XTKS")),
        # Thanksgiving is among the dates.
        ("AAPL", calendar_of("AAPL", pd.Series(pd.bdate_range("2025-10-01", "2025-12-01")), default="XNYS")),
        ("ACME", calendar_of("ACME", weekdays, exchange="XETR", default="XTKS")),
    }
    assert found == {("VOD.L", "XLON"), ("BTC-USD", "24/7"), ("7203", "XTKS"), ("AAPL", "XNYS"), ("ACME", "XETR")}
