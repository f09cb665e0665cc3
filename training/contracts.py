"""What passes between the stages: examples in, results out, progress on the way."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from tickerforge.features.prompts import Chat

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class Example:
    """One train window as a trainer sees it.

    `target` is in the units the model writes: model units, or z-scores with `units="train_standard"`. `last_close` is
    the price at the origin in the same units, which is what persistence forecasts: 0 in model units.
    """

    window_id: str
    ticker: str
    origin: date
    prompt: Chat
    target: tuple[float, ...]
    last_close: float = 0.0


@dataclass(frozen=True)
class StageResult:
    """What one stage leaves in its folder."""

    stage: str
    out_dir: Path
    steps: int
    seconds: float
    summary: dict[str, float]

    @property
    def adapter_dir(self) -> Path:
        """PEFT folder with `adapter_config.json` and `adapter_model.safetensors`."""
        return self.out_dir / "adapter"

    @property
    def metrics_path(self) -> Path:
        """One JSON object a line, one line a logged step."""
        return self.out_dir / METRICS_FILE


@dataclass(frozen=True)
class Progress:
    """Where a long operation stands; `metrics` holds what is known at this step (reward, valid_rate, loss, ...)."""

    stage: str
    step: int
    total: int
    metrics: dict[str, float] = field(default_factory=dict)


OnProgress = Callable[[Progress], None]
