"""Indicators: TA-Lib's values, causal to the last bit."""

import numpy as np
import pandas as pd
import pytest
import talib

from tickerforge.features.config import SyntheticConfig
from tickerforge.features.indicators import (
    FROM_WINDOW,
    SERIES_WARM_UP,
    WINDOW_INDICATORS,
    series_indicators,
    window_indicators,
)
from tickerforge.features.prices.bars import adjust
from tickerforge.features.synthetic import market


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return adjust(market(SyntheticConfig(sessions=300)))


def test_indicators_equal_talib_on_the_whole_series(bars: pd.DataFrame) -> None:
    high, low, close = (bars[name].to_numpy() for name in ("high", "low", "close"))
    upper, middle, lower = talib.BBANDS(close, 20, 2.0, 2.0)
    slow_k, slow_d = talib.STOCH(high, low, close)
    expected = {
        "sma_20": talib.SMA(close, 20),
        "sma_60": talib.SMA(close, 60),
        "ema_20": talib.EMA(close, 20),
        "bb_upper": upper,
        "bb_middle": middle,
        "bb_lower": lower,
        "rsi_14": talib.RSI(close, 14),
        "stoch_k": slow_k,
        "stoch_d": slow_d,
        "willr_14": talib.WILLR(high, low, close, 14),
        "cci_14": talib.CCI(high, low, close, 14),
        "adx_14": talib.ADX(high, low, close, 14),
        "mom_10": talib.MOM(close, 10),
        "macd": talib.MACD(close, 12, 26, 9)[0],
    }
    found = series_indicators(bars)
    assert found.keys() == expected.keys() == FROM_WINDOW.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_indicators_mean_what_their_names_say(bars: pd.DataFrame) -> None:
    found = series_indicators(bars)
    close = bars["close"]
    np.testing.assert_allclose(found["sma_60"], close.rolling(60).mean(), rtol=1e-10)
    np.testing.assert_allclose(found["mom_10"], close.diff(10), atol=1e-10)
    deviation = close.rolling(20).std(ddof=0)
    np.testing.assert_allclose(found["bb_upper"] - found["bb_middle"], 2 * deviation, rtol=1e-6)
    highest, lowest = bars["high"].rolling(14).max(), bars["low"].rolling(14).min()
    np.testing.assert_allclose(found["willr_14"], -100 * (highest - close) / (highest - lowest), rtol=1e-9)


def test_the_warm_up_is_exactly_as_long_as_stated(bars: pd.DataFrame) -> None:
    defined = np.isfinite(np.stack(list(series_indicators(bars).values()))).all(axis=0)
    assert not defined[:SERIES_WARM_UP].any()
    assert defined[SERIES_WARM_UP:].all()


@pytest.mark.parametrize("cut", [80, 200, 299])
def test_the_future_leaves_no_trace_in_an_indicator(bars: pd.DataFrame, cut: int) -> None:
    changed = bars.copy()
    changed.loc[cut:, ["open", "high", "low", "close"]] *= np.random.default_rng(cut).uniform(0.1, 9, (300 - cut, 1))
    whole, perturbed, short = (series_indicators(frame) for frame in (bars, changed, bars.head(cut)))
    for name in whole:
        np.testing.assert_array_equal(whole[name][:cut], perturbed[name][:cut], err_msg=name)
        np.testing.assert_array_equal(whole[name][:cut], short[name], err_msg=name)


def test_columns_that_are_not_contiguous_or_not_float64_are_accepted() -> None:
    bars = pd.DataFrame(np.arange(1, 301).reshape(100, 3) + np.array([1, -1, 0]), columns=["high", "low", "close"])
    assert np.isfinite(series_indicators(bars)["adx_14"][-1])


def test_window_indicators_see_each_window_alone(bars: pd.DataFrame) -> None:
    high, low, close = (bars[name].to_numpy()[:100].reshape(10, 10) for name in ("high", "low", "close"))
    found = window_indicators(high, low, close)
    assert tuple(found) == WINDOW_INDICATORS
    lengths = {name: values.shape[1] for name, values in found.items()}
    assert lengths == {
        **dict.fromkeys(["sma", "ema", "willr", "cci", "bbands_upper", "bbands_middle", "bbands_lower"], 6),
        **dict.fromkeys(["mom", "rsi", "macd"], 5),
        **dict.fromkeys(["stoch_k", "stoch_d"], 2),
        "adx": 1,
    }
    assert all(np.isfinite(values).all() for values in found.values())
    for row in range(10):
        alone = window_indicators(high[row : row + 1], low[row : row + 1], close[row : row + 1])
        for name in WINDOW_INDICATORS:
            np.testing.assert_array_equal(found[name][row], alone[name][0], err_msg=name)
    np.testing.assert_array_equal(found["mom"], close[:, 5:] - close[:, :5])


def test_windows_too_short_for_adx_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 10 sessions, not 9"):
        window_indicators(*[np.ones((3, 9))] * 3)
