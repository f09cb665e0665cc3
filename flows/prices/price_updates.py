"""Price files brought up to date before they are read; if that fails, the stored prices are used."""

import logging
from pathlib import Path

from tickerforge.features.pooling import POOL
from tickerforge.flows.errors import ConfigError
from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.flows.settings.scope import due
from tickerforge.tasks.prices.folders import list_tickers, pool_tickers
from tickerforge.tasks.prices.sessions import AUTO, NO_EXCHANGE

logger = logging.getLogger(__name__)


def update_prices(config: PipelineConfig, *, exchange: str | None) -> str:
    """Update the price file of the configuration's stock from its `update` source; for the pool, those of all stocks.

    Args:
        config: Stock, data folder and source.
        exchange: Calendar such as XNYS: the source is not asked if the file holds the last session.

    Returns:
        Why a file could not be updated; empty if all is well.

    Raises:
        ConfigError: If there is no data folder.
        Exception: Why the update failed, if there is no file to fall back on.
    """
    if config.update == "none":
        return ""
    if config.data is None or config.data.is_file():
        raise ConfigError(f"update = {config.update} needs a folder of price files: give --data FOLDER")
    stocks = pool_tickers(config.data) if config.stock == POOL else (config.stock,)
    if exchange is not None and config.quality.exchange not in (AUTO, NO_EXCHANGE):
        exchange = config.quality.exchange
    problems = {stock: _updated(config.data, stock, exchange=exchange) for stock in stocks}
    return "; ".join(
        problem if config.stock != POOL else f"{stock}: {problem}" for stock, problem in problems.items() if problem
    )


def _updated(folder: Path, stock: str, *, exchange: str | None) -> str:
    from tickerforge.tasks.prices import source_yahoo

    try:
        done = source_yahoo.fill(folder, stock, now=due(), exchange=exchange)
    except Exception as error:
        if not folder.is_dir() or stock not in list_tickers(folder):
            raise
        logger.warning("%s: the prices could not be updated", stock, exc_info=True)
        return f"{type(error).__name__}: {error}"
    logger.info("%s: %d new sessions, the last on %s %s", done.stock, done.added, done.last, done.note)
    return ""
