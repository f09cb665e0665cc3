"""Price files, `{STOCK}.csv` in Yahoo's columns: written whole, and never with a shorter history than before."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from tickerforge.features.atomic import atomic_path
from tickerforge.features.pooling import POOL
from tickerforge.features.prices.bars import read_csv
from tickerforge.features.prices.schemas import BAR_COLUMNS, PRICE_COLUMNS, YAHOO_COLUMNS
from tickerforge.features.prices.tickers import validate_ticker
from tickerforge.tasks.base.disk import os_errors_as_publish_error
from tickerforge.tasks.base.errors import MarketDataError

SAME_PRICE = 1e-9


@dataclass(frozen=True)
class Filled:
    """What a source did to one price file; `note` is a message for people."""

    stock: str
    sessions: int
    added: int
    first: date
    last: date
    note: str = ""


def stored_bars(folder: Path, stock: str) -> pd.DataFrame | None:
    """Read the bars that a folder holds of a stock; `None` if there is no file.

    Raises:
        FeaturesError: If the stock's name or its file is faulty.
    """
    path = price_file(folder, stock)
    return read_csv(path, ticker=stock) if path.exists() else None


def price_file(folder: Path, stock: str) -> Path:
    """Name the price file of a stock in a folder.

    Raises:
        MarketDataError: If the name is that of the pool of all tickers.
        TickerNameError: If the name could lead out of the folder.
    """
    if stock == POOL:
        raise MarketDataError(
            f"{POOL} stands for all tickers together and cannot name a price file: keep Allstate's as {POOL}-US.csv"
        )
    return folder / f"{validate_ticker(stock)}.csv"


def as_csv(bars: pd.DataFrame) -> bytes:
    """Write bars as the text of a price file."""
    table = bars[list(BAR_COLUMNS)].set_axis(list(YAHOO_COLUMNS), axis=1)
    return table.to_csv(index=False, date_format="%Y-%m-%d", lineterminator="\n").encode()


def keep(
    folder: Path, stock: str, bars: pd.DataFrame, *, content: bytes | None = None, revised: bool = False, note: str = ""
) -> Filled:
    """Write a price file, whole or not at all; it keeps every session that it already held.

    Args:
        folder: Made if it is missing.
        stock: Name of the ticker.
        bars: As `features.prices.bars.read_csv` returns them.
        content: The file's bytes; without them the bars are written in Yahoo's columns.
        revised: Whether the prices of stored sessions may change, as after a split.
        note: A message for people.

    Raises:
        FeaturesError: If the stored file is faulty.
        MarketDataError: If the new prices lack a stored session or, unless `revised`, differ from its stored prices.
        PublishError: If the folder cannot be written.
    """
    path = price_file(folder, stock)
    stored = stored_bars(folder, stock)
    if stored is not None:
        _check_history(path, stored, bars, revised=revised)
    content = as_csv(bars) if content is None else content
    with os_errors_as_publish_error(folder, doing=f"writing {path.name}"):
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != content:
            with atomic_path(path, shared=True) as fresh:
                fresh.write_bytes(content)
    return filled(stock, bars, added=len(bars) - (0 if stored is None else len(stored)), note=note)


def filled(stock: str, bars: pd.DataFrame, *, added: int = 0, note: str = "") -> Filled:
    """Summarise a price file of these bars."""
    first, last = bars["date"].iloc[[0, -1]].dt.date
    return Filled(stock, sessions=len(bars), added=added, first=first, last=last, note=note)


def without_prices(rows: int) -> str:
    """Write a note on rows that are left out; empty if there are none."""
    return f"rows without prices, left out: {rows}" if rows else ""


def _check_history(path: Path, stored: pd.DataFrame, bars: pd.DataFrame, *, revised: bool) -> None:
    lost = stored.loc[~stored["date"].isin(bars["date"]), "date"]
    cure = "It is unchanged; move it away first if the new prices should replace it."
    if len(lost):
        raise MarketDataError(
            f"{path} holds {len(lost)} sessions that the new prices lack, from {lost.iloc[0]:%Y-%m-%d} to "
            f"{lost.iloc[-1]:%Y-%m-%d}. {cure}"
        )
    if revised:
        return
    columns = [*PRICE_COLUMNS, "volume"]
    again = bars.loc[bars["date"].isin(stored["date"]), columns].to_numpy()
    differs = ~np.all(np.isclose(stored[columns].to_numpy(), again, rtol=SAME_PRICE, atol=0), axis=1)
    if differs.any():
        first = stored["date"].iloc[int(differs.argmax())]
        raise MarketDataError(
            f"{path} holds other prices of {int(differs.sum())} sessions, the first on {first:%Y-%m-%d}. {cure}"
        )
