"""The tables of the report as text: metrics of every model, tickers of a pool, trading accounts, data quality."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tickerforge.evaluation.core.contracts import RANDOM_WALK, EvalReport, ScoredSplit, TradingRule
from tickerforge.evaluation.core.labels import METRICS, Metric, listed, model_label
from tickerforge.evaluation.metrics.accuracy import skill
from tickerforge.features.prices.dialects import in_brief, repaired_rows
from tickerforge.features.prices.quality import QualityReport

Groups = tuple[tuple[str, tuple[str, ...]], ...]

DISTRIBUTION: Groups = (
    ("Decides", ("crps_skill", "crps_p", "crps")),
    ("Bands", ("coverage", "coverage_50", "coverage_95", "width")),
    ("Risk", ("qlike", "var_1", "var_5")),
    ("Answers", ("members", "valid_rate")),
)
POINT: Groups = (
    ("Median", ("skill", "p_value", "scaled_mse")),
    ("Published protocol", ("mse", "mae", "skill_published")),
    ("Price", ("rmse_usd", "mase")),
    ("Direction", ("directional_accuracy", "mcc", "daily_rank_ic")),
)


def columns_of(groups: Groups) -> tuple[str, ...]:
    """Return the columns of a table with these groups."""
    return tuple(column for _, columns in groups for column in columns)


METRIC_COLUMNS = columns_of(DISTRIBUTION + POINT)

RULE_LABELS: dict[TradingRule, str] = {
    "buy_and_hold": "Buy and hold",
    "long_flat": "Long or flat",
    "long_short": "Long or short",
    "equal_risk": "Equal risk",
    "mean_variance": "Mean-variance",
}
RULE_DEFINITIONS: dict[TradingRule, str] = {
    "buy_and_hold": "bought at the first open, sold at the last",
    "long_flat": "in the market while the forecast for the last session ahead is above the last close, else in cash",
    "long_short": "the same, and sold short while that forecast is below; a forecast of no move holds nothing",
    "equal_risk": "every ticker long or short as forecast, in inverse proportion to its daily volatility",
    "mean_variance": "all tickers in proportion to the inverse covariance of their returns times the forecast returns",
}
ACCOUNT_COLUMNS: dict[str, Metric] = {
    "annual_return": Metric("Return", "per year", "", "after costs.", percent=True, decimals=1, signed=True),
    "volatility": Metric("Volatility", "per year", "", "standard deviation of the returns.", percent=True, decimals=1),
    "sharpe": Metric(
        "Sharpe", "per year", "", "mean return over the standard deviation of the returns.", decimals=2, signed=True
    ),
    "sortino": Metric(
        "Sortino", "per year", "", "mean return over the standard deviation of the losses.", decimals=2, signed=True
    ),
    "max_drawdown": Metric(
        "Drawdown", "", "", "largest fall of the capital below an earlier high.", percent=True, decimals=1
    ),
    "turnover": Metric("Turnover", "per year", "", "bought plus sold, in multiples of the capital.", decimals=1),
    "exposure": Metric("Held", "", "", "long plus short, mean share of the capital.", percent=True, decimals=0),
    "deflated_sharpe": Metric(
        "Deflated Sharpe",
        "",
        "",
        "probability that the true Sharpe ratio is above zero, corrected for choosing the best of all forecasters "
        "tried; 0.95 is the usual threshold.",
        decimals=2,
    ),
}
QUALITY_HEAD = ("Ticker", "Sessions", "First", "Last", "Missing", "Extra", "Repairs", "Odd")


def comparison_table(report: EvalReport, split: ScoredSplit) -> pd.DataFrame:
    """Collect every model's figures on one split, in display order.

    Returns:
        Index `model`, one float column per entry of `METRIC_COLUMNS`. Shares and skills are fractions; a value is NaN
        if the metric does not apply. `evaluation.core.labels.METRICS` has units and definitions.
    """
    rows = []
    # A report of older code lacks the newer metrics.
    held = {row.metric for row in report.metrics if row.split == split}
    for model in report.models:
        point = report.test_of(model, split=split)
        whole = report.test_of(model, split=split, against=RANDOM_WALK, loss="crps")
        figures = {
            column: report.value(model, split=split, metric=column) for column in METRIC_COLUMNS if column in held
        }
        rows.append(figures | {"p_value": point.p_value if point else None, "crps_p": whole.p_value if whole else None})
    index = pd.Index(report.models, name="model")
    return pd.DataFrame(rows, index=index, columns=list(METRIC_COLUMNS)).astype("float64")


@dataclass(frozen=True)
class Row:
    """One model's row of the table; a cell is its text and whether it is the best of its column."""

    model: str
    label: str
    chosen: bool
    cells: tuple[tuple[str, bool], ...]


def written_rows(report: EvalReport, split: ScoredSplit, *, columns: tuple[str, ...] = METRIC_COLUMNS) -> list[Row]:
    """Write columns of `comparison_table` as text; equal texts of the best are all marked.

    Example: if 0.0631 is the best, every cell that reads 0.0631 is marked.
    """
    table = comparison_table(report, split)
    best = best_models(table)
    cells = []
    for column in columns:
        texts = dict(
            zip(report.models, (METRICS[column].write(value) for value in table[column].to_numpy(float)), strict=True)
        )
        records = {texts[model] for model in best[column]}
        cells.append({model: (text, text in records) for model, text in texts.items()})
    return [
        Row(model, model_label(model), model == report.chosen, tuple(cell[model] for cell in cells))
        for model in report.models
    ]


def best_models(table: pd.DataFrame) -> dict[str, frozenset[str]]:
    """Return the models with the best figure of each column of a comparison table; all of them in a tie."""
    best = {}
    for column in table.columns:
        values = table[column].to_numpy(float)
        direction = METRICS[column].best
        if not direction or np.isnan(values).all():
            best[column] = frozenset[str]()
            continue
        record = np.nanmin(values) if direction == "low" else np.nanmax(values)
        best[column] = frozenset(str(model) for model in table.index[np.isclose(values, record, rtol=1e-9, atol=0)])
    return best


def sampled_models(report: EvalReport, split: ScoredSplit) -> list[str]:
    """Return the models with samples on a split, in display order."""
    sampled = {each.model for each in report.calibration if each.split == split}
    return [model for model in report.models if model in sampled]


def ticker_skills(report: EvalReport, *, model: str, split: ScoredSplit) -> dict[str, float]:
    """Return a model's CRPS skill against the random walk on each ticker of a pool, lowest first."""
    rows = {row.ticker: row.crps for row in report.tickers if row.split == split and row.crps}
    found = {ticker: skill(values[model], values[RANDOM_WALK]) for ticker, values in rows.items()}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def ticker_rows(report: EvalReport, split: ScoredSplit) -> list[tuple[str, ...]]:
    """Write a pool's tickers as text: a head row, one row per ticker, the whole pool last; empty for a single ticker.

    Returns:
        Ticker, windows, the random walk's CRPS, then the CRPS skill against it of every other model that has samples.
    """
    rows = [(row.ticker, row.windows, row.crps) for row in report.tickers if row.split == split and row.crps]
    if not rows:
        return []
    pooled = {model: report.value(model, split=split, metric="crps") or 0.0 for model in report.models}
    others = [model for model in sampled_models(report, split) if model != RANDOM_WALK]
    head = ("Ticker", "Windows", "Random walk, CRPS", *(f"{model_label(model)}, CRPS skill" for model in others))
    body = [
        (
            ticker,
            str(windows),
            METRICS["crps"].write(values[RANDOM_WALK]),
            *(METRICS["crps_skill"].write(skill(values[model], values[RANDOM_WALK])) for model in others),
        )
        for ticker, windows, values in (*rows, (f"{report.ticker} (pool)", report.summary(split).windows, pooled))
    ]
    return [head, *body]


def account_rows(report: EvalReport) -> list[tuple[str, ...]]:
    """Write every account of the backtest as text, a head row first; empty without a backtest."""
    if report.backtest is None:
        return []
    head = ("Rule", "Forecaster", *(column.header for column in ACCOUNT_COLUMNS.values()))
    body = [
        (
            RULE_LABELS[account.rule],
            model_label(account.model) if account.model else "–",
            *(column.write(getattr(account, name)) for name, column in ACCOUNT_COLUMNS.items()),
        )
        for account in report.backtest.accounts
    ]
    return [head, *body]


def common_currency(reports: Sequence[QualityReport]) -> str:
    """Return the currency of all prices; empty if it is not known, or not the same."""
    found = {each.currency for each in reports}
    return found.pop() if len(found) == 1 else ""


def quality_heading(reports: Sequence[QualityReport]) -> str:
    """Write what was found in the prices as a heading."""
    counts = {
        "missing session": sum(len(each.missing) for each in reports),
        "extra session": sum(len(each.extra) for each in reports),
        "repaired row": sum(repaired_rows(each.repairs) for each in reports),
        "odd row": sum(_odd(each) for each in reports),
    }
    found = [f"{count:,} {name}{'' if count == 1 else 's'}" for name, count in counts.items() if count]
    if any("form" in in_brief(each.repairs) for each in reports):
        found.append("another form than Yahoo's")
    unknown = sum(not each.exchange for each in reports)
    whose = "" if not unknown else " for some tickers" if unknown < len(reports) else ""
    missing = f"missing sessions not known{whose}" if unknown else "none missing"
    if not found:
        found = [missing, "nothing repaired", "nothing odd"]
    elif unknown:
        found = [missing, *found]
    return f"Data quality: {sum(each.rows for each in reports):,} sessions of prices, {listed(found)}"


def quality_rows(reports: Sequence[QualityReport]) -> list[tuple[str, ...]]:
    """Write the quality reports as text, a head row first: one ticker in full, several with one row per ticker."""
    if len(reports) == 1:
        table = reports[0].rows_of_table()
        return [tuple(table[0]), *(tuple(row.values()) for row in table)]
    return [QUALITY_HEAD, *map(_quality_row, reports)] if reports else []


def _quality_row(report: QualityReport) -> tuple[str, ...]:
    compared = report.exchange != ""
    counts = (len(report.missing), len(report.extra)) if compared else ("not compared", "not compared")
    return tuple(
        map(
            str,
            (report.ticker, report.rows, report.first, report.last, *counts, in_brief(report.repairs), _odd(report)),
        )
    )


def _odd(report: QualityReport) -> int:
    return sum(report.oddities.values())
