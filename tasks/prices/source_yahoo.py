"""Prices from Yahoo Finance through yfinance: only what is missing, or everything again after an adjustment."""

import threading
import time
import warnings
from datetime import date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tickerforge.features.prices.bars import validate_frame
from tickerforge.features.prices.schemas import PRICE_COLUMNS
from tickerforge.tasks.base.disk import os_errors_as_store_error
from tickerforge.tasks.base.errors import MarketDataError
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.prices.download import SILENCE_SECONDS, answered
from tickerforge.tasks.prices.price_files import Filled, filled, keep, stored_bars, without_prices
from tickerforge.tasks.prices.sessions import exchange_of, stale_by

FIRST_DAY = date(2010, 1, 1)
# Sessions that are fetched again: every dividend and split since then changes their adjusted closes.
OVERLAP = 5
# Less than the smallest dividends, about 4e-5 of a price, and more than the noise of Yahoo's single-precision numbers.
SAME_ADJUSTMENT = 1e-6
PAUSE_SECONDS = 0.3
# Stocks that are fetched at the same time. The pause holds for all of them together: Yahoo gets no more requests in a
# minute than from one at a time, but the time that it takes to answer is used.
AT_ONCE = 4
# After a refusal, a night of many stocks must neither keep asking nor wait in vain for each stock.
QUIET_SECONDS = 600.0
TOO_MANY_REQUESTS = 429
PRICES_PATH = "/finance/chart/"


def fill(folder: Path, stock: str, *, now: datetime, first: date | None = None, exchange: str | None = None) -> Filled:
    """Bring one stock's price file up to date, or make it.

    Several threads may do this for different stocks. If there is a file, only the sessions after its last one are
    fetched, and the five before, to see whether their adjusted closes are still the stored ones. If they are not, the
    whole history is fetched again.

    Args:
        folder: Folder of the file.
        stock: Name of the ticker, also at Yahoo.
        now: Sessions that have not closed by then are left out; with a time zone.
        first: First day of a new file, by default 2010-01-01; a file that begins later is fetched again.
        exchange: Calendar such as XNYS of stocks whose names and dates do not show theirs; if given, nothing is fetched
            if the file holds the last session.

    Raises:
        FeaturesError: If the stored file or the prices from Yahoo are faulty.
        MarketDataError: If Yahoo does not answer, knows no prices, or lacks sessions that are stored.
        PublishError: If the folder cannot be written.
    """
    stored = stored_bars(folder, stock)
    if stored is None:
        fetched, note = _history(stock, first=first or FIRST_DAY, now=now)
        return keep(folder, stock, fetched, note=note)
    begins, ends = (each.date() for each in stored["date"].iloc[[0, -1]])
    if first is not None and first < begins:
        return _refill(folder, stock, first=first, now=now, why=f"the file began on {begins}")
    if exchange is not None:
        calendar = exchange_of(stock, stored["date"].to_numpy(), default=exchange)
        if stale_by(ends, now, exchange=calendar) == 0:
            return filled(stock, stored, note="up to date")
    overlap = stored.tail(OVERLAP)
    fetched, note = _history(stock, first=overlap["date"].iloc[0].date(), now=now)
    again = fetched[fetched["date"].isin(overlap["date"])]
    if len(again) != len(overlap) or not np.allclose(
        again["adj_close"], overlap["adj_close"], rtol=SAME_ADJUSTMENT, atol=0
    ):
        return _refill(folder, stock, first=begins, now=now, why="history was adjusted (a dividend or a split)")
    later = fetched[fetched["date"] > stored["date"].iloc[-1]]
    if later.empty:
        return filled(stock, stored, note="nothing new")
    return keep(folder, stock, pd.concat([stored, later], ignore_index=True), note=note)


def _refill(folder: Path, stock: str, *, first: date, now: datetime, why: str) -> Filled:
    run_logger(__name__).info("%s: %s: fetching the whole history again", stock, why)
    fetched, note = _history(stock, first=first, now=now)
    return keep(folder, stock, fetched, revised=True, note=f"fetched again: {why}{'; ' if note else ''}{note}")


def _history(stock: str, *, first: date, now: datetime) -> tuple[pd.DataFrame, str]:
    """Fetch and validate the bars of all closed sessions from `first` on; also a note on rows without prices."""
    yfinance, session = _client()
    end = (now + timedelta(days=1)).date()
    try:
        with _without_its_warnings:
            ticker = yfinance.Ticker(stock, session=session)
            table = ticker.history(
                start=first.isoformat(),
                end=end.isoformat(),
                auto_adjust=False,
                actions=False,
                keepna=True,
                timeout=SILENCE_SECONDS,
            )
            regular = ticker.history_metadata["currentTradingPeriod"]["regular"]
        opens, closes = pd.Timestamp(regular["start"]), pd.Timestamp(regular["end"])
    except yfinance.exceptions.YFTickerMissingError as error:
        raise MarketDataError(f"{stock}: Yahoo has no prices from {first} on ({error}): check the ticker") from error
    # If Yahoo sends anything else than prices, yfinance fails somewhere, with one of these.
    except (yfinance.exceptions.YFException, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise MarketDataError(
            f"{stock}: Yahoo does not answer as it should ({type(error).__name__}: {error}): try again later"
        ) from error
    if now < closes:
        table = table[table.index < opens.normalize()]
    empty = table[[name.replace("_", " ").title() for name in PRICE_COLUMNS]].isna().all(axis=1)
    return validate_frame(table[~empty], source=f"{stock} at Yahoo"), without_prices(int(empty.sum()))


class _Silence:
    """Silences the warnings of yfinance, which uses deprecated features of pandas, while any thread is inside.

    The filters of `warnings` belong to the process: if each thread restored them, the last one could restore those of
    another.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._filters = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore", DeprecationWarning)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._filters.__exit__(None, None, None)


_without_its_warnings = _Silence()


@cache
def _client() -> tuple[Any, Any]:
    """Set up the library, to raise its errors and to keep its caches in our home, and one session for all requests.

    Raises:
        MarketDataError: If it is not installed.
    """
    try:
        import yfinance
        from curl_cffi.requests import Session
        from curl_cffi.requests.exceptions import RequestException
    except ImportError as error:
        raise MarketDataError("prices from Yahoo need yfinance: pip install 'tickerforge[yahoo]'") from error

    class PoliteSession(Session):
        """A session that waits before a request for prices, tries again if that may help, and stops after a refusal."""

        quiet_until = 0.0
        turn = threading.Lock()

        def request(self, method: Any, url: str, *arguments: Any, **options: Any) -> Any:
            if time.monotonic() < self.quiet_until:
                raise RequestException(f"not asked: for {QUIET_SECONDS / 60:.0f} minutes after a refusal or no answer")
            ask = super().request
            # Yahoo may refuse cookies for ever; prices come without them.
            if PRICES_PATH not in url:
                return ask(method, url, *arguments, **options)
            with self.turn:
                time.sleep(PAUSE_SECONDS)
            try:
                response = answered(lambda: ask(method, url, *arguments, **options), faults=RequestException)
            except RequestException:
                self.quiet_until = time.monotonic() + QUIET_SECONDS
                raise
            if response.status_code == TOO_MANY_REQUESTS:
                self.quiet_until = time.monotonic() + QUIET_SECONDS
            return response

    yfinance.config.debug.hide_exceptions = False
    folder = Workspace.current().yahoo
    with os_errors_as_store_error(folder, doing="making the cache of yfinance"):
        folder.mkdir(parents=True, exist_ok=True)
    yfinance.set_tz_cache_location(str(folder))
    return yfinance, PoliteSession(impersonate="chrome")
