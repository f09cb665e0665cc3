"""The comparison as a table: numbers in display order, the same as text, and which figure is the best."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tickerforge.evaluation.core.contracts import PERSISTENCE, EvalReport, Split
from tickerforge.evaluation.core.labels import METRICS, model_label
from tickerforge.evaluation.metrics.accuracy import skill

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Decides", ("skill", "p_value", "scaled_mse")),
    ("Published protocol", ("mse", "mae", "skill_published")),
    ("Price", ("rmse_usd", "mae_usd", "mase")),
    ("Direction", ("directional_accuracy", "mcc", "rank_ic")),
    ("Distribution", ("coverage", "coverage_50", "coverage_95", "crps")),
    ("Answers", ("valid_rate",)),
)
COLUMNS: tuple[str, ...] = tuple(column for _, columns in GROUPS for column in columns)


def comparison_table(report: EvalReport, split: Split) -> pd.DataFrame:
    """Every model's figures on one split, in display order.

    Returns:
        Index `model`, one float column per entry of `COLUMNS`; shares and skills are fractions, `nan` where a metric
        does not apply (`evaluation.core.labels.METRICS` has units and definitions).
    """
    rows = []
    # A report of older code lacks the newer metrics.
    held = {row.metric for row in report.metrics if row.split == split}
    for model in report.models:
        test = report.test_of(model, split=split)
        figures = {column: report.value(model, split=split, metric=column) for column in COLUMNS if column in held}
        rows.append(figures | {"p_value": test.p_value if test else None})
    index = pd.Index(report.models, name="model")
    return pd.DataFrame(rows, index=index, columns=list(COLUMNS)).astype("float64")


@dataclass(frozen=True)
class Row:
    """One model as readers see it; a cell is its text and whether it is the best of its column."""

    model: str
    label: str
    chosen: bool
    cells: tuple[tuple[str, bool], ...]


def written_rows(report: EvalReport, split: Split) -> list[Row]:
    """`comparison_table` as text, cells in the order of `COLUMNS`; what reads like the best is marked as such."""
    table = comparison_table(report, split)
    best = best_models(table)
    columns = []
    for column in COLUMNS:
        texts = dict(
            zip(report.models, (METRICS[column].write(value) for value in table[column].to_numpy(float)), strict=True)
        )
        records = {texts[model] for model in best[column]}
        columns.append({model: (text, text in records) for model, text in texts.items()})
    return [
        Row(model, model_label(model), model == report.chosen, tuple(cells[model] for cells in columns))
        for model in report.models
    ]


def best_models(table: pd.DataFrame) -> dict[str, frozenset[str]]:
    """For each column of a comparison table the models with the best figure; all of them where several are equal."""
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


def ticker_rows(report: EvalReport, split: Split) -> list[tuple[str, ...]]:
    """A pool's tickers as text, the whole pool last; a head row first, and nothing at all for a single ticker.

    Returns:
        Ticker, windows, persistence's scaled MSE, then each other model's skill against it.
    """
    rows = [(row.ticker, row.windows, row.values) for row in report.tickers if row.split == split]
    if not rows:
        return []
    pooled = {model: report.value(model, split=split, metric="scaled_mse") or 0.0 for model in report.models}
    others = [model for model in report.models if model != PERSISTENCE]
    head = ("Ticker", "Windows", "Persistence, scaled MSE", *(f"{model_label(model)}, skill" for model in others))
    body = [
        (
            ticker,
            str(windows),
            METRICS["scaled_mse"].write(values[PERSISTENCE]),
            *(METRICS["skill"].write(skill(values[model], values[PERSISTENCE])) for model in others),
        )
        for ticker, windows, values in (*rows, (f"{report.ticker} (pool)", report.summary(split).windows, pooled))
    ]
    return [head, *body]
