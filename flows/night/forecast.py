"""The flow `forecast`: the next sessions of many stocks, recorded when issued and scored when their prices exist."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from prefect import flow

from tickerforge.evaluation.report.desk import DeskRow
from tickerforge.features.config import UpdateSource
from tickerforge.flows.errors import NightFailed, StageFailed
from tickerforge.flows.night.batches import ForecastAnswer, ForecastJob, forecast_all
from tickerforge.flows.night.desk import forecast_cells, forecast_part, publish_desk
from tickerforge.flows.night.next_sessions import Forecast, StockForecast
from tickerforge.flows.prices.price_updates import update_prices
from tickerforge.flows.remote.gpu_pool import FORECAST_DEPLOYMENT, GPU_POOL, MOST_JOBS, Call, Where, call_all
from tickerforge.flows.server.alert import alert
from tickerforge.flows.server.begin import begin
from tickerforge.flows.server.outcome import in_words
from tickerforge.flows.settings import form
from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.flows.settings.scope import Exchange, Tickers, chosen_stocks, skipped, with_stock
from tickerforge.flows.train.steps import market_source
from tickerforge.tasks.base.prefect_artifacts import publish_table
from tickerforge.tasks.outputs.alerts import send_alert
from tickerforge.tasks.outputs.live import IssuedForecast, issue_forecast, seal_records
from tickerforge.tasks.prices.market_data import fetch_bars
from tickerforge.tasks.prices.sessions import EXCHANGE, exchange_of
from tickerforge.tasks.store.artifacts import Store
from tickerforge.tasks.windows.preprocess import read_bars

logger = logging.getLogger(__name__)


@flow(name="forecast", persist_result=False, on_running=[begin], on_failure=[alert], on_crashed=[alert])
def forecast(
    config: PipelineConfig | None = None,
    tickers: Tickers = (),
    recipe: str = form.DEFAULT_RECIPE,
    data: str = "",
    update: UpdateSource = "none",
    overrides: str = "",
    heavy_stages: Where = "here",
    exchange: Exchange = None,
) -> tuple[StockForecast, ...]:
    """Forecast the next sessions of every stock, and record the forecasts.

    The champion forecasts. If no adapter has earned that, the best free forecaster does, and the challenger's forecast
    is recorded beside it. Each issued forecast is scored when the prices of its sessions exist.

    The fields of the form are `tickers` to `overrides`; a `config` replaces all of them but the tickers. They set the
    data, the backend and the windows of free forecasts; everything else comes from the adapters.

    Raises:
        ConfigError: If the fields are not a configuration.
        NightFailed: If a stock failed; the others are done.
        PublishError: If the files of the desk cannot be written.
    """
    if (nothing := skipped(exchange, result=tuple[StockForecast, ...]())) is not None:
        return nothing
    if config is None:
        config = form.config_of_form(recipe=recipe, overrides=overrides, data=data, update=update)
    jobs, failed = [], []
    warnings: dict[str, str] = {}
    for stock in chosen_stocks(tickers, config):
        try:
            own = with_stock(config, stock)
            if problem := update_prices(own, exchange=exchange):
                warnings[stock] = f"The prices could not be updated ({problem})."
            quality = own.quality.for_forecast()
            bars = fetch_bars(market_source(own), stock, store=Store.current(), quality=quality, now=datetime.now(UTC))
            jobs.append(ForecastJob(config=own, bars=bars))
        except Exception as error:
            logger.exception("no prices of %s", stock)
            failed.append(StockForecast(stock=stock, note=in_words(error), failed=True))
    made = forecast_and_issue(jobs, heavy_stages=heavy_stages, exchange=exchange)
    found = (*failed, *(each.model_copy(update={"warning": _watch(each, warnings.get(each.stock))}) for each in made))
    bars_of = {job.config.stock: job.bars for job in jobs}
    rows = {
        each.stock: forecast_part(each.stock, each, bars=read_bars(bars_of[each.stock]))
        for each in found
        if each.issued is not None
    }
    desk = publish_desk(tuple(rows.values()), at=datetime.now(UTC))
    table = [forecast_row(each, rows.get(each.stock, DeskRow(ticker=each.stock))) for each in found]
    publish_table("forecasts", table, description=f"Forecasts of the next sessions. [The desk: all tickers]({desk})")
    if names := [each.stock for each in found if each.failed]:
        reasons = "\n".join(f"{each.stock}: {each.note}" for each in found if each.failed)
        send_alert(f"TickerForge: no forecast of {len(names)} of {len(found)} stocks", f"{reasons}\nDesk: {desk}")
        raise NightFailed(f"no forecast of {', '.join(names)}: see their rows in the table `forecasts`")
    return found


def _watch(found: StockForecast, warning: str | None) -> str:
    """Join what to know about one stock's forecast."""
    own = found.forecast.warnings if found.forecast is not None else ()
    return " ".join(filter(None, (warning, *(f"{text[0].upper()}{text[1:]}" for text in own))))


def forecast_and_issue(
    jobs: Sequence[ForecastJob], *, heavy_stages: Where, exchange: str | None
) -> tuple[StockForecast, ...]:
    """Forecast stocks here or on the GPU pool, and record the forecasts as issued now; errors become notes."""
    if not jobs:
        return ()
    found = _on_gpu_pool(jobs) if heavy_stages == GPU_POOL else forecast_all(jobs)
    issued = tuple(_issued(each, exchange=exchange) for each in found)
    records = [record for each in issued for record in (each.issued, each.beside) if record is not None]
    now = datetime.now(UTC)
    oldest = min((record.issued_at for record in records), default=now)
    if head := seal_records([record.record for record in records], at=now, since=oldest):
        logger.info("the record of issued forecasts ends with block %s", head)
    return issued


def _on_gpu_pool(jobs: Sequence[ForecastJob]) -> tuple[StockForecast, ...]:
    batches = [jobs[first : first + MOST_JOBS] for first in range(0, len(jobs), MOST_JOBS)]
    calls = [
        Call(FORECAST_DEPLOYMENT, {"jobs": [job.model_dump(mode="json") for job in batch]}, f"{len(batch)} forecasts")
        for batch in batches
    ]
    found: list[StockForecast] = []
    for batch, answer in zip(batches, call_all(calls, answer=ForecastAnswer), strict=True):
        if isinstance(answer, StageFailed):
            found += [StockForecast(stock=job.config.stock, note=str(answer), failed=True) for job in batch]
        else:
            found += answer.stocks
    return tuple(found)


def _issued(found: StockForecast, *, exchange: str | None) -> StockForecast:
    try:
        return issue(found, exchange=exchange)
    except Exception as error:
        logger.exception("the forecast of %s cannot be recorded", found.stock)
        return StockForecast(stock=found.stock, note=in_words(error), failed=True)


def issue(found: StockForecast, *, exchange: str | None) -> StockForecast:
    """Record a forecast, and the challenger's beside it, as issued now, to be scored when their prices exist."""
    if (made := found.forecast) is None:
        return found
    challenger = made.challenger
    return found.model_copy(
        update={
            "issued": _record(made, exchange=exchange, beside=False),
            "beside": _record(challenger, exchange=exchange, beside=True) if challenger is not None else None,
        }
    )


def _record(made: Forecast, *, exchange: str | None, beside: bool) -> IssuedForecast:
    dates = [session.date for session in made.sessions]
    quantiles = tuple(session.quantiles for session in made.sessions)
    return issue_forecast(
        ticker=made.ticker,
        version=made.version,
        origin=made.origin,
        origin_close=made.last_close,
        sigma=made.sigma,
        interval=made.interval,
        target_dates=dates,
        median=[session.median for session in made.sessions],
        lower=[session.lower for session in made.sessions],
        upper=[session.upper for session in made.sessions],
        issued_at=datetime.now(UTC),
        provisional_dates=[session.date for session in made.sessions if session.provisional],
        issuer=made.issuer,
        why=made.why,
        beside=beside,
        quantiles=quantiles if all(quantiles) else (),
        reference=made.reference if all(quantiles) else (),
        currency=made.currency,
        thoughts=made.thoughts,
        exchange=made.exchange
        or exchange_of(made.ticker, np.array(dates, dtype="datetime64[D]"), default=exchange or EXCHANGE),
    )


def forecast_row(found: StockForecast, row: DeskRow) -> dict[str, str]:
    """Make one stock's row in the table of forecasts; without a forecast, only the reason."""
    made = found.forecast
    return {
        "Stock": found.stock,
        **forecast_cells(row),
        "Challenger": made.challenger.move if made is not None and made.challenger is not None else "",
        "Watch": f"{found.warning} {found.note}".strip() if found.failed else found.warning,
        "Why": made.why if made is not None else found.note,
    }
