"""Trading sessions: on which days an exchange is open, when each one closes, and which ones come next.

Some calendars are recorded for some years only. On other days, weekdays stand for sessions: they are *provisional*.
"""

import warnings
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tickerforge.tasks.base.errors import MarketDataError

if TYPE_CHECKING:
    from exchange_calendars import ExchangeCalendar

EXCHANGE = "XNYS"
AUTO, NO_EXCHANGE = "auto", "none"
SESSIONS_COMPARED = 80
SLACK = pd.Timedelta(days=30)
# Every calendar is recorded for this year.
ANY_YEAR = 2025
ALWAYS = "24/7"
WEEKEND_SHARE = 0.1
_LONGEST = 200
YAHOO_ENDINGS = {
    **{"L": "XLON", "DE": "XETR", "F": "XFRA", "PA": "XPAR", "AS": "XAMS", "BR": "XBRU", "LS": "XLIS", "MI": "XMIL"},
    **{"MC": "XMAD", "SW": "XSWX", "VI": "XWBO", "ST": "XSTO", "HE": "XHEL", "CO": "XCSE", "OL": "XOSL", "IR": "XDUB"},
    **{"IC": "XICE", "WA": "XWAR", "PR": "XPRA", "BD": "XBUD", "IS": "XIST", "TL": "XTAL", "RG": "XRIS", "VS": "XLIT"},
    **{"T": "XTKS", "HK": "XHKG", "SS": "XSHG", "SZ": "XSHG", "KS": "XKRX", "KQ": "XKRX", "TW": "XTAI", "SI": "XSES"},
    **{"BO": "XBOM", "NS": "XBOM", "AX": "XASX", "NZ": "XNZE", "KL": "XKLS", "BK": "XBKK", "SR": "XSAU", "JO": "XJSE"},
    **{"TO": "XTSE", "V": "XTSE", "SA": "BVMF", "MX": "XMEX", "SN": "XSGO", "BA": "XBUE", "TWO": "XTAI"},
    **{"JK": "XIDX", "PS": "XPHS", "KA": "XKAR", "ME": "XMOS"},
}
"""Ending of a ticker at Yahoo → calendar of its exchange."""
KNOWN = "XNYS (New York), XNAS (Nasdaq), XLON (London), XETR (Frankfurt), XTKS (Tokyo) and 24/7"


def exchange_timezone(exchange: str) -> str:
    """Name the exchange's time zone, for example `America/New_York`.

    Raises:
        MarketDataError: If the exchange is unknown.
    """
    return str(_calendar(exchange).tz)


def exchange_date(instant: datetime, *, exchange: str) -> date:
    """Find the date on the exchange's own wall clock at an instant.

    Raises:
        MarketDataError: If the exchange is unknown.
        ValueError: If the instant has no time zone.
    """
    return _moment(instant).tz_convert(exchange_timezone(exchange)).date()


def is_session(day: date, *, exchange: str) -> bool:
    """Return whether the exchange trades on a day.

    Raises:
        MarketDataError: If the exchange is unknown.
    """
    session = pd.Timestamp(day)
    return bool((_closes(exchange, session, session).index == session).any())


def stale_by(last_session: date, instant: datetime, *, exchange: str) -> int:
    """Count the sessions that have closed since the last one in the data; 0 if the data are up to date.

    Closes are instants, with early closes and changes of the clock: just before the closing bell, today's session does
    not count.

    Args:
        last_session: Date of the last bar.
        instant: Now, with a time zone.
        exchange: Calendar such as XNYS.

    Raises:
        MarketDataError: If the exchange is unknown.
        ValueError: If the instant has no time zone.
    """
    moment, held = _moment(instant), pd.Timestamp(last_session)
    closes = _closes(exchange, held, max(moment.tz_localize(None).normalize(), held))
    return int(((closes.index > held) & (closes <= moment)).sum())


def close_of(day: date, *, exchange: str) -> datetime:
    """Find the instant (UTC) at which a day's closing price is known: the session's close, or else the day's end.

    Raises:
        MarketDataError: If the exchange is unknown.
    """
    session = pd.Timestamp(day)
    closes = _closes(exchange, session, session)
    if not len(closes):
        return (session + pd.Timedelta(days=1)).tz_localize(UTC).to_pydatetime()
    return closes.iloc[0].to_pydatetime()


def sessions_between(first: date, last: date, *, exchange: str) -> NDArray[np.datetime64]:
    """List the recorded sessions from one day to another and some around them, ascending (datetime64[s]).

    Raises:
        MarketDataError: If the exchange is unknown.
    """
    parts = [each.sessions.to_numpy() for each in _decades(exchange, first.year, last.year)]
    return np.concatenate([np.array([], dtype="datetime64[s]"), *parts]).astype("datetime64[s]")


def recorded(exchange: str) -> tuple[date, date]:
    """Return the first and the last day for which the sessions of an exchange are recorded.

    Raises:
        MarketDataError: If the exchange is unknown.
    """
    calendar = _calendar(exchange)
    first, last = calendar.bound_min(), calendar.bound_max()
    return first.date() if first is not None else date.min, last.date() if last is not None else date.max


def exchange_of(ticker: str, dates: NDArray[np.datetime64], *, default: str = EXCHANGE) -> str:
    """Choose the calendar of a ticker: by the ending that Yahoo gives its name, else the default, New York's.

    Without a known ending, the market has no holidays if more than a tenth of the dates are on weekends, and both
    Saturdays and Sundays are among them.
    """
    _, dot, ending = ticker.rpartition(".")
    if dot and ending.upper() in YAHOO_ENDINGS:
        return YAHOO_ENDINGS[ending.upper()]
    days = dates.astype("datetime64[D]")
    saturday, sunday = (np.is_busday(days, weekmask=mask) for mask in ("0000010", "0000001"))
    always = np.mean(saturday | sunday) > WEEKEND_SHARE and saturday.any() and sunday.any()
    return ALWAYS if always else default


def calendar_of(ticker: str, dates: pd.Series, *, exchange: str = AUTO, default: str | None = None) -> str | None:
    """Return the calendar that dates follow, or `None` if it is not known.

    Args:
        ticker: Name of the ticker.
        dates: Sessions so far, ascending.
        exchange: Calendar such as XNYS, which is returned as it is; `auto` takes that of `exchange_of`. With `none`,
            or if `auto` falls back to New York but the latest 80 dates are not all sessions there, nothing is known.
        default: Calendar to which `auto` falls back; `None`: New York's.

    Raises:
        MarketDataError: If the holidays are not known.
    """
    if exchange != AUTO:
        return None if exchange == NO_EXCHANGE else exchange
    name = exchange_of(ticker, pd.DatetimeIndex(dates).to_numpy(), default=default or EXCHANGE)
    if name != EXCHANGE or default is not None:
        return name
    latest = pd.DatetimeIndex(dates)[-SESSIONS_COMPARED:].as_unit("s")
    return name if latest.isin(_closes(name, latest[0], latest[-1]).index).all() else None


def next_sessions(dates: pd.Series, *, count: int, ticker: str, exchange: str = AUTO) -> pd.DatetimeIndex:
    """List the next `count` sessions after the last of `dates`, oldest first.

    Args:
        dates: Sessions so far, ascending.
        count: Number of sessions.
        ticker: Name of the ticker.
        exchange: Calendar such as XNYS; `auto` takes that of `exchange_of`. With `none`, or if `auto` falls back to
            New York but the latest 80 dates are not all sessions there, the dates are continued: every day if some
            of them are on weekends, else on business days.

    Raises:
        MarketDataError: If the exchange is unknown.
    """
    latest = pd.DatetimeIndex(dates)[-SESSIONS_COMPARED:].as_unit("s")
    last = latest[-1]
    calendar = calendar_of(ticker, dates, exchange=exchange)
    if calendar is not None:
        closes = _closes(calendar, last, last + pd.Timedelta(days=2 * count) + SLACK)
        sessions = pd.DatetimeIndex(closes.index).as_unit("s")
        return sessions[sessions > last][:count]
    daily = bool((latest.day_of_week >= 5).any())
    return pd.date_range(last, periods=count + 1, freq="D" if daily else "B", unit="s")[-count:]


def provisional(coming: pd.DatetimeIndex, *, dates: pd.Series, ticker: str, exchange: str = AUTO) -> NDArray[np.bool_]:
    """Mark those of the next sessions that are a guess; shape (count,).

    Guesses are days after the last recorded one of the calendar, and all days if `auto` knows no calendar.

    Args:
        coming: From `next_sessions`.
        dates: As for `next_sessions`.
        ticker: As for `next_sessions`.
        exchange: As for `next_sessions`; with `none`, no day is marked: the user says that there are no holidays.

    Raises:
        MarketDataError: If the exchange is unknown.
    """
    if exchange == NO_EXCHANGE:
        return np.zeros(len(coming), bool)
    calendar = calendar_of(ticker, dates, exchange=exchange)
    if calendar is None:
        return np.ones(len(coming), bool)
    last = np.datetime64(recorded(calendar)[1])
    return np.asarray(coming.to_numpy().astype("datetime64[D]") > last)


def _moment(instant: datetime) -> pd.Timestamp:
    """Convert an instant to UTC."""
    if instant.tzinfo is None:
        raise ValueError(f"the instant {instant} has no time zone; give one, for example datetime.now(UTC)")
    return pd.Timestamp(instant).tz_convert(UTC)


@lru_cache(maxsize=64)
def _closes(exchange: str, first: pd.Timestamp, last: pd.Timestamp) -> pd.Series:
    """Look up the closing instants (UTC) by session (midnight, no zone), from `first` to `last`.

    No session closes before its day begins in UTC, not even in Wellington, so a UTC date bounds what can be known. On
    days that are not recorded, weekdays stand for sessions, with the usual hour of closing.
    """
    parts = [each.closes for each in _decades(exchange, first.year, last.year)]
    begin, end = recorded(exchange)
    if first.date() < begin or last.date() > end:
        calendar = _calendar(exchange)
        days = pd.bdate_range(first, last, freq="C", weekmask=calendar.weekmask)
        days = days[(days.date < begin) | (days.date > end)]
        local = calendar.closes.dt.tz_convert(calendar.tz).dt.tz_localize(None)
        usual = (local - local.index.to_series()).mode()[0]
        parts.append(pd.Series((days + usual).tz_localize(calendar.tz).tz_convert(UTC), index=days))
    return pd.concat(parts).sort_index().loc[first:last]


def _decades(exchange: str, first: int, last: int) -> "list[ExchangeCalendar]":
    """Build the calendars of the recorded decades from one year to another, oldest first."""
    found = [_decade(exchange, each) for each in range(first // 10, last // 10 + 1)]
    return [each for each in found if each is not None]


def _calendar(exchange: str) -> "ExchangeCalendar":
    calendar = _decade(exchange, ANY_YEAR // 10)
    if calendar is None:
        raise MarketDataError(f"the calendar {exchange} is not recorded for {ANY_YEAR}: name another exchange")
    return calendar


@lru_cache(maxsize=64)
def _decade(exchange: str, decade: int) -> "ExchangeCalendar | None":
    """Build the calendar of ten years, which takes as long as that of one; `None` if none of them is recorded."""
    import exchange_calendars
    from exchange_calendars.errors import InvalidCalendarName

    def built(first: pd.Timestamp, last: pd.Timestamp) -> "ExchangeCalendar":
        return exchange_calendars.get_calendar(exchange, start=first, end=last)

    first, last = pd.Timestamp(10 * decade, 1, 1), pd.Timestamp(10 * decade + 9, 12, 31)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            try:
                return built(first, last)
            except ValueError:
                some = built(pd.Timestamp(ANY_YEAR, 1, 1), pd.Timestamp(ANY_YEAR, 12, 31))
            first, last = max(first, some.bound_min() or first), min(last, some.bound_max() or last)
            return built(first, last) if first < last else None
        except InvalidCalendarName as fault:
            raise MarketDataError(
                f"there is no exchange {exchange!r}; known are {KNOWN}, and all others of exchange-calendars"
            ) from fault
        except (ValueError, NotImplementedError) as fault:
            raise MarketDataError(
                f"the library exchange-calendars cannot build the calendar {exchange} ({str(fault)[:_LONGEST]}): name "
                "another exchange or none, or update the library"
            ) from fault
