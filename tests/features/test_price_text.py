"""Prices as text: the decimals follow from the size of the price."""

import pytest

from tickerforge.features.price_text import price_text


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        (0.0000213, "0.0000213"),
        (0.0123, "0.0123"),
        (0.3712, "0.3712"),
        (1.1623, "1.1623"),
        (95.53, "95.53"),
        (1234.5, "1,234.50"),
        (271062.0, "271,062"),
        (0.0, "0"),
        (-0.3712, "-0.3712"),
    ],
)
def test_a_price_has_the_decimals_that_its_size_needs(price: float, expected: str) -> None:
    assert price_text(price) == expected


def test_the_prices_of_a_table_have_the_decimals_of_one_of_them_and_the_currency_if_it_is_known() -> None:
    assert price_text(9.9, like=10.2) == "9.90"
    assert price_text(271062.0, currency="KRW") == "271,062 KRW"
