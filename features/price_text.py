"""Prices as text: as many decimals as their size needs."""

import math


def price_decimals(price: float) -> int:
    """Return the decimals with which a price of this size is read: 0.0000213, 0.3712, 1.1623, 95.53, 271,062.

    Args:
        price: Of any currency and sign.
    """
    size = abs(price)
    if size >= 10_000 or size == 0:
        return 0
    if size >= 10:
        return 2
    # Below 0.1: three significant digits.
    return max(4, 2 - math.floor(math.log10(size)))


def price_text(price: float, *, like: float | None = None, currency: str = "") -> str:
    """Write a price with separated thousands.

    Args:
        price: The price.
        like: A price whose decimals are taken, so that the prices of one table have the same; by default its own.
        currency: Code that follows, such as EUR, if it is known.
    """
    text = f"{price:,.{price_decimals(price if like is None else like)}f}"
    return f"{text} {currency}" if currency else text
