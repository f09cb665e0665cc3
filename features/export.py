"""The published CSV layout, `{STOCK}_{train,test,full}_{x,y}.csv`: written from bars, and read back as windows."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view

from tickerforge.features.atomic import atomic_path
from tickerforge.features.config import FeatureConfig
from tickerforge.features.errors import FeaturesError, InsufficientHistoryError, PublishedLayoutError, shortened
from tickerforge.features.indicators import SHORTEST_WINDOW, WINDOW_INDICATORS, window_indicators
from tickerforge.features.prices import csvfile
from tickerforge.features.prices.tickers import validate_ticker
from tickerforge.features.splits import Split, assign_splits, split_borders
from tickerforge.features.statistics import extremes

STATISTICS = ("min", "min_timestep", "max", "max_timestep", "mean", "median", "median_timestep")
PUBLISHED_COLUMNS = ("sequence", *STATISTICS, *WINDOW_INDICATORS, "batch_idx", "stock", "stock_symbol")
TABLES = ("train_x", "train_y", "test_x", "test_y", "full_x", "full_y")
BATCH = 16

PSEUDO_LEVEL = 1e5
"""Added to a z-score to make a pseudo-price: so large that log returns of pseudo-prices are differences of z-scores."""

FIRST_DATES: dict[Split, str] = {"train": "1900-01-01", "validation": "1970-01-01", "test": "2040-01-02"}
"""Synthetic date of the first history value of a published file, which has no dates of its own."""


def published_tables(bars: pd.DataFrame, *, ticker: str, config: FeatureConfig) -> dict[str, pd.DataFrame]:
    """Make the six tables of the published layout, value for value, in time order.

    Both sides hold for each window its Adj Close values (`sequence`), their statistics, and period-5 indicators of raw
    Close, High and Low computed inside that window. Every price is standardised by the mean and population standard
    deviation of the train rows' Adj Close. The y side is the same for the targets.

    The layout keeps the faults of the published protocol, so that results can be compared with it; `features.windows`
    has none of them. The train table merges train and validation, which leaves nothing to choose a model on. There is
    no embargo: the last train and validation targets are in the first histories of the next split. Mean and deviation
    of the standardisation look ahead within the train rows. Statistics and indicators of the y side describe the
    future and must not reach a model. Adjusted closes are next to unadjusted highs and lows, and there are no dates.

    Args:
        bars: As `features.prices.bars.read_csv` returns them.
        ticker: Name of the ticker.
        config: Context, horizon and fractions of the splits.

    Returns:
        Each of `TABLES` → a frame with `PUBLISHED_COLUMNS`; cells are lists of numbers, one row per window. `batch_idx`
        counts batches of 16 within each split.

    Raises:
        InsufficientHistoryError: Train or test has no window, or the prices do not move.
        FeaturesError: Context or horizon is shorter than the indicators need.
    """
    validate_ticker(ticker)
    if min(config.context, config.horizon) < SHORTEST_WINDOW:
        raise FeaturesError(
            f"{ticker}: the published layout has indicators inside each window; it needs context and horizon of at "
            f"least {SHORTEST_WINDOW}, not {config.context} and {config.horizon}"
        )
    borders = split_borders(len(bars), config)
    origins = np.arange(config.context - 1, len(bars) - config.horizon)
    split = assign_splits(origins, borders, horizon=config.horizon, embargo=0)
    if "train" not in split or "test" not in split:
        raise InsufficientHistoryError(
            f"{ticker}: {len(bars)} sessions leave no train or no test window with context {config.context} and "
            f"horizon {config.horizon}: use a longer price history"
        )
    train = bars["adj_close"].to_numpy()[: borders.train_end]
    if train.max() == train.min():
        raise InsufficientHistoryError(f"{ticker}: the prices do not move in the train split; check the data")
    z = (bars[["adj_close", "high", "low", "close"]] - train.mean()) / train.std()
    x = _side(z, config.context, ticker=ticker)
    y = x if config.horizon == config.context else _side(z, config.horizon, ticker=ticker)
    tables = {}
    for name, parts in {
        "train": ("train", "validation"),
        "test": ("test",),
        "full": ("train", "validation", "test"),
    }.items():
        members = [origins[split == part] for part in parts]
        rows = np.concatenate(members)
        batch = np.concatenate([np.arange(len(part)) // BATCH for part in members])
        for side, starts, windows in (("x", rows - config.context + 1, x), ("y", rows + 1, y)):
            table = windows.iloc[starts].reset_index(drop=True)
            table["batch_idx"] = batch
            tables[f"{name}_{side}"] = table[list(PUBLISHED_COLUMNS)]
    return tables


def write_published(tables: Mapping[str, pd.DataFrame], out_dir: Path, *, ticker: str) -> list[Path]:
    """Write each table as `{ticker}_{name}.csv` into `out_dir`; a file appears under its name only when complete.

    Args:
        tables: From `published_tables`.
        out_dir: Folder; made if it is missing.
        ticker: Name of the ticker.

    Returns:
        The files written, in the order of `tables`.
    """
    validate_ticker(ticker)
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    written = []
    for name, table in tables.items():
        path = out_dir / f"{ticker}_{name}.csv"
        with atomic_path(path, shared=True) as partial:
            table.to_csv(partial, index=False, encoding="utf-8", lineterminator="\n")
        written.append(path)
    return written


def published_sigma(train_x_path: str | Path) -> float:
    """Compute the `sigma` for `read_published`: the volatility of one-day changes in a published train file.

    Returns:
        Standard deviation (ddof 1) of the one-day z-score changes within the windows, as log returns of pseudo-prices
        (divided by `PSEUDO_LEVEL`). Windows overlap; each change counts as often as it is shown.

    Raises:
        PublishedLayoutError: The file is malformed, or its values do not move.
    """
    changes = np.diff(_sequences(Path(train_x_path)), axis=1)
    sigma = float(changes.std(ddof=1)) if changes.size > 1 else 0.0
    if sigma == 0:
        raise PublishedLayoutError(f"{train_x_path}, column sequence: the values do not move; use another train file")
    return sigma / PSEUDO_LEVEL


def read_published(x_path: str | Path, y_path: str | Path, *, ticker: str, split: Split, sigma: float) -> pd.DataFrame:
    """Read a pair of published files as windows, for training and evaluation alike.

    The files hold z-scores, without dates, prices or anything before a window. A z-score z becomes the
    pseudo-price `PSEUDO_LEVEL + z`, with `train_mean = PSEUDO_LEVEL` and `train_std = 1`. Standardised values are then
    the published ones, and model units are 10·(z − z_origin) / sd(one-day changes of z), both up to rounding
    (relative 1e-4 and better); prices and returns have no meaning. There are no feature columns: render prompts
    with `prompt_style = "prices"`.

    Args:
        x_path: `{STOCK}_{split}_x.csv`; only its column `sequence` is read.
        y_path: `{STOCK}_{split}_y.csv`, row by row the targets of `x_path`.
        ticker: Name of the ticker.
        split: Name of the windows' split; published train files hold the validation windows too.
        sigma: From `published_sigma` on the train file, also for test files: it must not depend on the test windows.

    Returns:
        `ticker, origin, split, history, target, target_dates, sigma, train_mean, train_std` as
        `features.windows.build_windows` returns them. `origin` is synthetic: business days in the order of the rows.
        Row 0 is `context - 1` business days after `FIRST_DATES[split]`; the targets' dates are the days that follow.

    Raises:
        PublishedLayoutError: A file is missing or malformed, or the files have different numbers of rows; names file,
            row, column and value.
        TickerNameError: `ticker` is not a valid name.
    """
    validate_ticker(ticker)
    history, target = _sequences(Path(x_path)), _sequences(Path(y_path))
    if len(history) != len(target):
        raise PublishedLayoutError(
            f"{x_path} has {len(history)} rows and {y_path} has {len(target)}; row by row they must be the same windows"
        )
    context, horizon = history.shape[1], target.shape[1]
    calendar = pd.bdate_range(FIRST_DATES[split], periods=len(history) + context + horizon)
    days = calendar.to_numpy(dtype="datetime64[s]")
    origin = np.arange(len(history)) + context - 1
    return pd.DataFrame(
        {
            "ticker": ticker,
            "origin": days[origin],
            "split": split,
            "history": list(history + PSEUDO_LEVEL),
            "target": list(target + PSEUDO_LEVEL),
            "target_dates": list(days[origin[:, None] + np.arange(1, horizon + 1)]),
            "sigma": sigma,
            "train_mean": PSEUDO_LEVEL,
            "train_std": 1.0,
        }
    )


def _side(z: pd.DataFrame, length: int, *, ticker: str) -> pd.DataFrame:
    """Make one row for each window of `length` rows of the standardised prices, by its first row."""
    windows = {name: sliding_window_view(z[name].to_numpy(), length) for name in z.columns}
    columns = {"sequence": windows["adj_close"]}
    columns |= {name: values[:, None] for name, values in extremes(windows["adj_close"]).items()}
    columns |= window_indicators(windows["high"], windows["low"], windows["close"])
    table = pd.DataFrame({name: pd.Series(values.tolist(), dtype=object) for name, values in columns.items()})
    return table.assign(stock=ticker, stock_symbol=ticker)


def _sequences(path: Path) -> np.ndarray:
    """Read the column `sequence` of a published file, shape `(rows, length)`."""
    text = csvfile.read_text(path, error=PublishedLayoutError)
    if "sequence" not in text.header:
        raise PublishedLayoutError(
            f"{path}: column sequence is missing; the header reads {shortened(', '.join(text.header), at_most=200)}"
        )
    column = text.header.index("sequence")
    sequences: list[list[float]] = []
    for row, line in zip(text.rows, text.lines, strict=True):
        values = _numbers(row[column])
        if not values or (sequences and len(values) != len(sequences[0])):
            length = f"{len(sequences[0])} " if sequences else ""
            raise PublishedLayoutError(
                f"{path}, row {line}, column sequence: {shortened(row[column])} is not a list of {length}finite "
                "z-scores such as [0.1, -0.25]; correct the row, or delete it here and in the file of the other side"
            )
        sequences.append(values)
    return np.array(sequences)


def _numbers(cell: str) -> list[float] | None:
    try:
        values = json.loads(cell)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        return None
    numbers = [float(value) if abs(value) < PSEUDO_LEVEL / 10 else math.nan for value in values]
    return numbers if all(map(math.isfinite, numbers)) else None
