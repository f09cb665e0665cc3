"""Forecasts of the protocol's test windows that anybody can make: last value, own drift, drift common to all."""

import numpy as np

from tickerforge.evaluation.core.contracts import Floats
from tickerforge.evaluation.core.protocol import HORIZON, Protocol, Series, common_border

AHEAD = np.arange(1, HORIZON + 1)
MIN_RETURNS = 20


def persistence(protocol: Protocol) -> Floats:
    """The price at the origin, repeated: (n, HORIZON) in USD."""
    return np.repeat(protocol.origin_price[:, None], HORIZON, axis=1)


def drift(protocol: Protocol) -> Floats:
    """A random walk with each ticker's own drift: ``p + k·d``, (n, HORIZON) in USD.

    d is the mean daily change over the ticker's train rows, ``(last - first) / (rows - 1)`` (Hyndman and
    Athanasopoulos, Forecasting: Principles and Practice, "drift method").
    """
    daily = np.array([(each.train[-1] - each.train[0]) / (len(each.train) - 1) for each in protocol.series])
    return protocol.origin_price[:, None] + daily[protocol.place][:, None] * AHEAD


def common_drift(protocol: Protocol) -> Floats:
    """A random walk with a drift shrunk towards that of all tickers: ``p·exp(k·s·σ)``, (n, HORIZON) in USD.

    A ticker's mean daily log return over its standard deviation σ is a number of which nobody knows much: over n train
    sessions its standard error is ``1/sqrt(n)``. The estimates x of all tickers are therefore shrunk towards their mean
    by what they vary more than chance alone would make them: ``s = mean + c·(x - mean)`` with
    ``c = max(0, 1 - mean(1/n) / var(x))`` (empirical Bayes; Efron and Morris 1975, JASA 70). Common moves of all
    tickers are no chance of one alone and stay in the mean.

    Only returns up to the earliest end of a train split count; a ticker without `MIN_RETURNS` of them gets the mean. σ
    is that of the ticker's own train rows.
    """
    border = common_border(protocol.series)
    found = [log_returns(each)[each.dates[1 : each.train_end] <= border] for each in protocol.series]
    ratios = np.array([_ratio(returns) for returns in found])
    known = ~np.isnan(ratios)
    if not known.any():
        return persistence(protocol)
    mean = ratios[known].mean()
    chance = np.mean([1 / len(returns) for returns in found if len(returns) >= MIN_RETURNS])
    spread = ratios[known].var(ddof=1) if known.sum() > 1 else 0.0
    kept = max(0.0, 1 - chance / spread) if spread else 0.0
    shrunk = np.where(known, mean + kept * (ratios - mean), mean)
    daily = shrunk * np.array([log_returns(each).std() for each in protocol.series])
    return protocol.origin_price[:, None] * np.exp(daily[protocol.place][:, None] * AHEAD)


def log_returns(series: Series) -> Floats:
    """Daily log returns within the train rows, shape (train_end - 1,)."""
    return np.diff(np.log(series.train))


def _ratio(returns: Floats) -> float:
    if len(returns) < MIN_RETURNS or not returns.std():
        return float("nan")
    return float(returns.mean() / returns.std())
