"""Protocols of samplers and backends, and the jobs that they take."""

import gc
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

import pandas as pd

from tickerforge.features.prompts import Chat
from tickerforge.features.stages import LearningStage
from tickerforge.training.config import TrainingConfig
from tickerforge.training.contracts import Example, OnProgress

Arguments = ParamSpec("Arguments")
Made = TypeVar("Made")


@dataclass(frozen=True)
class TrainingJob:
    """One training run of one stage.

    Attributes:
        stage: The stage; selects its settings in `config`.
        base_model: Hugging Face name or folder.
        adapter: Adapter that the training continues from; `None` for a new one.
        config: Settings of all stages.
        out_dir: Holds checkpoints while the job runs, so that a killed job resumes there; at the end it holds
            `adapter/` and `metrics.jsonl`.
        seed: Seed of new weights, of the order of the data, and of sampling.
        unit: Size of one daily standard deviation in the units of the targets.
        engine_arguments: What a backend adds to TRL's configuration.
        on_progress: Receives the metrics of each step.
    """

    stage: LearningStage
    base_model: str
    adapter: Path | None
    config: TrainingConfig
    out_dir: Path
    seed: int
    unit: float = 10.0
    engine_arguments: dict[str, Any] = field(default_factory=dict)
    on_progress: OnProgress | None = None

    @property
    def learning_rate(self) -> float:
        """Peak learning rate."""
        return self.config.learning_rate(self.stage, warm=self.adapter is not None)


@dataclass(frozen=True)
class SamplingJob:
    """How answers are drawn: by which model, how many per prompt, and with which settings.

    Attributes:
        base_model: Hugging Face name or folder.
        adapter: PEFT folder that is applied to the base model; `None` for the base model alone.
        config: Settings; `config.sampling` holds temperature, nucleus and length.
        answers: Answers per prompt.
        horizon: Values per answer.
        seed: Seed of the answers, together with each prompt.
        stage: Name that progress and errors show.
        on_progress: Receives the number of prompts answered so far.
        on_drawn: Receives the lengths of answers in tokens, and how many of them `config.sampling.max_tokens` cut off.
    """

    base_model: str
    adapter: Path | None
    config: TrainingConfig
    answers: int
    horizon: int
    seed: int
    stage: str = "sampling"
    on_progress: OnProgress | None = None
    on_drawn: Callable[[Sequence[int], int], None] | None = None


class OneKept(Generic[Arguments, Made]):
    """A function that keeps its last result for the same arguments, and drops it before it makes another.

    `lru_cache(maxsize=1)` would make the new result first, and two models may not fit into memory.
    """

    def __init__(self, make: Callable[Arguments, Made], *, end: Callable[[Made], None] | None = None) -> None:
        self._make = make
        self._end = end
        self._kept: dict[object, Made] = {}

    def __call__(self, *args: Arguments.args, **options: Arguments.kwargs) -> Made:
        """Return the kept result for these arguments, or make it."""
        key = (args, tuple(sorted(options.items())))
        if key not in self._kept:
            self.clear()
            self._kept[key] = self._make(*args, **options)
        return self._kept[key]

    def clear(self) -> None:
        """End and drop the kept result."""
        while self._kept:
            _, made = self._kept.popitem()
            if self._end is not None:
                self._end(made)
            del made
        gc.collect()


class Sampler(Protocol):
    """Draws answers."""

    name: str

    def generate(self, prompts: Sequence[Chat], *, job: SamplingJob) -> list[list[str]]:
        """Draw `job.answers` answers to each prompt; the same job gives the same answers.

        The random numbers of a prompt follow from `prompt_seed`, so the other prompts do not change its answers.
        """
        ...


class Backend(Protocol):
    """Trains adapters."""

    name: str

    def train_grpo(self, examples: Sequence[Example], *, job: TrainingJob) -> dict[str, float]:
        """Train (or resume) by GRPO and return the last logged metrics.

        Raises:
            TrainingDiverged: The run collapsed, or a step gave a value that is NaN or infinite.
            TrainingError: Memory runs out even with one answer per forward pass.
        """
        ...

    def train_sft(self, accepted: pd.DataFrame, *, job: TrainingJob) -> dict[str, float]:
        """Fine-tune (or resume) on accepted answers and return the last logged metrics."""
        ...


@dataclass(frozen=True)
class Selection:
    """Which backend runs, and the reason in words."""

    backend: Backend
    reason: str


def prompt_seed(prompt: Chat, seed: int) -> int:
    """Return the seed of one prompt's answers, below 2³¹; it differs for every prompt and for every `seed`."""
    asked = json.dumps([seed, prompt], sort_keys=True)
    return int.from_bytes(hashlib.sha256(asked.encode()).digest()[:4], "big") >> 1
