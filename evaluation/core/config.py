"""Configuration of the comparison and of the promotion rule."""

from datetime import date

from pydantic import Field

from tickerforge.features.config import FrozenModel


class BacktestConfig(FrozenModel):
    """How trading on the forecasts is reckoned."""

    cost_bps: float = Field(
        default=10.0, ge=0, le=1000, description="Cost of buying, and of selling, in basis points of what is traded."
    )
    covariance_sessions: int = Field(
        default=250, ge=20, description="Sessions before it that the mean-variance portfolio knows covariances from."
    )


class EvaluationConfig(FrozenModel):
    """What is compared and how it is shown."""

    max_windows: int | None = Field(
        default=None,
        ge=2,
        description="Most windows per split, evenly spaced in time and the same for every model; none: all of them, or "
        "1000 of all tickers together.",
    )
    interval: float = Field(default=0.8, gt=0, lt=1, description="Nominal coverage of the forecast band.")
    examples: int = Field(default=6, ge=1, le=12, description="Test windows drawn one by one in the report.")
    test_after: date | None = Field(
        default=None,
        description="Last day that the base model may have been trained on: test windows up to it are parity only, and "
        "the gate judges those after it; none: training.model_cutoff.",
    )
    variants_tried: int | None = Field(
        default=None,
        ge=1,
        description="How many variants were tried on this test split in all; the deflated Sharpe ratio counts at least "
        "the models compared in the run.",
    )
    backtest: BacktestConfig = Field(default=BacktestConfig(), description="Costs and portfolios of the backtest.")


class GateConfig(FrozenModel):
    """What an adapter must show before it becomes the champion."""

    min_skill: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share by which the squared error must lie below persistence's and drift's; it must exceed this.",
    )
    max_p_value: float = Field(
        default=0.05, gt=0, le=1, description="Largest one-sided Diebold-Mariano p-value against persistence on test."
    )
    min_valid_rate: float = Field(default=0.99, ge=0, le=1, description="Smallest share of answers that parse.")
    max_coverage_gap: float = Field(
        default=0.15,
        ge=0,
        le=1,
        description="How far the share of test prices inside the band may lie from its nominal coverage.",
    )
    min_windows: int = Field(
        default=5, ge=2, description="Fewest independent test windows; below it the evidence is called too little."
    )
