"""Windows: what is known at an origin, the features a prompt shows, and the prices that came after."""

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from features.bars import adjust, validate_ticker
from features.config import FeatureConfig
from features.errors import InsufficientHistoryError
from features.indicators import FROM_WINDOW, SERIES_WARM_UP, series_indicators, window_indicators
from features.prompts import FEATURE_COLUMNS
from features.splits import SPLITS, assign_splits, sessions_needed, split_borders
from features.statistics import daily_sigma, window_statistics

Columns = dict[str, NDArray]

WINDOW_COLUMNS = (
    *("ticker", "origin", "split", "history", "target", "target_dates", "sigma", "train_mean", "train_std"),
)
SMALLEST_SIGMA = 1e-8
"""Daily log-return volatility below which prices count as not moving."""


def build_windows(bars: pd.DataFrame, *, ticker: str, config: FeatureConfig) -> pd.DataFrame:
    """Every window of one ticker with its history, targets, split and features.

    Origins within the indicators' warm-up, windows that straddle a border or lie in an embargo, and windows whose
    prices have not moved are left out. Everything but `target`, `target_dates` and `split` depends on sessions up to
    the origin only, except `train_mean` and `train_std`, which describe the whole train split.

    Args:
        bars: As `features.bars.read_csv` returns them.
        ticker: Name of the ticker.
        config: Context, horizon, scope of the indicators, fractions of the splits.

    Returns:
        One row a window, oldest origin first: `ticker`; `origin` (datetime64[s], last session known); `split`;
        `history` (USD adjusted close, array of shape `(context,)`, last is the price at the origin); `target` (USD,
        `(horizon,)`); `target_dates` (`(horizon,)`); `sigma` (daily log-return standard deviation over the
        `sigma_window` sessions up to the origin); `train_mean`, `train_std` (USD, population, over the train rows);
        then the columns `features.prompts.FEATURE_COLUMNS`: averages, bands, extremes, `mom_10`, `macd` and `trend`
        (per session) in USD, oscillators as they are, timesteps 0 to context - 1, lags within ±1.

    Raises:
        InsufficientHistoryError: A split has no window; names the ticker, the sessions present and those needed.
        TickerNameError: `ticker` is not a valid name.
    """
    return _as_frame(window_columns(bars, ticker=ticker, config=config))


def window_columns(bars: pd.DataFrame, *, ticker: str, config: FeatureConfig) -> Columns:
    """The columns of `build_windows` as arrays: `(n_windows,)`, or `(n_windows, k)` where a cell is an array.

    Raises:
        InsufficientHistoryError: As `build_windows`.
        TickerNameError: `ticker` is not a valid name.
    """
    validate_ticker(ticker)
    n_rows = len(bars)
    first = _first_origin(config)
    origins = np.arange(first, n_rows - config.horizon)
    borders = split_borders(n_rows, config)
    split = assign_splits(origins, borders, horizon=config.horizon, embargo=config.embargo)
    if not set(SPLITS) <= set(split):
        empty = " or ".join(name for name in SPLITS if name not in split)
        needed = sessions_needed(config, first_origin=first, present=n_rows)
        raise InsufficientHistoryError(
            f"{ticker}: {n_rows} sessions leave no {empty} window; {needed} are needed with context {config.context}, "
            f"horizon {config.horizon} and {first} sessions of warm-up: use a longer price history"
        )
    origins, split = origins[split != ""], split[split != ""]
    known = _known_at(bars, origins, ticker=ticker, config=config)
    usable = _usable(known)
    for name in SPLITS:
        if not (split[usable] == name).any():
            raise InsufficientHistoryError(
                f"{ticker}: the prices do not move in the {name} split, so that there is no volatility to forecast by; "
                "check the data of this ticker"
            )
    close, dates = bars["adj_close"].to_numpy(), bars["date"].to_numpy()
    after = origins[:, None] + np.arange(1, config.horizon + 1)
    future = {"split": split.astype(object), "target": close[after], "target_dates": dates[after]}
    columns = {name: (known | future)[name] for name in (*WINDOW_COLUMNS, *FEATURE_COLUMNS)}
    return columns if usable.all() else {name: values[usable] for name, values in columns.items()}


def latest_window(bars: pd.DataFrame, *, ticker: str, config: FeatureConfig) -> pd.DataFrame:
    """The window whose origin is the last bar: what is known now, its future being unknown.

    Args:
        bars: As `features.bars.read_csv` returns them.
        ticker: Name of the ticker.
        config: As for `build_windows`.

    Returns:
        One row with the columns of `build_windows` except `split`, `target` and `target_dates`.

    Raises:
        InsufficientHistoryError: Fewer sessions than the warm-up needs, or prices that do not move.
        TickerNameError: `ticker` is not a valid name.
    """
    validate_ticker(ticker)
    first = _first_origin(config)
    if len(bars) <= first:
        raise InsufficientHistoryError(
            f"{ticker}: {len(bars)} sessions are too few for one window; {first + 1} are needed with context "
            f"{config.context} and indicator_scope {config.indicator_scope}: use a longer price history"
        )
    window = _known_at(bars, np.array([len(bars) - 1]), ticker=ticker, config=config)
    if not _usable(window).all():
        raise InsufficientHistoryError(
            f"{ticker}: the prices do not move over the last {config.sigma_window} sessions up to "
            f"{str(window['origin'][0])[:10]}, so that there is no volatility to forecast by; check the data"
        )
    return _as_frame(window)


def _first_origin(config: FeatureConfig) -> int:
    """Row of the earliest origin at which history, volatility and every indicator are defined."""
    warm_up = SERIES_WARM_UP if config.indicator_scope == "series" else 0
    return max(config.context - 1, config.sigma_min, warm_up)


def _known_at(bars: pd.DataFrame, origins: NDArray[np.int64], *, ticker: str, config: FeatureConfig) -> Columns:
    """The columns that need no future, one row for each origin (row numbers of `bars`, ascending)."""
    close = bars["adj_close"].to_numpy()
    history = sliding_window_view(close, config.context)[origins - config.context + 1]
    sigma = daily_sigma(close, window=config.sigma_window, minimum=config.sigma_min)
    train = close[: split_borders(len(bars), config).train_end]
    features = {**_indicators(bars, origins, config=config), **window_statistics(history)}
    return {
        "ticker": np.full(len(origins), ticker, dtype=object),
        "origin": bars["date"].to_numpy()[origins],
        "history": history,
        "sigma": sigma[origins],
        "train_mean": np.full(len(origins), train.mean()),
        "train_std": np.full(len(origins), train.std()),
        **{column: features[column] for column in FEATURE_COLUMNS},
    }


def _indicators(
    bars: pd.DataFrame, origins: NDArray[np.int64], *, config: FeatureConfig
) -> dict[str, NDArray[np.float64]]:
    if config.indicator_scope == "series":
        return {name: values[origins] for name, values in series_indicators(adjust(bars)).items()}
    high, low, close = (
        sliding_window_view(bars[name].to_numpy(), config.context)[origins - config.context + 1]
        for name in ("high", "low", "close")
    )
    inside = window_indicators(high, low, close)
    return {column: inside[name][:, -1] for column, name in FROM_WINDOW.items()}


def _usable(columns: Columns) -> NDArray[np.bool_]:
    finite = np.logical_and.reduce([np.isfinite(columns[name]) for name in ("sigma", *FEATURE_COLUMNS)])
    return np.asarray(finite & (columns["sigma"] > SMALLEST_SIGMA))


def _as_frame(columns: Columns) -> pd.DataFrame:
    return pd.DataFrame({name: list(values) if values.ndim > 1 else values for name, values in columns.items()})
