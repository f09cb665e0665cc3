"""Random walks as the protocol's tickers, with histories that begin on different dates."""

import numpy as np

from tickerforge.evaluation.core.protocol import Protocol, Series, protocol_of

SESSIONS = np.arange(np.datetime64("2012-01-02"), np.datetime64("2019-01-01")).astype("datetime64[D]")


def walk(
    ticker: str, *, seed: int, sessions: int = 400, first: int = 0, daily: float = 0.0, phi: float = 0.0
) -> Series:
    """Build a log random walk with a drift of `daily` per session and returns of autocorrelation `phi`."""
    shocks = 0.015 * np.random.default_rng(seed).standard_normal(sessions)
    returns = np.empty(sessions)
    returns[0] = shocks[0]
    for place in range(1, sessions):
        returns[place] = phi * returns[place - 1] + shocks[place]
    prices = 50 * np.exp(np.cumsum(returns + daily))
    dates = SESSIONS[first : first + sessions]
    return Series(ticker, dates, prices, int(0.7 * sessions), sessions - int(0.2 * sessions))


def three(**options: float) -> Protocol:
    """Build two tickers of equal length, and a third whose train rows are in the test years of the others."""
    return protocol_of(
        [walk("AAA", seed=1, **options), walk("BBB", seed=2, **options), walk("LATE", seed=3, first=300, **options)]
    )
