"""The configuration of the comparison and of the promotion rule."""

from datetime import date

from pydantic import Field

from tickerforge.features.config import FrozenModel


class BacktestConfig(FrozenModel):
    """How trading on the forecasts is simulated."""

    cost_bps: float = Field(
        default=10.0,
        ge=0,
        le=1000,
        description="Cost of every purchase and every sale, in basis points of the value traded.",
    )
    covariance_sessions: int = Field(
        default=250, ge=20, description="Sessions from which the mean-variance portfolio estimates covariances."
    )


class EvaluationConfig(FrozenModel):
    """What is compared and how the report shows it."""

    max_windows: int | None = Field(
        default=None,
        ge=2,
        description="Largest number of windows per split, evenly spaced in time and the same for every model; none: "
        "all of them, or 1000 of several tickers together.",
    )
    interval: float = Field(default=0.8, gt=0, lt=1, description="Nominal coverage of the forecast band.")
    examples: int = Field(default=6, ge=1, le=12, description="Number of single test windows drawn in the report.")
    pictures: bool = Field(
        default=True, description="Draw the pictures of the report; without them a report of many tickers is faster."
    )
    test_after: date | None = Field(
        default=None,
        description="Last day that the base model may have been trained on: test windows up to it are parity only, and "
        "the gate judges the windows after it; none: training.model_cutoff.",
    )
    variants_tried: int | None = Field(
        default=None,
        ge=1,
        description="Number of variants ever tried on this test split; the deflated Sharpe ratio counts at least the "
        "models of this run.",
    )
    backtest: BacktestConfig = Field(default=BacktestConfig(), description="Costs and portfolios of the backtest.")


class GateConfig(FrozenModel):
    """The conditions that an adapter must meet before it becomes the champion."""

    min_skill: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="The CRPS must be below that of every free forecaster by more than this share.",
    )
    max_p_value: float = Field(
        default=0.05,
        gt=0,
        le=1,
        description="Largest one-sided Diebold-Mariano p-value of the CRPS on test, against every free forecaster.",
    )
    min_valid_rate: float = Field(default=0.99, ge=0, le=1, description="Smallest share of answers that parse.")
    max_coverage_gap: float = Field(
        default=0.15,
        ge=0,
        le=1,
        description="Largest difference between the share of test prices inside the band and its nominal coverage.",
    )
    min_windows: int = Field(
        default=5,
        ge=2,
        description="Smallest number of independent test windows; with fewer the evidence is too little.",
    )
