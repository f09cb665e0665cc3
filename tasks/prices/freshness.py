"""Whether prices end where they should: at the last session that has closed."""

from datetime import date, datetime, timedelta

import numpy as np

from tickerforge.tasks.prices.sessions import close_of, exchange_date, stale_by

LONG_AGO = 5
"""More sessions than these may not lack at the end of prices that only train."""

# Where the exchange is not known, today may already be tomorrow there.
_AHEAD_OF_UTC = timedelta(hours=14)


def stale_end(
    last: date, now: datetime, *, ticker: str, calendar: str | None, tolerance: int = 0, today: str = "today"
) -> str:
    """Say what is wrong with the end of the prices; "" if nothing is.

    They may end in the future, with a session that has not closed, or too early.

    Args:
        last: The last session with prices.
        now: The instant at which they are used, with a time zone.
        ticker: Name of the ticker.
        calendar: The calendar of its exchange; without it, weekdays are counted.
        tolerance: Most sessions that may lack.
        today: The day of `now`, in words.

    Raises:
        MarketDataError: If the exchange is unknown.
        ValueError: If the instant has no time zone.
    """
    day = exchange_date(now, exchange=calendar) if calendar else (now + _AHEAD_OF_UTC).date()
    if last > day:
        return (
            f"the prices of {ticker} end in the future, on {last}; {today} is {day}. Check the dates of the prices and "
            "the clock of this machine."
        )
    if calendar and is_running(last, now, calendar=calendar):
        return (
            f"the last price of {ticker}, of {last}, is not final: {calendar} closes at "
            f"{close_of(last, exchange=calendar):%H:%M} UTC. Leave this session out, or come back after the close."
        )
    missing = stale_by(last, now, exchange=calendar) if calendar else _weekdays_between(last, now)
    if missing <= tolerance:
        return ""
    unit = (
        f"session{'' if missing == 1 else 's'} of {calendar}" if calendar else f"weekday{'' if missing == 1 else 's'}"
    )
    return f"the prices of {ticker} end on {last}, {missing:,} {unit} before {today}: get the later ones."


def is_running(last: date, now: datetime, *, calendar: str) -> bool:
    """Return whether a session is the current one of its exchange and has not closed.

    Raises:
        MarketDataError: If the exchange is unknown.
        ValueError: If the instant has no time zone.
    """
    return last == exchange_date(now, exchange=calendar) and now < close_of(last, exchange=calendar)


def _weekdays_between(last: date, now: datetime) -> int:
    """Count the weekdays after `last` that are over everywhere."""
    first, end = np.datetime64(last, "D") + 1, np.datetime64((now - _AHEAD_OF_UTC).date(), "D")
    return max(0, int(np.busday_count(first, end)))
