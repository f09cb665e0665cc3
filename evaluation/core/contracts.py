"""The results of the comparison: names of forecasters, the report and the verdict."""

from collections.abc import Iterable
from datetime import date
from typing import Literal

import pandas as pd
from pydantic import Field

from tickerforge.evaluation.core.frames import Floats as Floats
from tickerforge.evaluation.core.frames import Ints as Ints
from tickerforge.evaluation.core.recalibration import Recalibration
from tickerforge.features.config import FrozenModel
from tickerforge.features.stages import ADAPTERS

ScoredSplit = Literal["validation", "test", "after"]
TradingRule = Literal["buy_and_hold", "long_flat", "long_short", "equal_risk", "mean_variance"]

SCORED_SPLITS: tuple[ScoredSplit, ...] = ("validation", "test")
AFTER: ScoredSplit = "after"
"""The windows of the test split after a cut-off that lies within it."""
PERSISTENCE, WINDOW_MEAN = "persistence", "window_mean"
RANDOM_WALK, RANDOM_WALK_HAR, DRIFT = "random_walk", "random_walk_har", "drift"
FREE = (RANDOM_WALK, RANDOM_WALK_HAR, DRIFT)
"""Free forecasters with a whole distribution."""
BASELINES = (PERSISTENCE, WINDOW_MEAN, *FREE)
BASE, POOLED = "base", "pooled"
CURRENT_CHAMPION = "champion"
MODELS = (*BASELINES, BASE, POOLED, *ADAPTERS, CURRENT_CHAMPION)

ISSUED_LEVELS = tuple(level / 20 for level in range(1, 20))
"""Levels of the quantiles of an issued forecast: 5 % to 95 %."""

FORECAST_COLUMNS = ("ticker", "origin", "split", "model", "median", "samples", "n_samples", "n_valid")
Loss = Literal["scaled_mse", "crps"]
"""What a test compares: the squared error of the median, or the score of the whole distribution."""
DECIDING_METRIC: Loss = "crps"
SIGNIFICANCE = 0.05
"""Level of the report's claims and intervals; the gate has its own limit, `GateConfig.max_p_value`."""


class SplitSummary(FrozenModel):
    """The windows of a split that were scored; dates are sessions.

    `before` counts the windows about sessions that the base model may have been trained on.
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
    """One metric of every model; `horizon` is the session ahead, or `None` for the whole path."""

    split: ScoredSplit
    metric: str
    horizon: int | None
    values: dict[str, float | None]


class TickerScore(FrozenModel):
    """One ticker's share of a pool's comparison: its windows, and every model's scaled MSE (`values`) and CRPS."""

    split: ScoredSplit
    ticker: str
    windows: int
    values: dict[str, float]
    crps: dict[str, float] = Field(default={})


class Calibration(FrozenModel):
    """The share of the prices in each tenth of a model's predictive distribution; one tenth each is best."""

    split: ScoredSplit
    model: str
    shares: tuple[float, ...]


class Significance(FrozenModel):
    """One Diebold-Mariano test; see `evaluation.evidence.significance`.

    `mean_difference` is the model's mean loss minus the reference's (daily variances, or daily σ for the CRPS):
    negative is better. For a pool `windows` and `lag` count sessions.
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
    loss: Loss = "scaled_mse"


class Superiority(FrozenModel):
    """All forecasters of the test split tested together; see `evaluation.evidence.superiority`.

    `p_value` is that of the best of `candidates` against the reference, `confidence_set` has the models that may be the
    best at `confidence`, `skill_intervals` are 95 % intervals by model, and `block` is the mean block of the bootstrap
    in rows. `note` says why no test was possible, or is empty.
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
    """The 95 % interval of a model's skill on the split that decides; see `evidence.intervals`.

    It is for one session ahead, or for all sessions of one ticker of a pool. `loss` is what the skill compares: the
    CRPS with the random walk's, or in reports of older code the squared error with persistence's.
    """

    model: str
    low: float
    high: float
    horizon: int | None = None
    ticker: str | None = None
    loss: Loss = "scaled_mse"


class Account(FrozenModel):
    """The result of one trading rule, driven by one forecaster, from a capital of 1, after costs; riskless rate 0.

    Returns, `volatility` and `turnover` (bought plus sold, in multiples of the capital) are yearly, except
    `total_return`; all are shares, not percent. `exposure` is the mean position, long plus short. Ratios are missing if
    nothing was held, and `deflated_sharpe` is missing for forecasters that were not tried here. `equity` is the capital
    at each of the backtest's `dates`. `sharpe_by_ticker` has a pool's tickers traded alone by this rule.
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

    `dates` are the sessions at whose opens the capital is known; everything is sold at the last one. `variants` is the
    number of forecasters counted as tried.
    """

    split: ScoredSplit
    dates: tuple[date, ...]
    tickers: int
    hold: int
    cost_bps: float
    variants: int
    accounts: tuple[Account, ...]

    def of(self, rule: TradingRule, model: str = "") -> Account | None:
        """Return the account of a rule and a forecaster, or `None`; buy-and-hold has no forecaster."""
        return next((each for each in self.accounts if (each.rule, each.model) == (rule, model)), None)


class EvalReport(FrozenModel):
    """All results about the forecasters of one ticker, as plain numbers for JSON.

    Fields that older reports lack have a default. A pool's report has the pool's name, and one row per ticker and split
    in `tickers`. `chosen` is the adapter and `free` the free forecaster with the best CRPS on validation;
    `whole_superiority` tests the CRPS against the random walk, and `superiority`, only in reports of older code,
    squared errors against persistence. `recalibrations` are those of the models.
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
    free: str | None = None
    whole_superiority: Superiority | None = None
    recalibrations: dict[str, Recalibration] = Field(default={})

    @property
    def judged(self) -> ScoredSplit | None:
        """The split that decides: test, or the windows after a cut-off within it; `None` if there are none after."""
        if not self.summary("test").before:
            return "test"
        return next((summary.split for summary in self.splits if summary.split == AFTER), None)

    def value(self, model: str, *, split: ScoredSplit, metric: str) -> float | None:
        """Return one model's figure over the whole path, or `None` if the metric does not apply to it.

        Raises:
            KeyError: The report has no such metric.
        """
        for row in self.metrics:
            if row.split == split and row.metric == metric and row.horizon is None:
                return row.values.get(model)
        raise KeyError(f"the report of {self.ticker} has no {metric!r} on {split}")

    def summary(self, split: ScoredSplit) -> SplitSummary:
        """Return the summary of a split's windows."""
        return next(summary for summary in self.splits if summary.split == split)

    def test_of(
        self, model: str, *, split: ScoredSplit, against: str = PERSISTENCE, loss: Loss = "scaled_mse"
    ) -> Significance | None:
        """Return the model's test against persistence or another reference, or `None` without a test."""
        wanted = (model, split, against, loss)
        return next((t for t in self.significance if (t.model, t.split, t.against, t.loss) == wanted), None)

    def metrics_frame(self) -> pd.DataFrame:
        """Return the long table: one row per (ticker, split, metric, horizon), one column per model; pool tickers last.

        Returns:
            Columns `ticker split metric horizon` (nullable integer, missing for the whole path), then the models.
        """
        rows = [
            [self.ticker, row.split, row.metric, row.horizon, *(row.values.get(model) for model in self.models)]
            for row in self.metrics
        ]
        rows += [
            [row.ticker, row.split, metric, None, *(values[model] for model in self.models)]
            for row in self.tickers
            for metric, values in (("scaled_mse", row.values), ("crps", row.crps))
            if values
        ]
        frame = pd.DataFrame(rows, columns=["ticker", "split", "metric", "horizon", *self.models])
        return frame.astype({"horizon": "Int64"} | dict.fromkeys(self.models, "float64"))


class Reason(FrozenModel):
    """One condition of the gate as a sentence with its figure."""

    name: str
    passed: bool
    text: str


class Verdict(FrozenModel):
    """Whether the chosen adapter becomes the champion, and why or why not; `free` is the best free forecaster."""

    ticker: str
    promoted: bool
    model: str | None
    headline: str
    reasons: tuple[Reason, ...]
    free: str | None = None

    @property
    def failures(self) -> tuple[Reason, ...]:
        """The conditions that were not met."""
        return tuple(reason for reason in self.reasons if not reason.passed)


def in_display_order(models: Iterable[str]) -> tuple[str, ...]:
    """Sort model names as tables show them: baselines, base model, pooled adapter, adapters by stage, champion."""
    return tuple(sorted(set(models), key=MODELS.index))
