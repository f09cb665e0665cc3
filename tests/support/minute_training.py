"""What the tests of training share: examples of a synthetic market, short settings, and ways to disturb a stage."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tickerforge.features.synthetic import market
from tickerforge.features.windows import build_windows
from tickerforge.training.config import GRPOStageConfig, TrainingConfig
from tickerforge.training.contracts import Example, OnProgress, Progress
from tickerforge.training.examples import build_examples
from tickerforge.training.stages import run_grpo
from trained_pieces import FEATURES, SYNTHETIC, TICKER, TRAINING

CONFIG = TRAINING.model_copy(
    update={
        "checkpoint_every": 2,
        "grpo_1st": GRPOStageConfig(steps=6, prompts_per_step=2, group_size=4, tail_average=0.5),
    }
)


class Interrupted(Exception):
    """Stands for whatever ends a process in the middle of a stage."""


def stop_at(step: int) -> OnProgress:
    def report(progress: Progress) -> None:
        if progress.step >= step:
            raise Interrupted

    return report


def train_examples(count: int = 40) -> list[Example]:
    windows = build_windows(market(SYNTHETIC), ticker=TICKER, config=FEATURES)
    return build_examples(windows[windows["split"] == "train"].iloc[:count], config=FEATURES)


def grpo(examples: list[Example], base: str, out: Path, config: TrainingConfig = CONFIG, **options: Any) -> Path:
    arguments: dict = {"stage": "grpo_1st", "adapter": None, "seed": 5} | options
    return run_grpo(examples, base_model=base, config=config, out_dir=out, **arguments).out_dir


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
