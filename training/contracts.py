"""Data that passes between the stages and their callers: examples, results, progress."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tickerforge.features.prompts import Chat

METRICS_FILE = "metrics.jsonl"
SFT_DATA_FILE = "sft_data.parquet"
ANSWERS_FILE = "answers.parquet"
ANSWER_COLUMNS = ("window_id", "draw", "answer", "fault", "skill")
"""One row per answer that rejection sampling drew: its text with the thoughts, what makes it invalid (see
`features.prompts.fault_of`; `None` if nothing), and its skill against persistence (NaN if invalid)."""
GRPO_ANSWER_COLUMNS = ("step", "window_id", "answer", "fault", "accuracy")
"""The same for GRPO, with `accuracy` as in `training.rewards`."""
ADAPTER_FOLDER = "adapter"
ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"


@dataclass(frozen=True)
class Example:
    """One train window, as trainers use it.

    `target` is in the units that the model writes: model units, or z-scores with `units="train_standard"`.
    `last_close` is the price at the origin in the same units, the forecast of persistence: 0 in model units.
    """

    window_id: str
    ticker: str
    origin: date
    prompt: "Chat"
    target: tuple[float, ...]
    last_close: float = 0.0


@dataclass(frozen=True)
class StageResult:
    """The results of one stage in its folder."""

    stage: str
    out_dir: Path
    steps: int
    seconds: float
    summary: dict[str, float]

    @property
    def adapter_dir(self) -> Path:
        """PEFT folder with `adapter_config.json` and `adapter_model.safetensors`."""
        return self.out_dir / ADAPTER_FOLDER

    @property
    def metrics_path(self) -> Path:
        """File with one line per logged step, each a JSON object."""
        return self.out_dir / METRICS_FILE


@dataclass(frozen=True)
class Progress:
    """The progress of a long operation; `metrics` holds the figures of this step (reward, valid_rate, loss, ...)."""

    stage: str
    step: int
    total: int
    metrics: dict[str, float] = field(default_factory=dict)


OnProgress = Callable[[Progress], None]
