"""Model units: a tenth of a daily standard deviation, there and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerforge.features.units import CLIP, to_model_units, to_prices

SIGMA = st.floats(1e-4, 0.2)
PRICE = st.floats(1e-2, 1e6)


def test_ten_units_are_one_daily_standard_deviation() -> None:
    prices = 100 * np.exp(0.02 * np.array([0.0, 1.0, -1.0, 2.5]))
    assert to_model_units(prices, origin_price=100.0, sigma=0.02).tolist() == [0, 10, -10, 25]
    np.testing.assert_allclose(to_prices([0, 10, -10, 25], origin_price=100.0, sigma=0.02), prices)


@given(st.lists(st.integers(-CLIP, CLIP), min_size=1, max_size=20), PRICE, SIGMA)
def test_units_survive_the_way_to_prices_and_back(values: list[int], origin: float, sigma: float) -> None:
    prices = to_prices(values, origin_price=origin, sigma=sigma)
    assert to_model_units(prices, origin_price=origin, sigma=sigma).tolist() == values


@given(st.lists(st.floats(-2.9, 2.9), min_size=1, max_size=20), PRICE, SIGMA)
def test_prices_survive_to_within_half_a_unit(moves: list[float], origin: float, sigma: float) -> None:
    prices = origin * np.exp(np.array(moves) * 10 * sigma)
    units = to_model_units(prices, origin_price=origin, sigma=sigma)
    error = np.log(to_prices(units, origin_price=origin, sigma=sigma) / prices)
    assert (np.abs(error) <= sigma / 10 * 0.5 * (1 + 1e-6)).all()


@given(st.lists(st.floats(1e-2, 1e6), min_size=2, max_size=20), PRICE, SIGMA)
def test_units_keep_the_order_of_prices_and_stay_within_the_clip(
    prices: list[float], origin: float, sigma: float
) -> None:
    units = to_model_units(sorted(prices), origin_price=origin, sigma=sigma)
    assert (np.diff(units) >= 0).all()
    assert (np.abs(units) <= CLIP).all()


def test_rows_have_their_own_origin_and_sigma() -> None:
    values = np.array([[10, -20, 0], [5, 300, -300]])
    prices = to_prices(values, origin_price=[50.0, 2000.0], sigma=[0.01, 0.03])
    assert prices[0] == pytest.approx(50 * np.exp(np.array([0.01, -0.02, 0.0])))
    np.testing.assert_array_equal(to_model_units(prices, origin_price=[50.0, 2000.0], sigma=[0.01, 0.03]), values)
