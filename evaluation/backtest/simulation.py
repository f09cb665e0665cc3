"""Trading on median forecasts with costs, beside buying and holding; `positions` has the rules of entry and exit."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tickerforge.evaluation.backtest.performance import (
    SESSIONS_PER_YEAR,
    annual_return,
    deflated_sharpe,
    max_drawdown,
    sharpe,
    sortino,
    total_return,
    volatility,
)
from tickerforge.evaluation.backtest.positions import TICKER_RULES, Market, bought_and_held, market_of, positions
from tickerforge.evaluation.core.config import BacktestConfig
from tickerforge.evaluation.core.contracts import Account, Backtest, Floats, TradingRule
from tickerforge.evaluation.core.panels import Answers, Truth

_DECIMALS = 6


def backtest(
    truth: Truth,
    answers: Sequence[Answers],
    *,
    opens: pd.DataFrame,
    config: BacktestConfig,
    tried: tuple[str, ...],
    variants: int | None = None,
) -> Backtest:
    """Trade on every model's forecasts by every rule, and buy and hold the tickers for comparison.

    * `long_flat`: hold the ticker while the price at the horizon is forecast above the last close, else cash.
    * `long_short`: the same, and sell short while it is forecast below. A forecast of no move holds nothing.
    * `equal_risk`, only for a pool: long or short as forecast, each ticker in inverse proportion to its daily
      volatility at the origin. Long plus short is the capital if all current forecasts of each ticker agree, else less.
    * `mean_variance`, only for a pool: the weights of `evaluation.backtest.positions.mean_variance`.
    * `buy_and_hold`: buy equal parts at the first open and sell them at the last.

    In a pool the first two rules give every ticker an equal part of the capital. Weights are restored at every open.
    All positions are sold at the last known open.

    Args:
        truth: The windows.
        answers: Every model's forecasts of them.
        opens: Columns `ticker date open`: adjusted opens in USD, at least of the sessions of the targets.
        config: Costs, and the number of sessions for the covariances.
        tried: The models from which the best could have been chosen by luck.
        variants: Number of all variants tried, if more than these.

    Raises:
        EvaluationError: A forecast covers a session without a known open.
    """
    market = market_of(truth, opens=opens)
    cost, counted = config.cost_bps / 1e4, max(len(tried), variants or 0, 1)
    books = positions(truth, answers, market=market, config=config)
    accounts = [_account(bought_and_held(market), market, rule="buy_and_hold", cost=cost)[0]]
    for rule, book in books.items():
        made = {model: _account(weights, market, rule=rule, model=model, cost=cost) for model, weights in book.items()}
        ratios = np.array([account.sharpe or np.nan for model, (account, _) in made.items() if model in tried])
        for model, (account, net) in made.items():
            deflated = deflated_sharpe(net, trials=ratios, variants=counted) if model in tried else None
            accounts.append(account.model_copy(update={"deflated_sharpe": deflated}))
    return Backtest(
        split=truth.split,
        dates=tuple(market.sessions[market.first : market.last + 1].tolist()),
        tickers=len(market.tickers),
        hold=truth.horizon,
        cost_bps=config.cost_bps,
        variants=counted,
        accounts=tuple(accounts),
    )


def settle(weights: Floats, returns: Floats, *, cost: float) -> tuple[Floats, Floats]:
    """Compute what an account earns from open to open, and what it trades at each open.

    At the open of a session, trading restores the positions to `weights`, and the capital pays `cost` times the value
    bought or sold. Then the positions earn until the next open. At the last open everything is sold; the last session
    pays for it. An account that loses everything holds nothing from then on.

    Args:
        weights: Positions as shares of the capital, (n, ..., K); the dimensions between are accounts.
        returns: Simple returns from open to open, of the same shape.
        cost: Share of the value traded.

    Returns:
        Net returns (n, ...), and the value traded as a share of the capital at each open (n + 1, ...).
    """
    growth = np.maximum(1 + (weights * returns).sum(axis=-1), 0)
    drifted = np.divide(
        weights * (1 + returns), growth[..., None], out=np.zeros_like(weights), where=growth[..., None] > 0
    )
    nothing = np.zeros_like(weights[:1])
    traded = np.abs(np.concatenate([weights, nothing]) - np.concatenate([nothing, drifted])).sum(axis=-1)
    factor = growth * np.maximum(1 - cost * traded[:-1], 0)
    factor[-1] *= np.maximum(1 - cost * traded[-1], 0)
    ruined = np.concatenate([nothing.sum(axis=-1), np.cumsum(factor == 0, axis=0)[:-1]]) > 0
    return np.where(ruined, 0.0, factor - 1), traded


def _account(
    weights: Floats, market: Market, *, rule: TradingRule, cost: float, model: str = ""
) -> tuple[Account, Floats]:
    """Settle one account, and for a pool also each ticker's own if the rule treats tickers separately.

    Returns:
        The account without its deflated Sharpe ratio, and its net returns.
    """
    net, traded = settle(weights, market.returns, cost=cost)
    alone: dict[str, float] = {}
    if len(market.tickers) > 1 and rule in ("buy_and_hold", *TICKER_RULES):
        own = np.ones_like(weights) if rule == "buy_and_hold" else weights * len(market.tickers)
        each, _ = settle(own[..., None], market.returns[..., None], cost=cost)
        ratios = {str(ticker): sharpe(each[:, place]) for place, ticker in enumerate(market.tickers)}
        alone = {ticker: ratio for ticker, ratio in ratios.items() if ratio is not None}
    account = Account(
        rule=rule,
        model=model,
        total_return=total_return(net),
        annual_return=annual_return(net),
        volatility=volatility(net),
        sharpe=sharpe(net),
        sortino=sortino(net),
        max_drawdown=max_drawdown(net),
        turnover=float(traded.sum() / len(net) * SESSIONS_PER_YEAR),
        exposure=float(np.abs(weights).sum(axis=1).mean()),
        deflated_sharpe=None,
        equity=(1.0, *np.cumprod(1 + net).round(_DECIMALS).tolist()),
        sharpe_by_ticker=alone,
    )
    return account, net
