"""Price files, `{STOCK}.csv` in Yahoo's columns: written whole, and never with less of a history than before."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from tickerforge.features.atomic import atomic_path
from tickerforge.features.pooling import POOL
from tickerforge.features.prices.bars import YAHOO_COLUMNS, read_csv, validate_ticker
from tickerforge.features.prices.schemas import BAR_COLUMNS, PRICE_COLUMNS
from tickerforge.tasks.base.disk import os_errors_as_publish_error
from tickerforge.tasks.base.errors import MarketDataError

SAME_PRICE = 1e-9


@dataclass(frozen=True)
class Filled:
    """What a source did for one price file; `note` is for what a person should know."""

    stock: str
    sessions: int
    added: int
    first: date
    last: date
    note: str = ""


def stored_bars(folder: Path, stock: str) -> pd.DataFrame | None:
    """The bars that a folder holds of a stock, or `None`.

    Raises:
        FeaturesError: If the stock's name or its file is faulty.
    """
    path = price_file(folder, stock)
    return read_csv(path, ticker=stock) if path.exists() else None


def price_file(folder: Path, stock: str) -> Path:
    """Where the prices of a stock stand in a folder.

    Raises:
        MarketDataError: If the name is that of the pool of all tickers.
        TickerNameError: If the name could lead out of the folder.
    """
    if stock == POOL:
        raise MarketDataError(
            f"{POOL} stands for all tickers together and names no price file: keep Allstate's as {POOL}-US.csv"
        )
    return folder / f"{validate_ticker(stock)}.csv"


def as_csv(bars: pd.DataFrame) -> bytes:
    """Bars as the text of a price file."""
    table = bars[list(BAR_COLUMNS)].set_axis(list(YAHOO_COLUMNS), axis=1)
    return table.to_csv(index=False, date_format="%Y-%m-%d", lineterminator="\n").encode()


def keep(
    folder: Path, stock: str, bars: pd.DataFrame, *, content: bytes | None = None, revised: bool = False, note: str = ""
) -> Filled:
    """Write a price file, whole or not at all; what it held already stays in it.

    Args:
        folder: Made where it is missing.
        stock: Name of the ticker.
        bars: As `features.prices.bars.read_csv` returns them.
        content: The file's bytes; without them the bars are written in Yahoo's columns.
        revised: Whether the prices of sessions that are stored may change, as after a split.
        note: What a person should know.

    Raises:
        FeaturesError: If the stored file is faulty.
        MarketDataError: If the new prices lack a session that is stored or, unless revised, tell another price of it.
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
    return described(stock, bars, added=len(bars) - (0 if stored is None else len(stored)), note=note)


def described(stock: str, bars: pd.DataFrame, *, added: int = 0, note: str = "") -> Filled:
    """What a price file of these bars holds."""
    first, last = bars["date"].iloc[[0, -1]].dt.date
    return Filled(stock, sessions=len(bars), added=added, first=first, last=last, note=note)


def without_prices(rows: int) -> str:
    """A note on rows that are left out, empty where there are none."""
    return f"rows without prices, left out: {rows}" if rows else ""


def _check_history(path: Path, stored: pd.DataFrame, bars: pd.DataFrame, *, revised: bool) -> None:
    lost = stored.loc[~stored["date"].isin(bars["date"]), "date"]
    cure = "It stays as it is; move it away first if the new prices are to stand in its place."
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
