"""Seeded synthetic bars of known dynamics: random walk, mean reversion, momentum, a regime switch, and GARCH."""

from typing import NamedTuple

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


class Garch(NamedTuple):
    """The variance ``h_t = ω + (shock + loss·[r < 0])·r² + memory·h``, with r and h of the session before.

    ω makes the mean of h that of the configured volatility (Glosten, Jagannathan and Runkle 1993, J. Finance 48).
    """

    shock: float
    loss: float
    memory: float

    @property
    def kept(self) -> float:
        """Share of a deviation of h from its mean that is expected to be left a session later."""
        return self.shock + self.loss / 2 + self.memory

    def ahead(self, variance: NDArray[np.float64], returns: NDArray[np.float64], *, mean: float) -> NDArray[np.float64]:
        """Return the variance of the next session."""
        reaction = self.shock + self.loss * (returns < 0)
        return np.asarray((1 - self.kept) * mean + reaction * returns**2 + self.memory * variance)


GARCH = {"garch": Garch(0.10, 0.0, 0.88), "garch_leverage": Garch(0.03, 0.14, 0.88)}


class Path(NamedTuple):
    """Log prices, whether returns have momentum, and the variance of each shock; each of shape `(sessions,)`."""

    prices: NDArray[np.float64]
    trending: NDArray[np.bool_]
    variance: NDArray[np.float64]


def log_prices(
    process: str, *, phi: float, sessions: int, volatility: float, tail: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Simulate log prices around zero, shape `(sessions,)`.

    `random_walk`: x_t = x_{t-1} + ε_t. `mean_reverting`: x_t = φ x_{t-1} + ε_t. `momentum`: r_t = φ r_{t-1} + ε_t and
    x_t = x_{t-1} + r_t. `regime_switch`: momentum or random walk, by a hidden Markov chain that keeps its state with
    probability `STAY`. `garch` and `garch_leverage`: a random walk whose shocks have the variance of `GARCH`, with
    larger variance after losses in the second. ε_t is Student-t with `tail` degrees of freedom, scaled to the standard
    deviation `volatility`.
    """
    return _simulate(process, phi=phi, sessions=sessions, volatility=volatility, tail=tail, rng=rng).prices


def _simulate(
    process: str, *, phi: float, sessions: int, volatility: float, tail: float, rng: np.random.Generator
) -> Path:
    from scipy.signal import lfilter

    shocks = rng.standard_t(tail, size=sessions) * volatility / np.sqrt(tail / (tail - 2))
    always = np.ones(sessions, dtype=bool)
    constant = np.full(sessions, volatility**2)
    match process:
        case "random_walk":
            return Path(np.cumsum(shocks), ~always, constant)
        case "mean_reverting":
            return Path(np.asarray(lfilter([1.0], [1.0, -phi], shocks)), ~always, constant)
        case "momentum":
            return Path(np.cumsum(lfilter([1.0], [1.0, -phi], shocks)), always, constant)
        case "garch" | "garch_leverage":
            variance = constant.copy()
            for session in range(1, sessions):
                variance[session] = GARCH[process].ahead(variance[session - 1], shocks[session - 1], mean=volatility**2)
                shocks[session] *= np.sqrt(variance[session]) / volatility
            return Path(np.cumsum(shocks), ~always, variance)
        case "regime_switch":
            trending = np.cumsum(rng.random(sessions) > STAY) % 2 == 0
            returns = np.empty(sessions)
            last = 0.0
            for session, (shock, coefficient) in enumerate(zip(shocks, np.where(trending, phi, 0.0), strict=True)):
                returns[session] = last = coefficient * last + shock
            return Path(np.cumsum(returns), trending, constant)
    known = "random_walk, mean_reverting, momentum, regime_switch, garch or garch_leverage"
    raise ValueError(f"unknown process {process!r}: use {known}")


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
    path, trending, _ = _simulated(config, rng=np.random.default_rng(config.seed))
    if config.process == "mean_reverting":
        return -path[:, None] * (1 - config.phi ** np.arange(1, horizon + 1))
    if config.process in ("random_walk", *GARCH):
        return np.zeros((config.sessions, horizon))
    stay = STAY if config.process == "regime_switch" else 1.0
    ahead = np.cumsum(returns_ahead(config.phi, stay=stay, horizon=horizon)[1:], axis=0)
    returns = np.diff(path, prepend=0.0)
    return np.asarray(returns[:, None] * ahead[:, np.where(trending, 0, 1)].T)


def possible_moves(
    config: SyntheticConfig, rows: NDArray[np.int64], *, horizon: int, count: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw what may follow sessions of `market(config)`, given its process, history, regime and variance.

    Args:
        config: The market.
        rows: Numbers of the sessions, shape `(n,)`.
        horizon: Sessions ahead.
        count: Draws per session, in pairs with opposite shocks, so that their median has little noise; even.
        rng: Source of the draws.

    Returns:
        Log returns from each session to those 1 ... `horizon` after it, shape `(n, count, horizon)`.
    """
    simulated = _simulated(config, rng=np.random.default_rng(config.seed))
    before = np.diff(simulated.prices, prepend=0.0)[rows][:, None]
    path, variance = simulated.prices[rows][:, None], simulated.variance[rows][:, None]
    trending = simulated.trending[rows][:, None]
    unit = config.volatility / np.sqrt(config.tail / (config.tail - 2))
    last: NDArray[np.float64] = np.broadcast_to(before, (len(rows), count))
    moves = np.empty((len(rows), count, horizon))
    so_far = np.zeros((len(rows), count))
    for ahead in range(horizon):
        drawn = unit * rng.standard_t(config.tail, size=(len(rows), count // 2))
        shocks = np.concatenate([drawn, -drawn], axis=1)
        if config.process in GARCH:
            variance = GARCH[config.process].ahead(variance, last, mean=config.volatility**2)
            shocks = shocks * np.sqrt(variance) / config.volatility
        elif config.process == "regime_switch":
            trending = trending ^ np.tile(rng.random((len(rows), count // 2)) > STAY, 2)
        if config.process == "mean_reverting":
            last = (config.phi - 1) * (path + so_far) + shocks
        else:
            last = np.where(trending, config.phi, 0.0) * last + shocks
        so_far = so_far + last
        moves[:, :, ahead] = so_far
    return moves


def bars_from_log_prices(
    log_price: NDArray[np.float64], *, rng: np.random.Generator, volatility: NDArray[np.float64] | None = None
) -> pd.DataFrame:
    """Make bars of log closes: open near the last close, high and low around both, volume log-normal.

    Args:
        log_price: Natural logarithms of the closes relative to the start price, shape `(sessions,)`.
        rng: Source of the intraday noise.
        volatility: Standard deviation of each session's return, shape `(sessions,)`, to which the ranges are
            proportional; without it, that of all returns.

    Returns:
        Bars with the columns `date open high low close adj_close volume`; close and adj_close are equal.
    """
    sessions = len(log_price)
    daily = (float(np.std(np.diff(log_price))) or 0.01) if volatility is None else volatility
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


def _simulated(config: SyntheticConfig, *, rng: np.random.Generator) -> Path:
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
    path = _simulated(config, rng=rng)
    varying = np.sqrt(path.variance) if config.process in GARCH else None
    return bars_from_log_prices(path.prices, rng=rng, volatility=varying)
