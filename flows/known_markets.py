"""The synthetic markets of the benchmark, whose best attainable error is known."""

from features.config import SyntheticConfig
from flows.config import PipelineConfig

MARKETS: dict[str, tuple[str, float]] = {
    "random-walk": ("random_walk", 0.0),
    "mean-reverting-80": ("mean_reverting", 0.8),
    "mean-reverting-95": ("mean_reverting", 0.95),
    "momentum-40": ("momentum", 0.4),
    "regime-switch": ("regime_switch", 0.6),
}
"""Name, process and coefficient; see `features.synthetic.log_prices`."""

# Each train window is sampled and fine-tuned on once.
SETTINGS: dict[str, object] = {
    "training.rejection.answers": 12,
    "training.rejection.max_windows": 20_000,
    "training.sft.epochs": 1.0,
    "training.sft.learning_rate": 2e-3,
}
"""What the benchmark sets where no recipe does: the defaults are for the two thousand windows of a real ticker."""

TRAIN_SESSIONS = 20_000
FRESH_SESSIONS = 25_000
FRESH_WINDOWS = 200
FRESH_SEED, SEED_STRIDE = 1_000_000, 1_000


def market_config(config: PipelineConfig, *, market: str, seed: int, sessions: int, shift: int = 0) -> PipelineConfig:
    """The configuration of a run on one market; `shift` makes it another stretch of the same process."""
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
