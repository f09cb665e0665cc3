"""Positions that follow from median forecasts; each is known on the evening before its session.

The forecast of origin t is held over the sessions that it covers: it is entered at the open of the first and closed at
the open after the last. With an origin every session, h forecasts are held at a time. The position is their mean, as if
each had 1/h of the capital (Jegadeesh and Titman 1993, JF 48). Rebalancing every h sessions instead would use one
forecast in h, and the result would depend on the first day. If only some windows were forecast, the mean is over the
forecasts that are held; if there are none, the position is zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tickerforge.evaluation.core.config import BacktestConfig
from tickerforge.evaluation.core.contracts import Floats, Ints, TradingRule
from tickerforge.evaluation.core.errors import EvaluationError
from tickerforge.evaluation.core.panels import Answers, Dates, Truth, session_dates

TICKER_RULES: tuple[TradingRule, ...] = ("long_flat", "long_short")
RULES: tuple[TradingRule, ...] = (*TICKER_RULES, "equal_risk", "mean_variance")
REFIT_SESSIONS = 10


@dataclass(frozen=True)
class Market:
    """The prices that could be traded: T sessions of K tickers, including those before the backtest.

    `opens` (T, K) are adjusted opens in USD; without a session of a ticker it is its last known open. `traded` (T, K)
    is true if the ticker has a session. Positions begin in row `first`; at the open of row `last` everything is sold.
    `held` (n, h) are the rows over which a window's forecast is held, and `places` (n,) the column of its ticker.
    """

    sessions: Dates
    tickers: NDArray[np.object_]
    opens: Floats
    traded: NDArray[np.bool_]
    first: int
    last: int
    held: Ints
    places: Ints

    @property
    def returns(self) -> Floats:
        """Simple returns from each open to the next, (last - first, K); 0 before a ticker's first session."""
        opens = self.opens[self.first : self.last + 1]
        return np.nan_to_num(opens[1:] / opens[:-1] - 1)


def market_of(truth: Truth, *, opens: pd.DataFrame) -> Market:
    """Align the opens with the windows.

    Raises:
        EvaluationError: A forecast covers a session without a known open.
    """
    tickers, places = np.unique(truth.tickers.astype(str), return_inverse=True)
    mine = opens[opens["ticker"].isin(set(tickers))]
    table = mine.assign(date=session_dates(mine["date"]).astype("datetime64[s]")).pivot(
        index="date", columns="ticker", values="open"
    )
    table = table.reindex(columns=tickers)
    sessions = session_dates(table.index.to_series())
    known = np.isfinite(table.to_numpy(float))
    held = np.minimum(np.searchsorted(sessions, truth.target_dates), max(len(sessions) - 1, 0)).astype(np.int64)
    there = len(sessions) > 0
    found = (sessions[held] == truth.target_dates) & known[held, places[:, None]] if there else np.array([[False]])
    if not found.all():
        row, step = np.argwhere(~found)[0]
        raise EvaluationError(
            f"{truth.tickers[row]}: a forecast covers {truth.target_dates[row, step]}, but the prices have no open of "
            "that day: they are not the prices from which the windows were built"
        )
    return Market(
        sessions=sessions,
        tickers=tickers.astype(object),
        opens=table.ffill().to_numpy(float),
        traded=known,
        first=int(held.min()),
        last=min(int(held.max()) + 1, len(sessions) - 1),
        held=held,
        places=places.astype(np.int64),
    )


def positions(
    truth: Truth, answers: Sequence[Answers], *, market: Market, config: BacktestConfig
) -> dict[TradingRule, dict[str, Floats]]:
    """Compute what each rule holds from each open to the next, as shares of the capital, negative for short.

    The row of a session does not depend on the open of that session or on anything after it.

    Returns:
        Positions (sessions, tickers) by rule and model; for a single ticker only `TICKER_RULES`.
    """
    count = _under_way(np.ones(len(truth.origins)), market)
    share = 1 / np.maximum(count, 1)
    calm = _under_way(1 / truth.sigma, market) * share
    whole = np.maximum(calm.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    alone = len(market.tickers) == 1
    books: dict[TradingRule, dict[str, Floats]] = {rule: {} for rule in (TICKER_RULES if alone else RULES)}
    expected = {}
    for each in answers:
        move = np.log(each.median[:, -1] / truth.origin_price)
        long = _under_way((move > 0).astype(float), market) * share
        both = _under_way(np.sign(move), market) * share
        books["long_flat"][each.model] = _as_traded(long / len(market.tickers), market)
        books["long_short"][each.model] = _as_traded(both / len(market.tickers), market)
        if not alone:
            tilted = _under_way(np.sign(move) / truth.sigma, market) * share
            books["equal_risk"][each.model] = _as_traded(tilted / whole, market)
            expected[each.model] = _under_way(move / truth.horizon, market) * share
    if not alone:
        optimal = mean_variance(expected, market=market, under_way=count > 0, history=config.covariance_sessions)
        books["mean_variance"] = {model: _as_traded(weights, market) for model, weights in optimal.items()}
    return books


def mean_variance(
    expected: Mapping[str, Floats], *, market: Market, under_way: NDArray[np.bool_], history: int
) -> dict[str, Floats]:
    """Compute the tangency portfolio ``w ∝ Σ⁻¹ μ`` whose long plus short is the capital (Markowitz 1952, JF 7).

    μ is the mean forecast log return per session. Σ is the covariance of the log returns from open to open over the
    `history` sessions before the day, shrunk by Ledoit and Wolf's rule (2004, JMVA 88; scikit-learn's). It changes
    slowly, so it is estimated again only every `REFIT_SESSIONS`. The portfolio holds tickers with a current forecast
    and a complete history.

    Args:
        expected: Log returns (sessions, tickers) by model.
        market: The opens.
        under_way: True if a forecast is held, (sessions, tickers).
        history: Number of sessions.

    Returns:
        Weights (sessions, tickers) by model; zero if no move is forecast or fewer than two returns are known.
    """
    from sklearn.covariance import LedoitWolf

    models = list(expected)
    stacked = np.stack([expected[model] for model in models], axis=-1)
    weights = np.zeros_like(stacked)
    moves = np.diff(np.log(market.opens), axis=0)
    for day in range(len(stacked)):
        # The return to the day's own open is not known yet: the last one known ends at the open before.
        until = max(market.first + day - 1, 0)
        if day % REFIT_SESSIONS == 0:
            known = moves[max(until - history, 0) : until]
            whole = np.isfinite(known).all(axis=0) & np.bool_(len(known) > 1)
            covariance = np.zeros((len(market.tickers), len(market.tickers)))
            if whole.any():
                covariance[np.ix_(whole, whole)] = LedoitWolf().fit(known[:, whole]).covariance_
        live = np.flatnonzero(under_way[day] & (np.diag(covariance) > 0))
        if len(live):
            weights[day, live] = np.linalg.solve(covariance[np.ix_(live, live)], stacked[day, live])
    size = np.abs(weights).sum(axis=1, keepdims=True)
    weights = np.divide(weights, size, out=np.zeros_like(weights), where=size > 0)
    return {model: weights[:, :, place] for place, model in enumerate(models)}


def bought_and_held(market: Market) -> Floats:
    """Return the weights (sessions, tickers) of equal parts that are bought once and grow with their prices."""
    growth = np.cumprod(1 + market.returns, axis=0)
    value = np.concatenate([np.ones_like(growth[:1]), growth[:-1]])
    return value / value.sum(axis=1, keepdims=True)


def _under_way(values: Floats, market: Market) -> Floats:
    """Sum the values (n,) of the windows whose forecasts are held, (sessions, tickers)."""
    shape = (market.last - market.first, len(market.tickers))
    row = market.held - market.first
    inside = row < shape[0]
    cell = (row * shape[1] + market.places[:, None])[inside]
    spread = np.broadcast_to(values[:, None], row.shape)[inside]
    return np.asarray(np.bincount(cell, weights=spread, minlength=shape[0] * shape[1]).reshape(shape), dtype=float)


def _as_traded(weights: Floats, market: Market) -> Floats:
    """Keep the position of a ticker without a session; after the last session of a ticker its position is zero."""
    traded = market.traded[market.first : market.last]
    if traded.all():
        return weights
    return pd.DataFrame(np.where(traded, weights, np.nan)).ffill(limit_area="inside").fillna(0.0).to_numpy(float)
