"""Seeded synthetic bars whose dynamics are known: random walk, mean reversion, momentum, and a switch between them."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tickerforge.features.config import SyntheticConfig

FIRST_SESSION = "2015-01-02"
START_PRICE = 100.0
OPEN_NOISE = 0.25
RANGE_NOISE = 0.35
STAY = 0.99
"""Probability that the regime-switching process stays in its regime from one session to the next."""


def log_prices(
    process: str, *, phi: float, sessions: int, volatility: float, tail: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Simulate log prices around zero, shape `(sessions,)`.

    `random_walk`: x_t = x_{t-1} + ε_t. `mean_reverting`: x_t = φ x_{t-1} + ε_t. `momentum`: r_t = φ r_{t-1} + ε_t and
    x_t = x_{t-1} + r_t. `regime_switch`: momentum or random walk, by a hidden Markov chain that keeps its state with
    probability `STAY`. ε_t is Student-t with `tail` degrees of freedom, scaled to the standard deviation `volatility`.
    """
    return _simulate(process, phi=phi, sessions=sessions, volatility=volatility, tail=tail, rng=rng)[0]


def _simulate(
    process: str, *, phi: float, sessions: int, volatility: float, tail: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Simulate log prices, and whether returns have momentum at each session; both of shape `(sessions,)`."""
    from scipy.signal import lfilter

    shocks = rng.standard_t(tail, size=sessions) * volatility / np.sqrt(tail / (tail - 2))
    always = np.ones(sessions, dtype=bool)
    match process:
        case "random_walk":
            return np.cumsum(shocks), ~always
        case "mean_reverting":
            return np.asarray(lfilter([1.0], [1.0, -phi], shocks)), ~always
        case "momentum":
            return np.cumsum(lfilter([1.0], [1.0, -phi], shocks)), always
        case "regime_switch":
            trending = np.cumsum(rng.random(sessions) > STAY) % 2 == 0
            returns = np.empty(sessions)
            last = 0.0
            for session, (shock, coefficient) in enumerate(zip(shocks, np.where(trending, phi, 0.0), strict=True)):
                returns[session] = last = coefficient * last + shock
            return np.cumsum(returns), trending
    raise ValueError(f"unknown process {process!r}: use random_walk, mean_reverting, momentum or regime_switch")


def returns_ahead(phi: float, *, stay: float, horizon: int) -> NDArray[np.float64]:
    """Compute the returns to expect after a return of 1, by the regime in which that return fell.

    Args:
        phi: Coefficient of the returns in the regime of momentum; in the other regime they are independent.
        stay: Probability that the regime stays the same from one session to the next.
        horizon: Sessions ahead.

    Returns:
        Expected returns, shape `(horizon + 1, 2)`, from 0 sessions ahead on; columns: momentum, random walk.
    """
    step = np.array([[stay, 1 - stay], [1 - stay, stay]]) * np.array([phi, 0.0])
    return np.array([np.linalg.matrix_power(step, ahead) @ np.ones(2) for ahead in range(horizon + 1)])


def expected_moves(config: SyntheticConfig, *, horizon: int) -> NDArray[np.float64]:
    """Compute the best possible forecast of `market(config)`, from its process, parameters, history and regime.

    Returns:
        Expected log returns from each session to those 1 ... `horizon` after it, shape `(sessions, horizon)`.
    """
    path, trending = _simulated(config, rng=np.random.default_rng(config.seed))
    if config.process == "mean_reverting":
        return -path[:, None] * (1 - config.phi ** np.arange(1, horizon + 1))
    if config.process == "random_walk":
        return np.zeros((config.sessions, horizon))
    stay = STAY if config.process == "regime_switch" else 1.0
    ahead = np.cumsum(returns_ahead(config.phi, stay=stay, horizon=horizon)[1:], axis=0)
    returns = np.diff(path, prepend=0.0)
    return np.asarray(returns[:, None] * ahead[:, np.where(trending, 0, 1)].T)


def bars_from_log_prices(log_price: NDArray[np.float64], *, rng: np.random.Generator) -> pd.DataFrame:
    """Make bars of log closes: open near the last close, high and low around both, volume log-normal.

    Args:
        log_price: Natural logarithms of the closes relative to the start price, shape `(sessions,)`.
        rng: Source of the intraday noise.

    Returns:
        Bars with the columns `date open high low close adj_close volume`; close and adj_close are equal.
    """
    sessions = len(log_price)
    daily = float(np.std(np.diff(log_price))) or 0.01
    close = START_PRICE * np.exp(log_price)
    previous = np.concatenate([close[:1], close[:-1]])
    open_ = previous * np.exp(rng.normal(0.0, OPEN_NOISE * daily, sessions))
    reach = np.abs(rng.normal(0.0, RANGE_NOISE * daily, (2, sessions)))
    return pd.DataFrame(
        {
            "date": pd.bdate_range(FIRST_SESSION, periods=sessions).astype("datetime64[s]"),
            "open": open_,
            "high": np.maximum(open_, close) * np.exp(reach[0]),
            "low": np.minimum(open_, close) * np.exp(-reach[1]),
            "close": close,
            "adj_close": close,
            "volume": np.rint(np.exp(rng.normal(14.0, 0.3, sessions))),
        }
    )


def _simulated(config: SyntheticConfig, *, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    return _simulate(
        config.process,
        phi=config.phi,
        sessions=config.sessions,
        volatility=config.volatility,
        tail=config.tail,
        rng=rng,
    )


def market(config: SyntheticConfig) -> pd.DataFrame:
    """Simulate the bars of one synthetic ticker, the same for the same configuration.

    Returns:
        A frame as `features.prices.bars.read_csv` returns it, on business days from 2015-01-02.
    """
    rng = np.random.default_rng(config.seed)
    path, _ = _simulated(config, rng=rng)
    return bars_from_log_prices(path, rng=rng)
