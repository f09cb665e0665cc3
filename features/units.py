"""Prices to integers and back: one model unit is a tenth of a daily standard deviation of log returns."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

CLIP = 300
UNITS_PER_SIGMA = 10.0


def to_model_units(
    prices: ArrayLike, *, origin_price: ArrayLike, sigma: ArrayLike, clip: int = CLIP
) -> NDArray[np.int64]:
    """Write prices as ``round(10 · ln(p / p_origin) / σ)``, clipped to ±`clip`.

    Args:
        prices: USD, shape `(..., k)`; positive.
        origin_price: USD at the origin, shape `(...)`.
        sigma: Standard deviation of daily log returns, shape `(...)`; positive.
        clip: Largest absolute value written.

    Returns:
        Integers of the shape of `prices`; zero is the price at the origin.
    """
    relative = np.log(np.asarray(prices, float) / np.asarray(origin_price, float)[..., None])
    scaled = UNITS_PER_SIGMA * relative / np.asarray(sigma, float)[..., None]
    return np.clip(np.rint(scaled), -clip, clip).astype(np.int64)


def to_prices(values: ArrayLike, *, origin_price: ArrayLike, sigma: ArrayLike) -> NDArray[np.float64]:
    """Read model units as prices: ``p_origin · exp(value · σ / 10)``.

    Args:
        values: Model units, shape `(..., k)`.
        origin_price: USD at the origin, shape `(...)`.
        sigma: Standard deviation of daily log returns, shape `(...)`.

    Returns:
        Prices in USD, of the shape of `values`.
    """
    origin = np.asarray(origin_price, float)[..., None]
    log_return = np.asarray(values, float) * np.asarray(sigma, float)[..., None] / UNITS_PER_SIGMA
    return np.asarray(origin * np.exp(log_return))
