"""Issued forecasts, kept unchanged so that they can be scored when their prices are known."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Self

import pandas as pd
from pydantic import AwareDatetime, PositiveFloat, model_validator

from tickerforge.evaluation.core.contracts import ISSUED_LEVELS
from tickerforge.evaluation.monitoring.drift import ErrorDrift, ExpectedError, error_drift
from tickerforge.evaluation.monitoring.live import DISTRIBUTION_COLUMNS, ISSUED_COLUMNS, LiveScores, score_live
from tickerforge.features.config import FrozenModel
from tickerforge.features.prices.tickers import validate_ticker
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.prices.sessions import EXCHANGE, close_of
from tickerforge.tasks.store.ledger import Head, check, seal
from tickerforge.tasks.store.records import list_records, read_record, write_record

_FORECASTS, _OUTCOMES = "forecasts", "outcomes"
KINDS = (_FORECASTS, _OUTCOMES)
_EXPECTED_ERRORS = "expected_errors"
_SEALED_LATE = timedelta(days=30)
"""How long ago a killed night may be whose outcomes are sealed afterwards."""


class IssuedForecast(FrozenModel):
    """A forecast as it was issued, by a registered version or by a free forecaster, whose `version` is 0.

    `issuer` is `champion` or the name of a free forecaster, and `why` the reason. A challenger's forecast that was
    recorded `beside` an issued one is kept, but is not one of the scored forecasts.

    `origin` is the last session that it knew, `origin_close` the adjusted close at that time (USD), `sigma` the
    standard deviation of daily log returns at the origin. `median`, `lower` and `upper` (USD) have one value per
    session of `target_dates`; the band should hold the share `interval` of the prices, and without a band its bounds
    are missing. The first price is known from `first_close` on. `provisional_dates` are those target dates that were a
    guess. `quantiles` are those of each session at `evaluation.core.contracts.ISSUED_LEVELS`, and `reference` those of
    the random walk (USD); both are missing without a band and in records of earlier versions. `currency` is that of the
    prices, if it is known. `thoughts` are what the model wrote before some of its answers.
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
    quantiles: tuple[tuple[PositiveFloat, ...], ...] = ()
    reference: tuple[tuple[PositiveFloat, ...], ...] = ()
    currency: str = ""
    thoughts: tuple[str, ...] = ()

    @property
    def record(self) -> str:
        """Name of its record: `forecasts/AAPL/2026-11-20-v3`."""
        return f"{_FORECASTS}/{self._name}"

    @property
    def outcome(self) -> str:
        """Name of the record of its outcome."""
        return f"{_OUTCOMES}/{self._name}"

    @property
    def _name(self) -> str:
        return f"{self.ticker}/{self.origin}-{f'v{self.version}' if self.version else self.issuer}"

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
        for quantiles in filter(None, (self.quantiles, self.reference)):
            if [len(each) for each in quantiles] != [len(ISSUED_LEVELS)] * len(self.target_dates):
                raise ValueError(f"quantiles and reference must have {len(ISSUED_LEVELS)} levels per target date")
        return self


class Outcome(FrozenModel):
    """What happened after an issued forecast, recorded when its last price was known.

    `moves` are the prices of `sessions` over the one at the origin. `loss` and `persistence` are mean squared errors in
    daily variances, `crps` and `reference` the CRPS of the issued quantiles and of the random walk's in daily standard
    deviations, `coverage` the share of the prices in the band.
    """

    ticker: str
    version: int
    issuer: str
    origin: date
    recorded_at: AwareDatetime
    sessions: tuple[date, ...]
    moves: tuple[PositiveFloat, ...]
    loss: float
    persistence: float
    coverage: float | None
    crps: float | None
    reference: float | None


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
    quantiles: Sequence[Sequence[float]] = (),
    reference: Sequence[Sequence[float]] = (),
    currency: str = "",
    thoughts: Sequence[str] = (),
) -> IssuedForecast:
    """Record a forecast; only the first one of an issuer and origin counts, as a later one could know more.

    Args:
        ticker: Name of the ticker.
        version: Registered version that made it; `None` for a free forecaster.
        origin: Last session that it knew.
        origin_close: Adjusted close at the origin as known now, USD.
        sigma: Standard deviation of daily log returns over the 60 sessions up to the origin: the unit of the scores,
            even if the model's prompts use another one.
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
        quantiles: USD, shape (horizon, 19); see `IssuedForecast`.
        reference: The same of the random walk.
        currency: Currency of the prices, if it is known.
        thoughts: What the model wrote before some of its answers.

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
        quantiles=tuple(map(tuple, quantiles)),
        reference=tuple(map(tuple, reference)),
        currency=currency,
        thoughts=tuple(thoughts),
    )
    who = f"version {version}" if version else issuer
    name = forecast.record.removeprefix(f"{_FORECASTS}/")
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
    issued = _counted(stock)
    columns = [*ISSUED_COLUMNS, *DISTRIBUTION_COLUMNS]
    rows = [{column: getattr(record, column) for column in columns} for record in issued]
    closes = bars.set_index("date")["adj_close"]
    return score_live(pd.DataFrame(rows, columns=columns), closes, ticker=stock)


def record_outcomes(live: LiveScores, *, at: datetime) -> dict[str, datetime]:
    """Record what happened after each scored forecast of a stock; an outcome that is recorded already stays.

    Args:
        live: From `score_issued`.
        at: Now.

    Returns:
        The names of the new records, for `seal_records`, and when they were recorded. Those of the time before are
        among them, if that is less than `_SEALED_LATE` ago: it may have been killed before it sealed them.

    Raises:
        StoreError: If a record cannot be read or written.
    """
    earlier = list_records(_OUTCOMES, f"{live.ticker}/")
    recorded = {name.partition("/")[2][:10] for name in earlier}
    new = [window for window in live.windows if str(window.origin) not in recorded]
    names = _last_recorded(earlier, at=at)
    scored = {(each.origin, each.version): each for each in reversed(_counted(live.ticker)) if not each.late}
    for window in new:
        forecast = scored[window.origin, window.version]
        outcome = Outcome(
            ticker=forecast.ticker,
            version=forecast.version,
            issuer=forecast.issuer,
            origin=forecast.origin,
            recorded_at=at,
            sessions=window.dates,
            **window.model_dump(include={"loss", "persistence", "coverage", "crps", "reference", "moves"}),
        )
        write_record(_OUTCOMES, forecast.outcome.removeprefix(f"{_OUTCOMES}/"), outcome)
        names[forecast.outcome] = at
    return names


def _last_recorded(names: Sequence[str], *, at: datetime) -> dict[str, datetime]:
    found: dict[str, datetime] = {}
    for name in reversed(names):
        outcome = read_record(_OUTCOMES, name, Outcome)
        if outcome is None or at - outcome.recorded_at > _SEALED_LATE:
            break
        if found and outcome.recorded_at not in found.values():
            break
        found[f"{_OUTCOMES}/{name}"] = outcome.recorded_at
    return found


def _counted(stock: str) -> list[IssuedForecast]:
    return [record for record in read_issued(stock) if not record.beside]


def seal_records(names: Sequence[str], *, at: datetime, since: datetime) -> Head | None:
    """Append forecasts and outcomes to the ledger of records, unless they are in it; return its latest block.

    Args:
        names: `IssuedForecast.record`, or names that `record_outcomes` returned.
        at: Now.
        since: None of them was recorded before.

    Raises:
        StoreError: If the ledger cannot be read or written.
    """
    return seal(names, kinds=KINDS, at=at, since=since)


class RecordCheck(FrozenModel):
    """The result of `check_record`: counts of forecasts and outcomes, and what is wrong with them.

    `late` forecasts were sealed when their first price was known, so that they are not evidence.
    """

    head: Head | None
    blocks: int
    forecasts: int
    outcomes: int
    late: int
    faults: tuple[str, ...]


def check_record(known: str = "") -> RecordCheck:
    """Check that no issued forecast and no outcome was changed, removed or added since it was recorded.

    Args:
        known: A head of the ledger that somebody kept; see `tasks.store.ledger.check`.

    Raises:
        StoreError: If a record cannot be read.
    """
    found = check(kinds=KINDS, known=known)
    counts, late = dict.fromkeys(KINDS, 0), 0
    for name, sealed_at in found.sealed.items():
        kind, _, rest = name.partition("/")
        counts[kind] += 1
        if kind == _FORECASTS and not any(fault.startswith(f"{name}: ") for fault in found.faults):
            forecast = read_record(_FORECASTS, rest, IssuedForecast)
            late += forecast is not None and sealed_at >= forecast.first_close
    return RecordCheck(
        head=found.head,
        blocks=found.blocks,
        forecasts=counts[_FORECASTS],
        outcomes=counts[_OUTCOMES],
        late=late,
        faults=found.faults,
    )


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
