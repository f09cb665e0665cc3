"""Configuration of windows, indicators, units and prompts, limits for bad data, and the synthetic market."""

from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

JumpMode = Literal["refuse", "accept", "repair"]
UpdateSource = Literal["none", "yahoo"]
AnswerStyle = Literal["list", "numbered"]
Volatility = Literal["std60", "har"]


class FrozenModel(BaseModel):
    """Immutable configuration that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FeatureConfig(FrozenModel):
    """What a window holds and how a prompt shows it."""

    context: int = Field(default=10, ge=2, le=60, description="Sessions of price history in a prompt.")
    horizon: int = Field(default=10, ge=1, le=60, description="Sessions to forecast.")
    indicator_scope: Literal["series", "window"] = Field(
        default="series",
        description="series: TA-Lib on the whole causal series; window: inside each window, as in the published CSVs.",
    )
    units: Literal["sigma", "train_standard"] = Field(
        default="sigma",
        description="sigma: integers, 10 = one daily standard deviation; train_standard: the published z-scores.",
    )
    prompt_style: Literal["prices", "full"] = Field(
        default="full", description="prices: the relative prices alone; full: with indicators and statistics."
    )
    answer_style: AnswerStyle | None = Field(
        default=None,
        description="How an answer writes its values. list: [v1, v2, ...]; numbered: 1:v1 2:v2 ..., in which a "
        "pretrained model rarely loses count; unset: list for the tiny model, numbered for others.",
    )
    sigma: Volatility = Field(
        default="std60",
        description="Volatility in the model units. std60: the standard deviation over sigma_window sessions; har: "
        "what a regression on the ranges of the last 1, 5 and 22 sessions expects. Scores are always in the former.",
    )
    sigma_window: int = Field(default=60, ge=5, description="Sessions in the volatility estimate.")
    sigma_min: int = Field(default=20, ge=2, description="Fewest sessions the volatility estimate may use.")
    train_fraction: float = Field(default=0.7, gt=0, lt=1, description="Share of rows in the train split.")
    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="Share of rows in the test split.")

    @model_validator(mode="after")
    def _values_fit_together(self) -> Self:
        if self.train_fraction + self.test_fraction >= 1:
            raise ValueError("train_fraction + test_fraction must stay below 1: the rest is the validation split")
        if self.sigma_min > self.sigma_window:
            raise ValueError("sigma_min must not exceed sigma_window")
        if self.indicator_scope == "window" and self.context < 10:
            raise ValueError(
                "indicator_scope = 'window' needs a context of at least 10: ADX takes twice its period of 5"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_before_har(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the default volatility, so that keys and cards made with it do not change."""
        fields: dict[str, Any] = handler(self)
        if fields.get("sigma") == "std60":
            del fields["sigma"]
        return fields

    @property
    def embargo(self) -> int:
        """Rows at the end of the train and validation splits that are not used as targets: one horizon."""
        return self.horizon


class QualityConfig(FrozenModel):
    """The exchange whose sessions a ticker's prices are compared with, and the limits, as shares of 1."""

    exchange: str = Field(
        default="auto",
        description="Calendar such as XNYS; auto: by the ending of the ticker (.L, .T), else 24/7 if dates are on "
        "weekends, else New York; none: dates are not compared with a calendar.",
    )
    max_missing: float = Field(default=0.1, ge=0, le=1, description="Most sessions of the exchange without prices.")
    max_extra: float = Field(default=0.1, ge=0, le=1, description="Most prices on days without a session.")
    max_without_prices: float = Field(default=0.1, ge=0, le=1, description="Most rows of a file without any price.")
    jumps: JumpMode = Field(
        default="refuse",
        description="Prices that jump as no market does, for example at an unadjusted split. refuse: they end the run; "
        "accept: they are real; repair: those by a certain factor are removed, others end the run.",
    )

    def for_forecast(self) -> Self:
        """Return the same for a forecast, which old jumps do not touch: it checks its own sessions."""
        return self.model_copy(update={"jumps": "accept"}) if self.jumps == "refuse" else self


class SyntheticConfig(FrozenModel):
    """A seeded synthetic market with known dynamics."""

    ticker: str = Field(default="DEMO", description="Ticker of the synthetic series.")
    process: Literal["random_walk", "mean_reverting", "momentum", "regime_switch", "garch", "garch_leverage"] = Field(
        default="mean_reverting", description="Dynamics of the log price."
    )
    phi: float = Field(default=0.8, gt=-1, lt=1, description="AR(1) coefficient: log price or, for momentum, return.")
    sessions: int = Field(default=1500, ge=100, le=200_000, description="Number of sessions.")
    volatility: float = Field(default=0.016, gt=0, lt=0.5, description="Standard deviation of one daily shock.")
    tail: float = Field(default=5.0, gt=2, description="Degrees of freedom of the Student-t shocks.")
    seed: int = Field(default=7, ge=0, description="Seed of the generator.")
