"""Trading sessions: on which days an exchange is open, when each one closes, and which ones come next."""

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
ANY_YEAR = 2020
ALWAYS = "24/7"
WEEKEND_SHARE = 0.1
YAHOO_ENDINGS = {
    **{"L": "XLON", "DE": "XETR", "F": "XFRA", "PA": "XPAR", "AS": "XAMS", "BR": "XBRU", "LS": "XLIS", "MI": "XMIL"},
    **{"MC": "XMAD", "SW": "XSWX", "VI": "XWBO", "ST": "XSTO", "HE": "XHEL", "CO": "XCSE", "OL": "XOSL", "IR": "XDUB"},
    **{"T": "XTKS", "HK": "XHKG", "SS": "XSHG", "SZ": "XSHG", "KS": "XKRX", "KQ": "XKRX", "TW": "XTAI", "SI": "XSES"},
    **{"BO": "XBOM", "NS": "XBOM", "AX": "XASX", "NZ": "XNZE", "TO": "XTSE", "V": "XTSE", "SA": "BVMF", "MX": "XMEX"},
}
"""Ending of a ticker at Yahoo → calendar of its exchange."""
KNOWN = "XNYS (New York), XNAS (Nasdaq), XLON (London), XETR (Frankfurt), XTKS (Tokyo) and 24/7"


def exchange_timezone(exchange: str) -> str:
    """Name the exchange's time zone, for example `America/New_York`.

    Raises:
        MarketDataError: If there is no such exchange.
    """
    return str(_years(exchange, ANY_YEAR, ANY_YEAR).tz)


def exchange_date(instant: datetime, *, exchange: str) -> date:
    """Find the date on the exchange's own wall clock at an instant.

    Raises:
        MarketDataError: If there is no such exchange.
        ValueError: If the instant has no time zone.
    """
    return _moment(instant).tz_convert(exchange_timezone(exchange)).date()


def is_session(day: date, *, exchange: str) -> bool:
    """Return whether the exchange trades on a day.

    Raises:
        MarketDataError: If there is no such exchange, or its holidays are not known for that day.
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
        MarketDataError: If there is no such exchange, or its holidays are not known.
        ValueError: If the instant has no time zone.
    """
    moment, held = _moment(instant), pd.Timestamp(last_session)
    closes = _closes(exchange, held, max(moment.tz_localize(None).normalize(), held))
    return int(((closes.index > held) & (closes <= moment)).sum())


def close_of(day: date, *, exchange: str) -> datetime:
    """Find the instant (UTC) at which a day's closing price is known: the session's close, or else the day's end.

    Raises:
        MarketDataError: If there is no such exchange, or its holidays are not known for that day.
    """
    session = pd.Timestamp(day)
    closes = _closes(exchange, session, session)
    if not len(closes):
        return (session + pd.Timedelta(days=1)).tz_localize(UTC).to_pydatetime()
    return closes.iloc[0].to_pydatetime()


def sessions_between(first: date, last: date, *, exchange: str) -> NDArray[np.datetime64]:
    """List the sessions of an exchange from one day to another and some around them, ascending (datetime64[s]).

    Raises:
        MarketDataError: If there is no such exchange, or its holidays are not known for that time.
    """
    decades = range(first.year // 10, last.year // 10 + 1)
    try:
        return np.concatenate([_sessions(exchange, 10 * each, 10 * each + 9) for each in decades])
    except MarketDataError:
        return _sessions(exchange, first.year, last.year)


def exchange_of(ticker: str, dates: NDArray[np.datetime64]) -> str:
    """Choose the calendar of a ticker: by the ending that Yahoo gives its name, else New York's.

    If more than a tenth of the dates are on weekends, the market has no holidays.
    """
    if np.mean(~np.is_busday(dates.astype("datetime64[D]"))) > WEEKEND_SHARE:
        return ALWAYS
    _, dot, ending = ticker.rpartition(".")
    return YAHOO_ENDINGS.get(ending.upper(), EXCHANGE) if dot else EXCHANGE


def calendar_of(ticker: str, dates: pd.Series, *, exchange: str = AUTO) -> str | None:
    """Return the calendar that dates follow, or `None` if it is not known.

    Args:
        ticker: Name of the ticker.
        dates: Sessions so far, ascending.
        exchange: Calendar such as XNYS, which is returned as it is; `auto` takes that of `exchange_of`. With `none`,
            or if `auto` falls back to New York but the latest 80 dates are not all sessions there, nothing is known.

    Raises:
        MarketDataError: If the holidays are not known.
    """
    if exchange != AUTO:
        return None if exchange == NO_EXCHANGE else exchange
    name = exchange_of(ticker, pd.DatetimeIndex(dates).to_numpy())
    if name != EXCHANGE:
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
        MarketDataError: If there is no such exchange, or its holidays are not known.
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


def _moment(instant: datetime) -> pd.Timestamp:
    """Convert an instant to UTC."""
    if instant.tzinfo is None:
        raise ValueError(f"the instant {instant} has no time zone; give one, for example datetime.now(UTC)")
    return pd.Timestamp(instant).tz_convert(UTC)


def _closes(exchange: str, first: pd.Timestamp, last: pd.Timestamp) -> pd.Series:
    """Look up the closing instants (UTC) by session (midnight, no zone), from `first` to `last`.

    No session closes before its day begins in UTC, not even in Wellington, so a UTC date bounds what can be known.
    """
    return _years(exchange, (first - SLACK).year, last.year).closes.loc[first:last]


@lru_cache(maxsize=256)
def _sessions(exchange: str, first: int, last: int) -> NDArray[np.datetime64]:
    return _years(exchange, first, last).sessions.to_numpy().astype("datetime64[s]")


@lru_cache(maxsize=8)
def _years(exchange: str, first: int, last: int) -> "ExchangeCalendar":
    """Build the calendar of whole years, so that a night over many tickers builds it once."""
    import exchange_calendars
    from exchange_calendars.errors import InvalidCalendarName

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return exchange_calendars.get_calendar(
                exchange, start=pd.Timestamp(first, 1, 1), end=pd.Timestamp(last, 12, 31)
            )
        except InvalidCalendarName as fault:
            raise MarketDataError(
                f"there is no exchange {exchange!r}; known are {KNOWN}, and all others of exchange-calendars"
            ) from fault
        except ValueError as fault:
            raise MarketDataError(f"{exchange}: {fault} Update the library exchange-calendars.") from fault
