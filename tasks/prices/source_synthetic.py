"""Prices of the synthetic market as a file, to look at or to change."""

from pathlib import Path

from tickerforge.features.config import SyntheticConfig
from tickerforge.features.synthetic import market
from tickerforge.tasks.prices.price_files import Filled, keep


def fill(folder: Path, stock: str, *, config: SyntheticConfig) -> Filled:
    """Write the bars of the synthetic market under a stock's name.

    Raises:
        TickerNameError: If the name is no ticker's.
        MarketDataError: If there is a file of other prices under that name.
        PublishError: If the folder cannot be written.
    """
    return keep(folder, stock, market(config))
