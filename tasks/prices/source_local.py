"""Prices that need no download: those of another folder or file, and those of the synthetic market."""

from pathlib import Path

import pandas as pd

from tickerforge.features.config import SyntheticConfig
from tickerforge.features.prices.bars import columns_of, read_content, read_csv_with_gaps
from tickerforge.features.prices.dialects import in_words
from tickerforge.features.prices.pricefile import PriceFile
from tickerforge.features.synthetic import market
from tickerforge.tasks.prices.folders import csv_path, opened
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


def import_prices(folder: Path, stock: str, *, source: Path) -> Filled:
    """Write one stock's prices in Yahoo's columns, from a folder or a file in any dialect.

    Args:
        folder: Where to.
        stock: Name of the ticker.
        source: Folder of price files, or one file.

    Raises:
        FeaturesError: If the prices are faulty, or the file that would be replaced.
        MarketDataError: If there are none, or they contradict the file that would be replaced.
        PublishError: If the folder cannot be written.
    """
    path = csv_path(source, stock)
    file = opened(path) if source.is_file() else PriceFile(read_content(path, ticker=stock), name=str(path))
    columns, _, repairs, _ = columns_of(file, ticker=stock)
    return keep(folder, stock, pd.DataFrame(columns), note="; ".join(filter(None, (path.name, in_words(repairs)))))


def write_synthetic(folder: Path, stock: str, *, config: SyntheticConfig) -> Filled:
    """Write the bars of the synthetic market under a stock's name, to look at or to change.

    Raises:
        TickerNameError: If the name is not a ticker's.
        MarketDataError: If there is a file of other prices under that name.
        PublishError: If the folder cannot be written.
    """
    return keep(folder, stock, market(config))
