"""What the comparison hands on: names of forecasters, the report and the verdict."""

from collections.abc import Iterable
from datetime import date
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from tickerforge.features.config import FrozenModel
from tickerforge.features.stages import ADAPTERS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ScoredSplit = Literal["validation", "test", "after"]
TradingRule = Literal["buy_and_hold", "long_flat", "long_short", "equal_risk", "mean_variance"]

SCORED_SPLITS: tuple[ScoredSplit, ...] = ("validation", "test")
AFTER: ScoredSplit = "after"
"""Those windows of the test split that lie after a cut-off which falls into it."""
PERSISTENCE, DRIFT, WINDOW_MEAN = "persistence", "drift", "window_mean"
BASELINES = (PERSISTENCE, DRIFT, WINDOW_MEAN)
BASE, POOLED = "base", "pooled"
CHAMPION = "champion"
MODELS = (*BASELINES, BASE, POOLED, *ADAPTERS, CHAMPION)

FORECAST_COLUMNS = ("ticker", "origin", "split", "model", "median", "samples", "n_samples", "n_valid")
DECIDING_METRIC = "scaled_mse"


class SplitSummary(FrozenModel):
    """Which windows of a split were scored; dates are sessions.

    `before` counts those about sessions that the base model may have been trained on.
    """

    split: ScoredSplit
    windows: int
    available: int
    independent: int
    before: int = 0
    first_origin: date
    last_origin: date
    last_target: date


class MetricRow(FrozenModel):
    """One metric of every model; `horizon` is the session ahead, or none for the whole path."""

    split: ScoredSplit
    metric: str
    horizon: int | None
    values: dict[str, float | None]


class TickerScore(FrozenModel):
    """One ticker's share of a pool's comparison: its windows, and every model's scaled MSE (daily variances)."""

    split: ScoredSplit
    ticker: str
    windows: int
    values: dict[str, float]


class Calibration(FrozenModel):
    """The share of the prices that fell into each tenth of a model's predictive distribution; a tenth each is best."""

    split: ScoredSplit
    model: str
    shares: tuple[float, ...]


class Significance(FrozenModel):
    """One Diebold-Mariano test; see `evaluation.evidence.significance`.

    `mean_difference` is the model's mean scaled loss minus the reference's (daily variances): negative is better. Of a
    pool `windows` and `lag` count sessions.
    """

    split: ScoredSplit
    model: str
    against: str
    mean_difference: float
    statistic: float | None
    p_value: float
    lag: int
    windows: int
    independent: int
    note: str


class Superiority(FrozenModel):
    """All forecasters of the test split at once; see `evaluation.evidence.superiority`.

    `p_value` is that of the best of `candidates` against the reference, `confidence_set` holds those that may be the
    best of all at `confidence`, `skill_intervals` are 95 % intervals by model, and `block` is the bootstrap's mean
    block in rows. `note` says why nothing could be tested, or is empty.
    """

    reference: str
    candidates: tuple[str, ...]
    p_value: float
    confidence_set: tuple[str, ...]
    confidence: float
    skill_intervals: dict[str, tuple[float, float]]
    block: int
    note: str


class SkillInterval(FrozenModel):
    """The central 95 % of a model's skill against persistence on the split that decides; see `evidence.intervals`.

    Of one session ahead, or over all sessions of one of a pool's tickers.
    """

    model: str
    low: float
    high: float
    horizon: int | None = None
    ticker: str | None = None


class Account(FrozenModel):
    """What one trading rule, driven by one forecaster, made of a capital of 1, costs paid; riskless rate 0.

    Returns, `volatility` and `turnover` (bought plus sold, in multiples of the capital) are yearly but for
    `total_return`; all are shares, not percent. `exposure` is the mean of what was held, long plus short. Ratios are
    missing where nothing was held, and `deflated_sharpe` of forecasters that were not tried here. `equity` is the
    capital at each of the backtest's `dates`. `sharpe_by_ticker` holds a pool's tickers traded alone by this rule.
    """

    rule: TradingRule
    model: str
    total_return: float
    annual_return: float
    volatility: float
    sharpe: float | None
    sortino: float | None
    max_drawdown: float
    turnover: float
    exposure: float
    deflated_sharpe: float | None
    equity: tuple[float, ...]
    sharpe_by_ticker: dict[str, float] = Field(default={})


class Backtest(FrozenModel):
    """Trading on the forecasts of a split; see `evaluation.backtest.simulation`.

    `dates` are the sessions at whose opens the capital is known, the last one that at which all is sold. `variants` are
    the forecasters counted as tried.
    """

    split: ScoredSplit
    dates: tuple[date, ...]
    tickers: int
    hold: int
    cost_bps: float
    variants: int
    accounts: tuple[Account, ...]

    def of(self, rule: TradingRule, model: str = "") -> Account | None:
        """The account of a rule and a forecaster, `None` where there is none; buy-and-hold has no forecaster."""
        return next((each for each in self.accounts if (each.rule, each.model) == (rule, model)), None)


class EvalReport(FrozenModel):
    """All that is known about the forecasters of one ticker, as plain numbers that survive JSON.

    What older reports lack has a default. A pool's report goes by the pool's name and has a row a ticker and split in
    `tickers`.
    """

    ticker: str
    horizon: int
    interval: float
    models: tuple[str, ...]
    chosen: str | None
    n_candidates: int
    splits: tuple[SplitSummary, ...]
    metrics: tuple[MetricRow, ...]
    significance: tuple[Significance, ...]
    notes: tuple[str, ...]
    tickers: tuple[TickerScore, ...] = ()
    calibration: tuple[Calibration, ...] = ()
    superiority: Superiority | None = None
    intervals: tuple[SkillInterval, ...] = ()
    backtest: Backtest | None = None
    test_after: date | None = None

    @property
    def judged(self) -> ScoredSplit | None:
        """The split that decides: test, or what lies after a cut-off within it; `None` where nothing lies after."""
        if not self.summary("test").before:
            return "test"
        return next((summary.split for summary in self.splits if summary.split == AFTER), None)

    def value(self, model: str, *, split: ScoredSplit, metric: str) -> float | None:
        """One model's figure over the whole path, or `None` where the metric does not apply to it.

        Raises:
            KeyError: The report holds no such metric.
        """
        for row in self.metrics:
            if row.split == split and row.metric == metric and row.horizon is None:
                return row.values.get(model)
        raise KeyError(f"the report of {self.ticker} has no {metric!r} on {split}")

    def summary(self, split: ScoredSplit) -> SplitSummary:
        """The windows behind the figures of a split."""
        return next(summary for summary in self.splits if summary.split == split)

    def test_of(self, model: str, *, split: ScoredSplit, against: str = PERSISTENCE) -> Significance | None:
        """The model's test against persistence or another reference, or `None` where none was made."""
        wanted = (model, split, against)
        return next((test for test in self.significance if (test.model, test.split, test.against) == wanted), None)

    def metrics_frame(self) -> pd.DataFrame:
        """The long table: one row per (ticker, split, metric, horizon), one column per model; a pool's tickers last.

        Returns:
            Columns `ticker split metric horizon` (nullable integer, missing for the whole path), then the models.
        """
        rows = [
            [self.ticker, row.split, row.metric, row.horizon, *(row.values.get(model) for model in self.models)]
            for row in self.metrics
        ]
        rows += [
            [row.ticker, row.split, DECIDING_METRIC, None, *(row.values[model] for model in self.models)]
            for row in self.tickers
        ]
        frame = pd.DataFrame(rows, columns=["ticker", "split", "metric", "horizon", *self.models])
        return frame.astype({"horizon": "Int64"} | dict.fromkeys(self.models, "float64"))


class Reason(FrozenModel):
    """One condition of the gate, in words with its figure."""

    name: str
    passed: bool
    text: str


class Verdict(FrozenModel):
    """Whether the chosen adapter becomes the champion, and why or why not."""

    ticker: str
    promoted: bool
    model: str | None
    headline: str
    reasons: tuple[Reason, ...]

    @property
    def failures(self) -> tuple[Reason, ...]:
        """The conditions that were not met."""
        return tuple(reason for reason in self.reasons if not reason.passed)


def in_display_order(models: Iterable[str]) -> tuple[str, ...]:
    """Sort model names as tables show them: baselines, base model, pooled adapter, adapters by stage, champion."""
    return tuple(sorted(set(models), key=MODELS.index))
