"""Prices that need no download: those of another folder of CSV files, and those of the synthetic market."""

from pathlib import Path

from tickerforge.features.config import SyntheticConfig
from tickerforge.features.prices.bars import read_csv_with_gaps
from tickerforge.features.synthetic import market
from tickerforge.tasks.prices.market_data import csv_path
from tickerforge.tasks.prices.price_files import Filled, keep, without_prices


def copy_prices(folder: Path, stock: str, *, source: Path) -> Filled:
    """Copy one stock's file, after it was read without a fault.

    Args:
        folder: Where to.
        stock: Name of the ticker.
        source: Folder with a `{STOCK}.csv`.

    Raises:
        FeaturesError: If the file is faulty, or the one that would be replaced.
        MarketDataError: If there is no such file, or it contradicts the one that would be replaced.
        PublishError: If the folder cannot be written.
    """
    path = csv_path(source, stock)
    bars, gaps, _ = read_csv_with_gaps(path, ticker=stock)
    return keep(folder, stock, bars, content=path.read_bytes(), note=without_prices(len(gaps)))


def write_synthetic(folder: Path, stock: str, *, config: SyntheticConfig) -> Filled:
    """Write the bars of the synthetic market under a stock's name, to look at or to change.

    Raises:
        TickerNameError: If the name is not a ticker's.
        MarketDataError: If there is a file of other prices under that name.
        PublishError: If the folder cannot be written.
    """
    return keep(folder, stock, market(config))
