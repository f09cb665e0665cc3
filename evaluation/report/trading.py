"""The backtest as readers see it: the table as text, and what it says in sentences."""

import numpy as np

from tickerforge.evaluation.comparison.contamination import parity
from tickerforge.evaluation.core.contracts import DRIFT, PERSISTENCE, Account, EvalReport, Rule
from tickerforge.evaluation.core.labels import Metric, model_label

RULE_LABELS: dict[Rule, str] = {
    "buy_and_hold": "Buy and hold",
    "long_flat": "Long or flat",
    "long_short": "Long or short",
    "equal_risk": "Equal risk",
    "mean_variance": "Mean-variance",
}
RULE_DEFINITIONS: dict[Rule, str] = {
    "buy_and_hold": "bought at the first open, sold at the last",
    "long_flat": "in the market while the last session ahead is forecast above the last close, else in cash",
    "long_short": "the same, and sold short while it is forecast below; a forecast of no move holds nothing",
    "equal_risk": "every ticker long or short as forecast, in inverse proportion to its daily volatility",
    "mean_variance": "all tickers in proportion to the inverse covariance of their returns times the forecast returns",
}
COLUMNS: dict[str, Metric] = {
    "annual_return": Metric("Return", "a year", "", "costs paid.", percent=True, decimals=1, signed=True),
    "volatility": Metric("Volatility", "a year", "", "standard deviation of the returns.", percent=True, decimals=1),
    "sharpe": Metric("Sharpe", "a year", "", "mean return over its standard deviation.", decimals=2, signed=True),
    "sortino": Metric("Sortino", "a year", "", "mean return over that of the losses alone.", decimals=2, signed=True),
    "max_drawdown": Metric(
        "Drawdown", "", "", "largest fall of the capital below an earlier height.", percent=True, decimals=1
    ),
    "turnover": Metric("Turnover", "a year", "", "bought plus sold, in multiples of the capital.", decimals=1),
    "exposure": Metric("Held", "", "", "long plus short, mean share of the capital.", percent=True, decimals=0),
    "deflated_sharpe": Metric(
        "Deflated Sharpe",
        "",
        "",
        "chance that the true Sharpe ratio is above zero, the best of all forecasters tried having been looked for; "
        "0.95 is the customary bar.",
        decimals=2,
    ),
}


def backtest_rows(report: EvalReport) -> list[tuple[str, ...]]:
    """Every account as text, a head row first; nothing where there was no backtest."""
    if report.backtest is None:
        return []
    head = ("Rule", "Forecaster", *(column.header for column in COLUMNS.values()))
    body = [
        (
            RULE_LABELS[account.rule],
            model_label(account.model) if account.model else "–",
            *(column.write(getattr(account, name)) for name, column in COLUMNS.items()),
        )
        for account in report.backtest.accounts
    ]
    return [head, *body]


def trading_rules(report: EvalReport) -> str:
    """How the accounts of the table came about; empty without a backtest."""
    found = report.backtest
    if found is None:
        return ""
    mark = parity(report, found.split)
    return (
        f"{mark + ' ' if mark else ''}From {found.dates[0]:%-d %B %Y} to {found.dates[-1]:%-d %B %Y}. A position is "
        f"taken at the open after a forecast's origin and held over the {found.hold} sessions that the forecast is "
        "about; forecasts under way at the same time share the capital. Every purchase and every sale costs "
        f"{found.cost_bps:g} basis points. {model_label(PERSISTENCE)} forecasts no move and so never trades. Cash "
        f"earns nothing, and borrowing shares costs nothing. Forecasters counted as tried: {found.variants}."
    )


def trading_finding(report: EvalReport) -> str:
    """What trading on the chosen adapter came to, beside drift's and holding, in one sentence; empty without either."""
    own, held = _account(report), _held(report)
    if own is None or held is None or report.backtest is None or report.chosen is None:
        return ""
    drift = report.backtest.of(own.rule, DRIFT)
    write = COLUMNS["annual_return"].write
    return (
        f"{RULE_LABELS[own.rule]} by {model_label(report.chosen)} returned {write(own.annual_return)} a year after "
        f"costs, by drift {write(drift.annual_return if drift else None)}, holding {write(held.annual_return)}; "
        f"deflated Sharpe {COLUMNS['deflated_sharpe'].write(own.deflated_sharpe)}"
    )


def trading_by_ticker(report: EvalReport) -> str:
    """On how many tickers of a pool the chosen adapter's trades did better than holding; empty for one ticker."""
    own, held = _account(report), _held(report)
    if own is None or held is None or not held.sharpe_by_ticker:
        return ""
    both = sorted(set(own.sharpe_by_ticker) & set(held.sharpe_by_ticker))
    better = sum(own.sharpe_by_ticker[ticker] > held.sharpe_by_ticker[ticker] for ticker in both)
    middle = float(np.median([own.sharpe_by_ticker[ticker] for ticker in both])) if both else None
    return (
        f"Traded alone, long or short, {better} of {len(both)} tickers had a higher Sharpe ratio than when held; the "
        f"median ticker's was {COLUMNS['sharpe'].write(middle)}."
    )


def _account(report: EvalReport) -> Account | None:
    return report.backtest.of("long_short", report.chosen) if report.backtest and report.chosen else None


def _held(report: EvalReport) -> Account | None:
    return report.backtest.of("buy_and_hold") if report.backtest else None
