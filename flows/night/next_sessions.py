"""The next sessions of one stock: by its champion, or by the best free forecast if no adapter has earned it."""

import logging
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd

from tickerforge.evaluation.core.errors import TrainRowsError
from tickerforge.evaluation.core.frames import scoring_sigma
from tickerforge.evaluation.core.labels import model_label
from tickerforge.features.config import FrozenModel
from tickerforge.features.errors import FeaturesError
from tickerforge.features.pooling import POOL
from tickerforge.features.windows import latest_window
from tickerforge.flows.errors import ConfigError
from tickerforge.flows.server.outcome import in_words
from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.flows.train.steps import market_source, training_here
from tickerforge.tasks.base.errors import NotRegistered
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.base.progress import progress_reporter
from tickerforge.tasks.models.adapters import adapter_folder, read_card
from tickerforge.tasks.models.base_models import base_model_for
from tickerforge.tasks.models.forecasting import (
    INTERVAL,
    LEAST_FOR_BAND,
    Quantiles,
    forecast_distribution,
    forecast_free,
    random_walk_quantiles,
    too_few_valid,
)
from tickerforge.tasks.outputs.live import IssuedForecast
from tickerforge.tasks.prices.freshness import stale_end
from tickerforge.tasks.prices.market_data import fetch_bars
from tickerforge.tasks.prices.sessions import ALWAYS, NO_EXCHANGE, calendar_of, close_of
from tickerforge.tasks.registry.registration import CHALLENGER, CHAMPION, fetch_registered
from tickerforge.tasks.registry.versions import RegisteredAdapter
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.tracking.stage_runs import connect
from tickerforge.tasks.windows.preprocess import read_bars
from tickerforge.training.backends import select
from tickerforge.training.errors import AdapterError

logger = logging.getLogger(__name__)


class Session(FrozenModel):
    """The forecast of one session: median and bounds of the band, if there is one; a provisional date is a guess.

    `quantiles` are those at the levels 5 % to 95 % in steps of 5 %, if there is a band.
    """

    date: date
    median: float
    lower: float | None
    upper: float | None
    provisional: bool = False
    quantiles: tuple[float, ...] = ()

    @property
    def day(self) -> str:
        """The date in words."""
        return f"{self.date} (provisional)" if self.provisional else str(self.date)


class Forecast(FrozenModel):
    """The coming sessions of one stock.

    `origin` is the last session known, `last_close` its adjusted close, `sigma` the daily standard deviation of
    its log returns, `interval` the share of outcomes the band should hold, `version` that of a registered adapter.
    `valid` of the `answers` were valid; too few make no band. `currency` is that of the prices, if their source names
    it; `exchange` the calendar that its dates follow, if it is known. `as_of` is the day that the user named;
    `warnings` say what to know before using the forecast. `issuer` is `champion`, the name of a free forecaster, or the
    alias or `adapter` that was asked for, and `why` the reason; `adapter` is what a table shows. `challenger` is the
    forecast of the challenger beside a free one. `reference` are the quantiles of the random walk, per session, with
    which the forecast is compared later. `thoughts` are what the model wrote before some of its answers.
    """

    ticker: str
    origin: date
    last_close: float
    adapter: str
    version: int | None
    sigma: float
    interval: float
    answers: int
    valid: int
    sessions: tuple[Session, ...]
    currency: str = ""
    exchange: str = ""
    as_of: date | None = None
    warnings: tuple[str, ...] = ()
    issuer: str = ""
    why: str = ""
    challenger: "Forecast | None" = None
    reference: Quantiles = ()
    thoughts: tuple[str, ...] = ()

    @property
    def move(self) -> str:
        """The median move from the last close to the last session, in percent."""
        return f"{self.sessions[-1].median / self.last_close - 1:+.2%}"


class StockForecast(FrozenModel):
    """The outcome for one stock: the forecast, or a note why there is none, and a warning if there is one.

    `issued` is the forecast on record for this origin, and `beside` that of the challenger.
    """

    stock: str
    forecast: Forecast | None = None
    note: str = ""
    warning: str = ""
    failed: bool = False
    issued: IssuedForecast | None = None
    beside: IssuedForecast | None = None


def forecast_registered(config: PipelineConfig, *, bars: ArtifactRef) -> StockForecast:
    """Make the forecast to issue for one stock; an error becomes a note.

    If only the challenger fails, the free forecast is there, and the note names the error.
    """
    try:
        made, problem = forecast_issued(config, bars=bars)
    except Exception as error:
        logger.exception("no forecast of %s", config.stock)
        return StockForecast(stock=config.stock, note=in_words(error), failed=True)
    return StockForecast(stock=config.stock, forecast=made, note=problem or made.issuer, failed=bool(problem))


def forecast_issued(
    config: PipelineConfig, *, bars: ArtifactRef | None = None, as_of: date | None = None
) -> tuple[Forecast, str]:
    """Forecast with the champion; without one, with the best free forecaster, beside the challenger if there is one.

    Args:
        config: As for `forecast_stock`.
        bars: As for `forecast_stock`.
        as_of: As for `forecast_stock`.

    Returns:
        The forecast to issue, and why the challenger could not forecast beside it, or "".

    Raises:
        ConfigError: As `forecast_stock`.
        AdapterError: If the champion cannot be used.
        FeaturesError: If the prices are faulty or too few.
    """
    bars = _bars(config, as_of) if bars is None else bars
    try:
        made = forecast_stock(config, adapter=None, alias=CHAMPION, bars=bars, as_of=as_of)
    except NotRegistered:
        free = forecast_free_stock(config, bars=bars, as_of=as_of)
    else:
        why = "it beat every free forecast when it was promoted"
        return made.model_copy(update={"why": why, "reference": _reference(config, bars, as_of)}), ""
    try:
        challenger = forecast_stock(config, adapter=None, alias=CHALLENGER, bars=bars, as_of=as_of)
    except NotRegistered:
        return free, ""
    except Exception as error:
        logger.exception("no forecast of the challenger of %s", config.stock)
        return free, in_words(error)
    why = "it has not beaten every free forecast"
    beside = challenger.model_copy(update={"why": why, "reference": free.reference})
    return free.model_copy(update={"challenger": beside}), ""


def _reference(config: PipelineConfig, bars: ArtifactRef | None, as_of: date | None) -> Quantiles:
    """Return the random walk to compare a forecast with; none if the prices are too few for one."""
    try:
        prices = _prices(config, bars, as_of)[1]
        return random_walk_quantiles(prices, ticker=config.stock, features=config.features, jumps=config.quality.jumps)
    except (FeaturesError, TrainRowsError) as error:
        logger.info("%s: no random walk to compare the forecast with: %s", config.stock, error)
        return ()


def forecast_free_stock(
    config: PipelineConfig, *, bars: ArtifactRef | None = None, as_of: date | None = None
) -> Forecast:
    """Forecast the next sessions of a stock with the best free forecaster on its validation windows.

    Args:
        config: Stock, data and the settings of windows.
        bars: As for `forecast_stock`.
        as_of: As for `forecast_stock`.

    Raises:
        ConfigError: As `forecast_stock`.
        FeaturesError: If the prices are faulty or too few.
    """
    artifact, prices = _prices(config, bars, as_of)
    exchange = NO_EXCHANGE if config.data is None else config.quality.exchange
    found = forecast_free(
        prices, ticker=config.stock, features=config.features, exchange=exchange, jumps=config.quality.jumps
    )
    stale = "" if config.data is None else _stale_end(prices["date"], as_of, ticker=config.stock, exchange=exchange)
    last, members = prices.iloc[-1], int(found.table["answers"].iloc[0])
    return Forecast(
        ticker=config.stock,
        origin=last["date"].date(),
        last_close=float(last["adj_close"]),
        adapter=model_label(found.model),
        version=None,
        sigma=found.sigma,
        interval=INTERVAL,
        as_of=as_of,
        warnings=(stale,) if stale else (),
        answers=members,
        valid=members,
        currency=str(artifact.meta.get("currency", "")),
        exchange=calendar_of(config.stock, prices["date"], exchange=exchange) or "",
        sessions=_sessions(found.table, found.quantiles, band=True),
        issuer=found.model,
        why=f"no adapter of {config.stock} has beaten every free forecast, and {found.why}",
        reference=found.reference,
    )


def _bars(config: PipelineConfig, as_of: date | None) -> ArtifactRef:
    """Read the prices of a stock up to a day; its jumps are checked with the forecast."""
    now = datetime.now(UTC)
    if as_of is not None and as_of > now.date() + timedelta(days=1):
        raise ConfigError(f"--as-of {as_of} lies in the future: name a past day")
    quality = config.quality.for_forecast()
    return fetch_bars.fn(
        market_source(config), config.stock, store=Store.current(), quality=quality, now=now, until=as_of
    )


def _prices(config: PipelineConfig, bars: ArtifactRef | None, as_of: date | None) -> tuple[ArtifactRef, pd.DataFrame]:
    found = _bars(config, as_of) if bars is None else Store.current().here(bars)
    return found, _prices_until(as_of, read_bars(found), ticker=config.stock)


def forecast_stock(
    config: PipelineConfig,
    *,
    adapter: Path | None,
    alias: str = CHAMPION,
    bars: ArtifactRef | None = None,
    as_of: date | None = None,
) -> Forecast:
    """Forecast the next sessions of a stock.

    Args:
        config: Stock, data and backend; everything else comes from the adapter.
        adapter: Folder of an adapter; the registered one by default.
        alias: Alias or version number of the registered adapter.
        bars: Artifact of the stock's prices, from this machine or another; by default the prices are read again.
        as_of: Prices after this day are not used; by default all are.

    Raises:
        ConfigError: If there are no prices up to `as_of`, or it lies in the future.
        AdapterError: If the folder is not an adapter or belongs to another stock.
        NotRegistered: If nothing is registered under the alias; lists what is.
        FeaturesError: If the prices are faulty or too few.
    """
    store = Store.current()
    folder = adapter_folder(adapter)
    found, prices = _prices(config, bars, as_of)
    exchange = NO_EXCHANGE if config.data is None else config.quality.exchange
    version = None
    if folder is None:
        workspace = Workspace.current()
        tracking = connect(workspace)
        registered = RegisteredAdapter.find(tracking, config.stock, alias=alias)
        version, folder = registered.version, fetch_registered(tracking, registered, cache=workspace.pulled)
    card = read_card(folder)
    if card.ticker not in (config.stock, POOL):
        raise AdapterError(f"the adapter {folder} was trained for {card.ticker}: add --stock {card.ticker}")
    training = training_here(card.training, config=config.training)
    select(training.backend, model=training.model)
    with progress_reporter() as report:
        table, quantiles, thoughts = forecast_distribution(
            prices,
            ticker=config.stock,
            base_model=base_model_for(card, folder, store=store).location,
            adapter=folder,
            features=card.features,
            training=training,
            seed=card.seed,
            exchange=exchange,
            known=card.known_price,
            jumps=config.quality.jumps,
            recalibration=card.recalibration,
            on_progress=report,
        )
    warnings = (
        [] if config.data is None else [_stale_end(prices["date"], as_of, ticker=config.stock, exchange=exchange)]
    )
    if card.trained_until is not None and card.trained_until > prices["date"].iloc[-1].date():
        warnings.append(
            f"the adapter was trained on prices up to {card.trained_until}, so it knows what followed: this forecast "
            "is no evidence of its skill."
        )
    answers, valid = (int(table[name].iloc[0]) for name in ("answers", "valid"))
    warnings.append(too_few_valid(valid, answers))
    last = prices.iloc[-1]
    return Forecast(
        ticker=config.stock,
        origin=last["date"].date(),
        last_close=float(last["adj_close"]),
        adapter=str(folder) if adapter else f"{config.stock}@{alias}",
        version=version,
        sigma=float(scoring_sigma(latest_window(prices, ticker=config.stock, config=card.features))[0]),
        interval=INTERVAL,
        as_of=as_of,
        warnings=tuple(filter(None, warnings)),
        answers=answers,
        valid=valid,
        currency=str(found.meta.get("currency", "")),
        exchange=calendar_of(config.stock, prices["date"], exchange=exchange) or "",
        sessions=_sessions(table, quantiles, band=valid >= LEAST_FOR_BAND),
        thoughts=thoughts,
        issuer="adapter" if adapter else alias,
        why="it was asked for",
    )


def _sessions(table: pd.DataFrame, quantiles: Quantiles, *, band: bool) -> tuple[Session, ...]:
    return tuple(
        Session(
            date=row["date"].date(),
            median=row["median"],
            lower=row["lower"] if band else None,
            upper=row["upper"] if band else None,
            provisional=row["provisional"],
            quantiles=levels,
        )
        for row, levels in zip(table.to_dict("records"), quantiles or [()] * len(table), strict=True)
    )


def _prices_until(as_of: date | None, prices: pd.DataFrame, *, ticker: str) -> pd.DataFrame:
    if as_of is None:
        return prices
    known = prices[prices["date"] <= pd.Timestamp(as_of)]
    if known.empty:
        first = prices["date"].iloc[0].date()
        raise ConfigError(f"--as-of {as_of}: the prices of {ticker} begin on {first}; name a later day")
    return known


def _stale_end(dates: pd.Series, as_of: date | None, *, ticker: str, exchange: str) -> str:
    """Say what is wrong with the end of the prices now, or after the close of a past day."""
    calendar, last = calendar_of(ticker, dates, exchange=exchange), dates.iloc[-1].date()
    if as_of is None:
        return stale_end(last, datetime.now(UTC), ticker=ticker, calendar=calendar)
    evening = min(close_of(as_of, exchange=calendar or ALWAYS), datetime.now(UTC))
    return stale_end(last, evening, ticker=ticker, calendar=calendar, today=f"{as_of}")
