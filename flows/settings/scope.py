"""What a run over many stocks covers: which stocks, and on which days of their exchange."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import Field

from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.tasks.prices.market_data import list_tickers
from tickerforge.tasks.prices.sessions import exchange_date, is_session

Tickers = Annotated[
    tuple[str, ...],
    Field(description="Stocks; if none are given, all of the data folder, or the synthetic one without a folder."),
]
Exchange = Annotated[
    str | None,
    Field(
        pattern=r"^[A-Z0-9_/]{3,8}$",
        description="Calendar such as XNYS: the run does nothing on a day without a session.",
    ),
]


def stocks_of(config: PipelineConfig) -> tuple[str, ...]:
    """Return all stocks with prices: those of the data folder, or the synthetic one.

    Raises:
        MarketDataError: If the data folder does not exist.
    """
    return tuple(list_tickers(config.data)) if config.data is not None else (config.synthetic.ticker,)


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


def due_on_session(exchange: str) -> bool:
    """Return whether the exchange has a session on the day of `due`, in the exchange's time zone.

    Raises:
        MarketDataError: If there is no such exchange.
    """
    return is_session(exchange_date(due(), exchange=exchange), exchange=exchange)
