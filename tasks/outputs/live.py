"""Issued forecasts, kept unchanged so that they can be scored when their prices are known."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Self

import pandas as pd
from pydantic import AwareDatetime, PositiveFloat, model_validator

from tickerforge.evaluation.monitoring.drift import ErrorDrift, ExpectedError, error_drift
from tickerforge.evaluation.monitoring.live import ISSUED_COLUMNS, LiveScores, score_live
from tickerforge.features.config import FrozenModel
from tickerforge.features.prices.tickers import validate_ticker
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.prices.sessions import EXCHANGE, close_of
from tickerforge.tasks.store.records import list_records, read_record, write_record

_FORECASTS = "forecasts"
_EXPECTED_ERRORS = "expected_errors"


class IssuedForecast(FrozenModel):
    """A forecast as it was issued, by a registered version or by a free forecaster, whose `version` is 0.

    `issuer` is `champion` or the name of a free forecaster, and `why` the reason. A challenger's forecast that was
    recorded `beside` an issued one is kept, but is not one of the scored forecasts.

    `origin` is the last session that it knew, `origin_close` the adjusted close at that time (USD), `sigma` the
    standard deviation of daily log returns at the origin. `median`, `lower` and `upper` (USD) have one value per
    session of `target_dates`; the band should hold the share `interval` of the prices, and without a band its bounds
    are missing. The first price is known from
    `first_close` on. `provisional_dates` are those target dates that were a guess.
    """

    ticker: str
    version: int
    origin: date
    issued_at: AwareDatetime
    first_close: AwareDatetime
    origin_close: PositiveFloat
    sigma: PositiveFloat
    interval: float
    target_dates: tuple[date, ...]
    median: tuple[PositiveFloat, ...]
    lower: tuple[PositiveFloat | None, ...]
    upper: tuple[PositiveFloat | None, ...]
    provisional_dates: tuple[date, ...] = ()
    issuer: str = ""
    why: str = ""
    beside: bool = False

    @property
    def late(self) -> bool:
        """Whether its first price was known when it was issued, so that it is not a forecast."""
        return self.issued_at >= self.first_close

    @model_validator(mode="after")
    def _paths_fit(self) -> Self:
        if not len(self.median) == len(self.lower) == len(self.upper) == len(self.target_dates) > 0:
            raise ValueError("median, lower, upper and target_dates must be equally long and not empty")
        if not all(earlier < later for earlier, later in pairwise((self.origin, *self.target_dates))):
            raise ValueError("the target dates must come after the origin, oldest first")
        return self


def issue_forecast(
    *,
    ticker: str,
    version: int | None,
    origin: date,
    origin_close: float,
    sigma: float,
    interval: float,
    target_dates: Sequence[date],
    median: Sequence[float],
    lower: Sequence[float | None],
    upper: Sequence[float | None],
    issued_at: datetime,
    exchange: str = EXCHANGE,
    provisional_dates: Sequence[date] = (),
    issuer: str = "",
    why: str = "",
    beside: bool = False,
) -> IssuedForecast:
    """Record a forecast; only the first one of an issuer and origin counts, as a later one could know more.

    Args:
        ticker: Name of the ticker.
        version: Registered version that made it; `None` for a free forecaster.
        origin: Last session that it knew.
        origin_close: Adjusted close at the origin as known now, USD.
        sigma: Standard deviation of daily log returns at the origin, as in the window that was shown to the model.
        interval: Share of the prices that the band should hold.
        target_dates: The coming sessions, shape (horizon,).
        median: USD, shape (horizon,).
        lower: USD, shape (horizon,); `None` without a band.
        upper: USD, shape (horizon,); `None` without a band.
        issued_at: Now, with a time zone.
        exchange: Calendar of the ticker's exchange such as XNYS; the first price is known at its close.
        provisional_dates: Those target dates that are a guess.
        issuer: Who issued it; see `IssuedForecast`.
        why: The reason.
        beside: Whether another forecast is the issued one.

    Returns:
        The forecast that counts: this one, or the one that was recorded before.

    Raises:
        ValueError: If the instant has no time zone, or the paths are not positive prices after the origin.
        MarketDataError: If the exchange is unknown.
        StoreError: If it cannot be written.
    """
    forecast = IssuedForecast(
        ticker=validate_ticker(ticker),
        version=version or 0,
        origin=origin,
        issued_at=issued_at,
        first_close=close_of(target_dates[0], exchange=exchange),
        origin_close=origin_close,
        sigma=sigma,
        interval=interval,
        target_dates=tuple(target_dates),
        median=tuple(median),
        lower=tuple(lower),
        upper=tuple(upper),
        provisional_dates=tuple(provisional_dates),
        issuer=issuer,
        why=why,
        beside=beside,
    )
    who = f"version {version}" if version else issuer
    name = f"{ticker}/{origin}-{f'v{version}' if version else issuer}"
    standing = read_record(_FORECASTS, name, IssuedForecast)
    if standing is not None:
        run_logger(__name__).info(
            "%s: %s has a forecast from %s already, issued at %s; that one counts",
            ticker,
            who,
            origin,
            standing.issued_at.astimezone(UTC).isoformat(timespec="seconds"),
        )
        return standing
    if forecast.late:
        run_logger(__name__).warning(
            "%s: the forecast from %s is late: its first price, of %s, is known already; it will not be scored",
            ticker,
            origin,
            target_dates[0],
        )
    write_record(_FORECASTS, name, forecast)
    return forecast


def read_issued(stock: str) -> tuple[IssuedForecast, ...]:
    """Return all forecasts issued for a stock, oldest origin first, then by the instant of issue.

    Raises:
        StoreError: If a record cannot be read.
    """
    names = list_records(_FORECASTS, f"{validate_ticker(stock)}/")
    read = [record for name in names if (record := read_record(_FORECASTS, name, IssuedForecast)) is not None]
    return tuple(sorted(read, key=lambda record: (record.origin, record.issued_at)))


def score_issued(stock: str, bars: pd.DataFrame) -> LiveScores:
    """Score a stock's issued forecasts by the bars since then; see `evaluation.monitoring.live.score_live`.

    Args:
        stock: Ticker.
        bars: The latest bars, which include the origins of the forecasts.

    Raises:
        StoreError: If a record cannot be read.
    """
    issued = [record for record in read_issued(stock) if not record.beside]
    rows = [{column: getattr(record, column) for column in ISSUED_COLUMNS} for record in issued]
    closes = bars.set_index("date")["adj_close"]
    return score_live(pd.DataFrame(rows, columns=list(ISSUED_COLUMNS)), closes, ticker=stock)


def keep_expected_error(stock: str, *, version: int, expected: ExpectedError) -> None:
    """Keep the error that the test split promised when a version was registered; only the first promise counts.

    Raises:
        StoreError: If it cannot be written.
    """
    name = f"{validate_ticker(stock)}/v{version}"
    if read_record(_EXPECTED_ERRORS, name, ExpectedError) is None:
        write_record(_EXPECTED_ERRORS, name, expected)


def live_error_drift(live: LiveScores, *, version: int) -> ErrorDrift | None:
    """Compare a version's live error with the one that the test split promised; `None` if no promise is stored.

    Raises:
        StoreError: If a record cannot be read.
    """
    expected = read_record(_EXPECTED_ERRORS, f"{live.ticker}/v{version}", ExpectedError)
    return error_drift(live, expected) if expected is not None else None
