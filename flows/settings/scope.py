"""What a run over many stocks covers: which stocks, and on which days of their exchange."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field

from tickerforge.features.errors import TickerNameError
from tickerforge.features.prices.tickers import spelled
from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.tasks.prices.folders import list_tickers
from tickerforge.tasks.prices.sessions import exchange_date, is_session

logger = logging.getLogger(__name__)

Tickers = Annotated[
    tuple[str, ...],
    Field(description="Stocks; if none are given, all of the data folder, or the synthetic one without a folder."),
]
Exchange = Annotated[
    str | None,
    Field(
        pattern=r"^[A-Z0-9_/]{3,8}$",
        description="Calendar such as XNYS: a run on a schedule does nothing on a day without a session. It also "
        "says when prices are due of stocks whose names and dates do not show their exchange.",
    ),
]


def stocks_of(config: PipelineConfig) -> tuple[str, ...]:
    """Return all stocks with prices: those of the data folder, or the synthetic one.

    Raises:
        MarketDataError: If the data folder does not exist.
    """
    return tuple(list_tickers(config.data)) if config.data is not None else (config.synthetic.ticker,)


def chosen_stocks(tickers: Sequence[str], config: PipelineConfig) -> tuple[str, ...]:
    """Return the stocks that were asked for, each once and as `spelled`; without any, all of `stocks_of`.

    A name that is not one of a ticker stays as it is, so that only its own run fails.
    """
    return tuple(dict.fromkeys(map(_spelled, tickers))) or stocks_of(config)


def _spelled(name: str) -> str:
    try:
        return spelled(name)
    except TickerNameError:
        return name


def with_stock(config: PipelineConfig, stock: str) -> PipelineConfig:
    """Return the same configuration for another stock.

    Raises:
        TickerNameError: If the name is not a valid ticker name.
    """
    return PipelineConfig.model_validate(config.model_dump() | {"stock": stock})


def due() -> datetime:
    """Return the UTC instant for which this flow run was scheduled; outside a flow run, the current time."""
    from prefect.runtime import flow_run

    scheduled = flow_run.scheduled_start_time if flow_run.id else None
    return scheduled if isinstance(scheduled, datetime) else datetime.now(UTC)


def skipped(exchange: str | None, *, result: object) -> Any:
    """Return the outcome of a run that a schedule started on a day without a session; `None` if it has work to do.

    A run that a person started does its work on any day, with the latest session.

    Args:
        exchange: Calendar such as XNYS; without it, the run has work to do.
        result: What the flow returns to its caller.

    Returns:
        A state `Skipped` that says why, for the flow to return: Prefect takes it as the outcome, and the caller gets
        `result`.

    Raises:
        MarketDataError: If the exchange is not known.
    """
    from prefect.context import FlowRunContext
    from prefect.states import Completed

    context = FlowRunContext.get()
    if exchange is None or context is None or context.flow_run is None or not context.flow_run.auto_scheduled:
        return None
    if due_on_session(exchange):
        return None
    reason = f"{exchange} has no session on {exchange_date(due(), exchange=exchange)}"
    logger.info("%s: nothing to do", reason)
    return Completed(name="Skipped", message=reason, data=result)


def due_on_session(exchange: str) -> bool:
    """Return whether the exchange has a session on the day of `due`, in the exchange's time zone.

    Raises:
        MarketDataError: If the exchange is not known.
    """
    return is_session(exchange_date(due(), exchange=exchange), exchange=exchange)
