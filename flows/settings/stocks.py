"""Many stocks in one run: which, and each one's configuration."""

from typing import Annotated

from pydantic import Field

from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.tasks.prices.market_data import list_tickers

Tickers = Annotated[
    tuple[str, ...], Field(description="Stocks; none means all of the data folder, or the synthetic one.")
]


def stocks_of(config: PipelineConfig) -> tuple[str, ...]:
    """All stocks that there are prices for.

    Raises:
        MarketDataError: If there is no such data folder.
    """
    return tuple(list_tickers(config.data)) if config.data is not None else (config.synthetic.ticker,)


def with_stock(config: PipelineConfig, stock: str) -> PipelineConfig:
    """The same configuration for another stock.

    Raises:
        TickerNameError: If the name is no ticker's.
    """
    return PipelineConfig.model_validate(config.model_dump() | {"stock": stock})
