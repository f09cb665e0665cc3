"""Prices from another folder of CSV files."""

from pathlib import Path

from tickerforge.features.prices.bars import read_csv_with_gaps
from tickerforge.tasks.prices.market_data import csv_path
from tickerforge.tasks.prices.price_files import Filled, keep, without_prices


def fill(folder: Path, stock: str, *, source: Path) -> Filled:
    """Copy one stock's file, once it has proved to be a price file.

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
