"""The configuration of benchmark runs on synthetic markets whose best attainable error is known."""

from collections.abc import Sequence
from pathlib import Path

from tickerforge.features.config import SyntheticConfig
from tickerforge.flows.settings.config import PipelineConfig, build_config

MARKETS: dict[str, tuple[str, float]] = {
    "random-walk": ("random_walk", 0.0),
    "mean-reverting-80": ("mean_reverting", 0.8),
    "mean-reverting-95": ("mean_reverting", 0.95),
    "momentum-40": ("momentum", 0.4),
    "regime-switch": ("regime_switch", 0.6),
    "garch": ("garch", 0.0),
    "garch-leverage": ("garch_leverage", 0.0),
}
"""Name, process and coefficient; see `features.synthetic.log_prices`."""

SETTINGS: dict[str, object] = {
    "training.rejection.max_windows": 14_000,
    "training.sft.epochs": 2.0,
    "training.sft.tail_average": 0.5,
}
"""Settings of the command without a recipe: all windows, few passes, and averaged weights of the last half."""
TINY_SETTINGS: dict[str, object] = {"training.sft.learning_rate": 2e-3}
"""More such settings for the tiny model."""

TRAIN_SESSIONS = 20_000
FRESH_SESSIONS = 25_000
FRESH_WINDOWS, FRESH_HORIZON = 200, 10
"""Fresh windows per split, and the longest horizon at which their targets do not overlap on `FRESH_SESSIONS`."""
FRESH_SEED, SEED_STRIDE = 1_000_000, 1_000


def benchmark_config(*, recipe: Path | None, model: str | None, assignments: Sequence[str]) -> PipelineConfig:
    """Build the configuration of the benchmark; `SETTINGS` apply unless there is a recipe, and assignments win."""
    flags: dict[str, object] = {"training.model": model}
    config = build_config(recipe=recipe, flags=flags, assignments=assignments)
    if recipe is not None:
        return config
    settings = SETTINGS | (TINY_SETTINGS if config.training.model == "tiny" else {})
    return build_config(flags=flags | settings, assignments=assignments)


def market_config(config: PipelineConfig, *, market: str, seed: int, sessions: int, shift: int = 0) -> PipelineConfig:
    """Build the configuration of a run on one market; `shift` selects another stretch of the same process."""
    process, phi = MARKETS[market]
    ticker = market.upper()
    synthetic = SyntheticConfig.model_validate(
        {
            **config.synthetic.model_dump(),
            "ticker": ticker,
            "process": process,
            "phi": phi,
            "sessions": sessions,
            "seed": seed * SEED_STRIDE + shift,
        }
    )
    return PipelineConfig.model_validate(
        {**config.model_dump(), "stock": ticker, "data": None, "synthetic": synthetic, "seed": seed}
    )
