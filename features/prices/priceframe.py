"""Prices in frames, as parquet files hold them and models are given them."""

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tickerforge.features.errors import BarsError, shortened
from tickerforge.features.prices.dialects import COLUMN_NAMES, canonical, locate
from tickerforge.features.prices.pricetable import PriceTable, check_columns, find_ticker, name_closes
from tickerforge.features.prices.pricetext import without_tickers

_PRICES = ("open", "high", "low", "close")


def read_parquet(content: bytes, *, name: str) -> pd.DataFrame:
    """Read the content of a parquet file.

    Raises:
        BarsError: If it is damaged.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.read_table(io.BytesIO(content), use_threads=False).to_pandas()
    except (pa.ArrowException, OSError, ValueError) as fault:
        reason = shortened(str(fault), at_most=100)
        raise BarsError(f"{name}: the Parquet file cannot be read ({reason}); write it again") from fault


def frame_tickers(frame: pd.DataFrame) -> list[str]:
    """List the tickers that a frame names, in its order; none if it names at most one."""
    _, tickers = _labels(frame)
    found = [each for each in dict.fromkeys(tickers) if each]
    if not found and (place := _symbol_place(_with_index(frame))) is not None:
        found = [str(each) for each in _with_index(frame).iloc[:, place].dropna().unique()]
    return found if len(found) > 1 else []


def frame_table(frame: pd.DataFrame, *, ticker: str, name: str) -> PriceTable:
    """Take the columns and rows of one ticker.

    Raises:
        BarsError: If there are no rows, no dates or no prices, or those of other tickers alone.
    """
    several = frame_tickers(frame)
    wanted = find_ticker(ticker, several, name=name) if several else ""
    labels, tickers = _labels(frame)
    if wanted and any(tickers):
        keep = [place for place, each in enumerate(tickers) if each in (wanted, "")]
        frame, labels = frame.iloc[:, keep], [labels[place] for place in keep]
    frame = _with_index(frame.set_axis(labels, axis=1))
    rows = np.arange(1, len(frame) + 1)
    if wanted and not any(tickers) and (place := _symbol_place(frame)) is not None:
        chosen = np.flatnonzero(frame.iloc[:, place].astype(str).to_numpy() == wanted)
        frame, rows = frame.iloc[chosen], rows[chosen]
    if frame.empty:
        raise BarsError(f"{name}: the frame has no rows; it needs one row per session")
    names = [str(label) for label in frame.columns]
    found = locate(names)
    if "date" in found:
        name_closes(names, found)
    places = check_columns(found, names, name=name)
    return PriceTable(
        labels=names,
        columns=[_cells(frame.iloc[:, place]) for place in range(len(names))],
        rows=rows.tolist(),
        places=places,
    )


def _labels(frame: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return each column's own name, and its ticker if the columns have one beside it."""
    if not isinstance(frame.columns, pd.MultiIndex):
        labels, tickers = without_tickers([str(label) for label in frame.columns])
        dated = labels if "date" in locate(labels) else ["Date", *labels]
        if not tickers and (closes := name_closes(dated, locate(dated))):
            tickers = closes[-len(labels) :]
            labels = ["Close" if ticker else label for label, ticker in zip(labels, tickers, strict=True)]
        return labels, tickers
    levels = [[str(each) for each in frame.columns.get_level_values(level)] for level in range(frame.columns.nlevels)]
    prices = [sum(canonical(each) in _NAMES for each in set(level)) for level in levels]
    place = prices.index(max(prices))
    others = [" ".join(parts).strip() for parts in zip(*levels[:place], *levels[place + 1 :], strict=True)]
    return levels[place], others


_NAMES = frozenset(name for column in (*_PRICES, "adj_close", "volume") for name in COLUMN_NAMES[column])


def _with_index(frame: pd.DataFrame) -> pd.DataFrame:
    """Make columns of an index that holds dates or tickers."""
    for level in range(frame.index.nlevels):
        values = frame.index.get_level_values(level)
        label = str(values.name) if values.name is not None else ""
        dated = isinstance(values, pd.DatetimeIndex) or canonical(label) in COLUMN_NAMES["date"]
        if (dated and "date" not in locate([str(each) for each in frame.columns])) or (
            frame.index.nlevels > 1 and "symbol" in locate([label])
        ):
            frame = frame.assign(**{label or "Date": values})
    return frame


def _symbol_place(frame: pd.DataFrame) -> int | None:
    places = locate([str(label) for label in frame.columns]).get("symbol")
    return places[0] if places and len(places) == 1 else None


def _cells(series: pd.Series) -> Sequence[str] | NDArray:
    """Return numbers and instants as arrays, and everything else as texts."""
    if isinstance(series.dtype, pd.DatetimeTZDtype):
        # The date on the local clock counts.
        return series.dt.tz_localize(None).to_numpy()
    if isinstance(series.dtype, np.dtype) and series.dtype.kind == "M":
        return series.to_numpy()
    if pd.api.types.is_numeric_dtype(series.dtype) and not pd.api.types.is_bool_dtype(series.dtype):
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    missing = series.isna().to_numpy()
    return ["" if gone else str(cell) for cell, gone in zip(series, missing, strict=True)]
