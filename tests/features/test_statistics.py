"""Statistics of windows, and the volatility behind model units."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tickerforge.features.config import SyntheticConfig
from tickerforge.features.statistics import (
    autocorrelation,
    daily_sigma,
    extremes,
    range_variance,
    trailing_mean,
    trend,
    window_statistics,
)
from tickerforge.features.synthetic import market

WINDOWS = arrays(
    np.float64, st.tuples(st.integers(1, 5), st.integers(4, 20)), elements=st.floats(1, 1000, allow_nan=False, width=32)
)


def test_extremes_of_a_window_worked_by_hand() -> None:
    found = extremes(np.array([[3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 9.0, 8.0]]))
    assert {name: value[0] for name, value in found.items()} == {
        "min": 1.0,
        "min_timestep": 1,
        "max": 9.0,
        "max_timestep": 5,
        "mean": 4.8,
        "median": 4.0,
        "median_timestep": 2,
    }


def test_the_median_of_equal_values_stands_where_a_stable_sort_puts_the_middle() -> None:
    found = extremes(np.array([[5.0, 1.0, 2.0, 3.0, 5.0, 5.0, 4.0, 5.0, 6.0, 7.0]]))
    assert (found["median"][0], found["median_timestep"][0]) == (5.0, 0)
    found = extremes(np.array([[5.0, 1.0, 2.0, 3.0, 5.0, 6.0, 7.0, 8.0, 9.0, 9.0], [2.0] * 10]))
    assert found["median_timestep"].tolist() == [4, 4]


@given(WINDOWS)
@settings(max_examples=50, deadline=None)
def test_extremes_stand_where_their_timesteps_say(windows: np.ndarray) -> None:
    found = extremes(windows)
    rows = np.arange(len(windows))
    for name in ("min", "max", "median"):
        np.testing.assert_array_equal(windows[rows, found[f"{name}_timestep"]], found[name])
    below = (windows < found["median"][:, None]).sum(axis=1)
    above = (windows > found["median"][:, None]).sum(axis=1)
    assert (below <= (windows.shape[1] - 1) // 2).all()
    assert (above <= windows.shape[1] // 2).all()


@given(WINDOWS)
@settings(max_examples=50, deadline=None)
def test_trend_is_the_slope_of_a_fitted_line(windows: np.ndarray) -> None:
    fitted = np.polyfit(np.arange(windows.shape[1]), windows.T, 1)[0]
    np.testing.assert_allclose(trend(windows), fitted, atol=1e-9)


def test_autocorrelation_worked_by_hand_and_zero_where_undefined() -> None:
    window = np.array([[1.0, 2.0, 3.0, 4.0], [7.0, 7.0, 7.0, 7.0], [0.1, 0.1, 0.1, 0.1]])
    np.testing.assert_allclose(autocorrelation(window, lag=1), [1.25 / 5, 0.0, 0.0])
    np.testing.assert_allclose(autocorrelation(window, lag=3), [-2.25 / 5, 0.0, 0.0])
    assert autocorrelation(window, lag=4).tolist() == [0.0, 0.0, 0.0]


@given(WINDOWS)
@settings(max_examples=50, deadline=None)
def test_lags_lie_within_one_and_do_not_depend_on_the_other_windows(windows: np.ndarray) -> None:
    together = window_statistics(windows)
    for lag in (1, 2, 3):
        assert (np.abs(together[f"lag_{lag}"]) <= 1 + 1e-12).all()
    for row in range(len(windows)):
        alone = window_statistics(windows[row : row + 1])
        for name, values in together.items():
            assert values[row] == alone[name][0], name


def test_sigma_is_the_rolling_deviation_of_log_returns() -> None:
    close = market(SyntheticConfig(sessions=200))["adj_close"]
    returns = np.log(close).diff()
    expected = returns.rolling(60, min_periods=20).std()
    found = daily_sigma(close.to_numpy(), window=60, minimum=20)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    assert np.isnan(found[:20]).all()
    assert np.isfinite(found[20:]).all()


def test_sigma_does_not_know_the_future_and_forgets_the_distant_past() -> None:
    close = market(SyntheticConfig(sessions=200))["adj_close"].to_numpy()
    sigma = daily_sigma(close, window=60, minimum=20)
    np.testing.assert_array_equal(daily_sigma(close[:120], window=60, minimum=20), sigma[:120])
    np.testing.assert_array_equal(daily_sigma(close[50:], window=60, minimum=20)[60:], sigma[110:])


def test_sigma_of_prices_that_stand_still_is_zero_and_of_one_price_undefined() -> None:
    assert daily_sigma(np.full(30, 12.3), window=20, minimum=5)[-1] == 0
    assert np.isnan(daily_sigma(np.array([5.0]), window=20, minimum=5)).all()


def test_sigma_minimum_counts_returns() -> None:
    close = pd.Series(np.exp(np.arange(10) % 3)).to_numpy()
    assert np.isfinite(daily_sigma(close, window=5, minimum=4)).tolist() == [False] * 4 + [True] * 6


def test_the_range_of_a_finely_observed_walk_estimates_its_variance() -> None:
    steps = 0.01 / np.sqrt(4000) * np.random.default_rng(0).standard_normal((2000, 4000))
    path = np.concatenate([[0.0], steps.ravel().cumsum()])
    inside = np.exp(path[np.arange(2000)[:, None] * 4000 + np.arange(4001)])
    found = range_variance(inside.max(axis=1), inside.min(axis=1), inside[:, -1])
    assert np.isnan(found[0])
    assert abs(found[1:].mean() / 0.01**2 - 1) < 0.05


def test_a_gap_counts_and_without_a_range_the_variance_is_the_squared_return() -> None:
    close = np.array([100.0, 110.0, 99.0])
    squares = np.diff(np.log(close)) ** 2 / (4 * np.log(2))
    np.testing.assert_allclose(range_variance(close, close, close)[1:], squares)


def test_a_trailing_mean_takes_the_known_values_up_to_each_one() -> None:
    found = trailing_mean(np.array([np.nan, 2.0, 4.0, 9.0]), length=2)
    np.testing.assert_array_equal(found, [np.nan, 2.0, 3.0, 6.5])
