"""Technical indicators by TA-Lib: on the whole causal series, or inside each window as in the published layout.

TA-Lib goes through a series from its oldest value on. So the value at a session depends on that session and earlier
ones only, bit for bit.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import talib

from tickerforge.features.statistics import Array

SERIES_WARM_UP = 59
"""Sessions before the first one at which every indicator of `series_indicators` is defined (the 60-session average)."""

WINDOW_PERIOD = 5
SHORTEST_WINDOW = 2 * WINDOW_PERIOD
"""Sessions that a window needs for all of `window_indicators` (ADX takes twice its period)."""

WINDOW_INDICATORS = (
    *("sma", "ema", "mom", "stoch_k", "stoch_d", "rsi", "macd", "willr", "cci", "adx"),
    *("bbands_upper", "bbands_middle", "bbands_lower"),
)

FROM_WINDOW: dict[str, str] = {
    "sma_20": "sma",
    "sma_60": "sma",
    "ema_20": "ema",
    "bb_upper": "bbands_upper",
    "bb_middle": "bbands_middle",
    "bb_lower": "bbands_lower",
    "rsi_14": "rsi",
    "stoch_k": "stoch_k",
    "stoch_d": "stoch_d",
    "willr_14": "willr",
    "cci_14": "cci",
    "adx_14": "adx",
    "mom_10": "mom",
    "macd": "macd",
}
"""Feature column → the in-window indicator whose last value it holds with `indicator_scope="window"`.

The columns keep their names although the periods shrink to 5 (MACD 2/5); both averages are then the same number.
"""


def series_indicators(bars: pd.DataFrame | Mapping[str, Array]) -> dict[str, Array]:
    """Compute indicators of standard periods on a whole series.

    Averages over 20 and 60 sessions, exponential average 20, Bollinger bands 20 with 2 population standard deviations,
    RSI 14, stochastic 5/3/3 (TA-Lib's default: 5-session %K smoothed over 3, %D its 3-session average), Williams %R 14,
    CCI 14, ADX 14, 10-session momentum and the MACD line 12/26.

    Args:
        bars: Adjusted bars, `n` rows, with `high`, `low`, `close` in USD.

    Returns:
        Column name → values of shape `(n,)`; averages, bands, momentum and MACD in USD; NaN during each warm-up.
    """
    high, low, close = (np.ascontiguousarray(bars[name], dtype=np.float64) for name in ("high", "low", "close"))
    upper, middle, lower = talib.BBANDS(close, timeperiod=20, nbdevup=2.0, nbdevdn=2.0)
    slow_k, slow_d = talib.STOCH(high, low, close, fastk_period=5, slowk_period=3, slowd_period=3)
    macd, _, _ = talib.MACD(close, fastperiod=12, slowperiod=26, signalperiod=9)
    return {
        "sma_20": talib.SMA(close, timeperiod=20),
        "sma_60": talib.SMA(close, timeperiod=60),
        "ema_20": talib.EMA(close, timeperiod=20),
        "bb_upper": upper,
        "bb_middle": middle,
        "bb_lower": lower,
        "rsi_14": talib.RSI(close, timeperiod=14),
        "stoch_k": slow_k,
        "stoch_d": slow_d,
        "willr_14": talib.WILLR(high, low, close, timeperiod=14),
        "cci_14": talib.CCI(high, low, close, timeperiod=14),
        "adx_14": talib.ADX(high, low, close, timeperiod=14),
        "mom_10": talib.MOM(close, timeperiod=10),
        "macd": macd,
    }


def window_indicators(high: Array, low: Array, close: Array) -> dict[str, Array]:
    """Compute the indicators of each window from that window alone, with the short periods of the published layout.

    Period 5 throughout, MACD 2/5 with a signal period of 2 (which costs one value), stochastic 5/3/3, Bollinger bands
    with 2 population standard deviations.

    Args:
        high: Shape `(n, k)`, any scale, `k >= SHORTEST_WINDOW`.
        low: Shape `(n, k)`.
        close: Shape `(n, k)`.

    Returns:
        Each of `WINDOW_INDICATORS` → values of shape `(n, m)`, without the warm-up. For `k = 10`, `m` is 6 for
        averages, bands, Williams %R and CCI, 5 for momentum, RSI and MACD, 2 for the stochastic and 1 for ADX.

    Raises:
        ValueError: The windows are shorter than `SHORTEST_WINDOW`.
    """
    n, length = close.shape
    if length < SHORTEST_WINDOW:
        raise ValueError(f"in-window indicators need windows of at least {SHORTEST_WINDOW} sessions, not {length}")
    period = WINDOW_PERIOD
    high, low, close = (np.ascontiguousarray(values, dtype=np.float64) for values in (high, low, close))
    values = np.empty((len(WINDOW_INDICATORS), n, length))
    for row in range(n):
        h, lo, c = high[row], low[row], close[row]
        values[:, row] = (
            talib.SMA(c, period),
            talib.EMA(c, period),
            talib.MOM(c, period),
            *talib.STOCH(h, lo, c, 5, 3, 0, 3, 0),
            talib.RSI(c, period),
            talib.MACD(c, 2, period, 2)[0],
            talib.WILLR(h, lo, c, period),
            talib.CCI(h, lo, c, period),
            talib.ADX(h, lo, c, period),
            *talib.BBANDS(c, period, 2.0, 2.0),
        )
    warm_up = {"mom": period, "rsi": period, "macd": period, "stoch_k": 8, "stoch_d": 8, "adx": 2 * period - 1}
    return {name: values[i, :, warm_up.get(name, period - 1) :] for i, name in enumerate(WINDOW_INDICATORS)}
