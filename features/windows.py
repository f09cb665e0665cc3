"""Windows: what is known at an origin, the features that a prompt shows, and the prices after it."""

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tickerforge.features.config import FeatureConfig
from tickerforge.features.errors import InsufficientHistoryError
from tickerforge.features.indicators import FROM_WINDOW, SERIES_WARM_UP, series_indicators, window_indicators
from tickerforge.features.prices.bars import adjusted_columns
from tickerforge.features.prices.schemas import Columns, bar_columns
from tickerforge.features.prices.tickers import validate_ticker
from tickerforge.features.prompts import FEATURE_COLUMNS
from tickerforge.features.splits import SPLITS, assign_splits, sessions_needed, split_borders
from tickerforge.features.statistics import daily_sigma, range_variance, trailing_mean, window_statistics
from tickerforge.features.volatility import har_sigma

WINDOW_COLUMNS = (
    *("ticker", "origin", "split", "history", "target", "target_dates", "sigma", "train_mean", "train_std"),
    *("past_variance", "target_variance"),
)
VARIANCE_SESSIONS = (1, 5, 22)
"""Sessions of the means in `past_variance`: a day, a week and a month (Corsi 2009, J. Financial Econometrics 7)."""
_VARIANCES = tuple(f"variance_{length}" for length in VARIANCE_SESSIONS)
SIGMA_60 = "sigma_60"
"""Column of σ60 for scores, if the model units have another volatility."""
SMALLEST_SIGMA = 1e-8
"""Daily log-return volatility; below it, prices count as not moving."""


def build_windows(bars: pd.DataFrame, *, ticker: str, config: FeatureConfig) -> pd.DataFrame:
    """Build every window of one ticker with its history, targets, split and features.

    Origins within the indicators' warm-up, windows that cross a border or lie in an embargo, and windows whose prices
    have not moved are left out. Only `target`, `target_dates`, `target_variance` and `split` depend on sessions after
    the origin, and `train_mean` and `train_std`, which describe the whole train split.

    Args:
        bars: As `features.prices.bars.read_csv` returns them.
        ticker: Name of the ticker.
        config: Context, horizon, scope of the indicators, fractions of the splits.

    Returns:
        One row per window, oldest origin first, with `ticker`; `origin` (datetime64[s], last session known); `split`;
        `history` (USD adjusted close, array of shape `(context,)`, last is the price at the origin); `target` (USD,
        `(horizon,)`); `target_dates` (`(horizon,)`); `sigma` (daily log-return standard deviation over the
        `sigma_window` sessions up to the origin; with ``config.sigma = "har"`` that of `har_sigma`, and `sigma_60` has
        the former); `train_mean`, `train_std` (USD, population, over the train rows);
        `past_variance` (mean daily `range_variance` over the `VARIANCE_SESSIONS` sessions up to the origin, `(3,)`);
        `target_variance` (that of each target session, `(horizon,)`); then the columns
        `features.prompts.FEATURE_COLUMNS`: averages, bands, extremes, `mom_10`, `macd` and `trend` (per session) in
        USD, oscillators as they are, timesteps 0 to context - 1, lags within ±1.

    Raises:
        InsufficientHistoryError: A split has no window; names the ticker, the sessions present and those needed.
        TickerNameError: `ticker` is not a valid name.
    """
    validate_ticker(ticker)
    return _as_frame(cut_windows(session_columns(bar_columns(bars), config=config), ticker=ticker, config=config))


def session_columns(bars: Columns, *, config: FeatureConfig, start: int = 0) -> Columns:
    """Compute what is known at each session; neither later sessions nor other splits change it.

    Args:
        bars: Columns as `features.prices.bars.read_csv` returns them, `n` rows.
        config: Context, scope of the indicators and volatility.
        start: First row to return; the values do not depend on it, to the last bit.

    Returns:
        `date`, `adj_close` (USD), `variance_1`, `variance_5`, `variance_22` (means of `range_variance`), `sigma` and
        the columns `features.prompts.FEATURE_COLUMNS` as `build_windows` has them, each of shape `(n - start,)`; NaN
        within the warm-up, whose sessions are not origins.
    """
    close = bars["adj_close"]
    first = min(max(start, _first_origin(config)), len(close))
    origins = np.arange(first, len(close))
    known = {"sigma": _sigma(close, first, config=config)}
    if config.sigma == "har":
        known = {"sigma": _har(bars, config=config)[first:], SIGMA_60: known["sigma"]}
    if len(origins):
        history = sliding_window_view(close, config.context)[origins - config.context + 1]
        known |= {**_indicators(bars, origins, config=config), **window_statistics(history)}
    warm_up = np.full(first - start, np.nan)
    features = {
        name: np.concatenate([warm_up, known.get(name, warm_up[:0])]) for name in _sigmas(config, *FEATURE_COLUMNS)
    }
    return {"date": bars["date"][start:], "adj_close": close[start:], **_variances(bars, start), **features}


def cut_windows(sessions: Columns, *, ticker: str, config: FeatureConfig) -> Columns:
    """Cut the columns of `build_windows` from those of `session_columns` of the whole series.

    Returns:
        Arrays of shape `(n_windows,)`, or `(n_windows, k)` if a cell is an array.

    Raises:
        InsufficientHistoryError: As `build_windows`.
    """
    close, dates = sessions["adj_close"], sessions["date"]
    origins, split = origins_by_split(usable_sessions(sessions), ticker=ticker, config=config)
    after = origins[:, None] + np.arange(1, config.horizon + 1)
    at_origins = {name: values[origins] for name, values in sessions.items()}
    columns = _known_at(at_origins, origins, close=close, ticker=ticker, config=config)
    columns |= {"split": split.astype(object), "target": close[after], "target_dates": dates[after]}
    columns["target_variance"] = sessions[_VARIANCES[0]][after]
    return {name: columns[name] for name in (*WINDOW_COLUMNS, *_sigmas(config, *FEATURE_COLUMNS)[1:])}


def origins_by_split(
    usable: NDArray[np.bool_], *, ticker: str, config: FeatureConfig
) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Find the rows of the windows' origins, ascending, and the split of each.

    Args:
        usable: From `usable_sessions`, one value per session.
        ticker: Name for errors.
        config: Context, horizon and fractions.

    Raises:
        InsufficientHistoryError: As `build_windows`.
    """
    n_rows, first = len(usable), _first_origin(config)
    origins = np.arange(first, n_rows - config.horizon)
    borders = split_borders(n_rows, config)
    split = assign_splits(origins, borders, horizon=config.horizon, embargo=config.embargo)
    inside = {name: split == name for name in SPLITS}
    if not all(each.any() for each in inside.values()):
        empty = " or ".join(name for name, each in inside.items() if not each.any())
        needed = sessions_needed(config, first_origin=first, present=n_rows)
        raise InsufficientHistoryError(
            f"{ticker}: {n_rows} sessions leave no {empty} window; {needed} are needed with context {config.context}, "
            f"horizon {config.horizon} and {first} sessions of warm-up: use a longer price history"
        )
    kept = (split != "") & usable[origins]
    for name, each in inside.items():
        if not (each & kept).any():
            raise InsufficientHistoryError(
                f"{ticker}: the prices do not move in the {name} split, so that there is no volatility to forecast "
                "with; check the data of this ticker"
            )
    return origins[kept], split[kept]


def usable_sessions(sessions: Columns) -> NDArray[np.bool_]:
    """Mark the sessions that can be origins: every feature is defined, and prices have moved; shape `(n,)`."""
    finite = np.logical_and.reduce([np.isfinite(sessions[name]) for name in ("sigma", *FEATURE_COLUMNS)])
    return np.asarray(finite & (sessions["sigma"] > SMALLEST_SIGMA))


def latest_window(bars: pd.DataFrame, *, ticker: str, config: FeatureConfig) -> pd.DataFrame:
    """Build the window whose origin is the last bar; its future is unknown.

    Args:
        bars: As `features.prices.bars.read_csv` returns them.
        ticker: Name of the ticker.
        config: As for `build_windows`.

    Returns:
        One row with the columns of `build_windows` except `split`, `target`, `target_dates` and `target_variance`.

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
    columns = bar_columns(bars)
    last = session_columns(columns, config=config, start=len(bars) - 1)
    if not usable_sessions(last).all():
        raise InsufficientHistoryError(
            f"{ticker}: the prices do not move over the last {config.sigma_window} sessions up to "
            f"{str(last['date'][0])[:10]}, so that there is no volatility to forecast with; check the data"
        )
    origin = np.array([len(bars) - 1])
    return _as_frame(_known_at(last, origin, close=columns["adj_close"], ticker=ticker, config=config))


def _first_origin(config: FeatureConfig) -> int:
    """Row of the earliest origin with a history, a volatility and every indicator."""
    warm_up = SERIES_WARM_UP if config.indicator_scope == "series" else 0
    return max(config.context - 1, config.sigma_min, warm_up)


def _known_at(
    at_origins: Columns,
    origins: NDArray[np.int64],
    *,
    close: NDArray[np.float64],
    ticker: str,
    config: FeatureConfig,
) -> Columns:
    """Build the columns that need no future, from `session_columns` at the origins and the series up to them."""
    train = close[: split_borders(len(close), config).train_end]
    return {
        "ticker": np.full(len(origins), ticker, dtype=object),
        "origin": at_origins["date"],
        "history": sliding_window_view(close, config.context)[origins - config.context + 1],
        **{name: at_origins[name] for name in _sigmas(config)},
        "train_mean": np.full(len(origins), train.mean()),
        "train_std": np.full(len(origins), train.std()),
        "past_variance": np.stack([at_origins[name] for name in _VARIANCES], axis=1),
        **{name: at_origins[name] for name in FEATURE_COLUMNS},
    }


def _sigma(close: NDArray[np.float64], first: int, *, config: FeatureConfig) -> NDArray[np.float64]:
    """Compute the volatility at each session from row `first` on, from as little of the series as needed."""
    before = max(0, first - config.sigma_window)
    return daily_sigma(close[before:], window=config.sigma_window, minimum=config.sigma_min)[first - before :]


def _sigmas(config: FeatureConfig, *columns: str) -> tuple[str, ...]:
    """Return the names of the volatilities of a window, those of the model units first, then other columns."""
    return ("sigma", *((SIGMA_60,) if config.sigma == "har" else ()), *columns)


def _har(bars: Columns, *, config: FeatureConfig) -> NDArray[np.float64]:
    """Compute the HAR volatility at each session; the regression needs the whole series up to it."""
    sigma = daily_sigma(bars["adj_close"], window=config.sigma_window, minimum=config.sigma_min)
    adjusted = adjusted_columns(bars)
    ranges = range_variance(adjusted["high"], adjusted["low"], adjusted["close"])
    means = np.stack([trailing_mean(ranges, length=length) for length in VARIANCE_SESSIONS], axis=1)
    return har_sigma(bars["adj_close"], ranges, means, sigma, horizon=config.horizon)


def _variances(bars: Columns, start: int) -> Columns:
    """Compute `variance_1` and so on at each session from row `start` on."""
    before = max(0, start - VARIANCE_SESSIONS[-1])
    adjusted = adjusted_columns({name: values[before:] for name, values in bars.items()})
    daily = range_variance(adjusted["high"], adjusted["low"], adjusted["close"])
    return {
        name: trailing_mean(daily, length=length)[start - before :]
        for name, length in zip(_VARIANCES, VARIANCE_SESSIONS, strict=True)
    }


def _indicators(bars: Columns, origins: NDArray[np.int64], *, config: FeatureConfig) -> dict[str, NDArray[np.float64]]:
    if config.indicator_scope == "series":
        return {name: values[origins] for name, values in series_indicators(adjusted_columns(bars)).items()}
    high, low, close = (
        sliding_window_view(bars[name], config.context)[origins - config.context + 1]
        for name in ("high", "low", "close")
    )
    inside = window_indicators(high, low, close)
    return {column: inside[name][:, -1] for column, name in FROM_WINDOW.items()}


def _as_frame(columns: Columns) -> pd.DataFrame:
    return pd.DataFrame({name: list(values) if values.ndim > 1 else values for name, values in columns.items()})
