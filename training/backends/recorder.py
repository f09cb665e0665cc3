"""The callback of every training step: writes metrics, and stops a run that collapses or is NaN or infinite."""

import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch
from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tickerforge.features.atomic import atomic_path, write_atomically
from tickerforge.features.prompts import Fault, fault_of
from tickerforge.training.backends.checkpoints import (
    checkpoint_of,
    complete_checkpoints,
    mark_complete,
    step_of,
)
from tickerforge.training.contracts import ANSWERS_FILE, GRPO_ANSWER_COLUMNS, METRICS_FILE, OnProgress, Progress
from tickerforge.training.errors import TrainingDiverged
from tickerforge.training.guard import CollapseGuard

_METRICS = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "reward": "reward",
    "reward_std": "reward_std",
    "rewards/FormatReward/mean": "valid_rate",
    "rewards/AccuracyReward/mean": "accuracy",
    "rewards/FinancialReward/mean": "financial",
    "frac_reward_zero_std": "zero_variance_groups",
    **{name: name for name in (f"fault_{fault}" for fault in get_args(Fault))},
    "completions/mean_length": "answer_tokens",
    "completions/max_length": "longest_answer_tokens",
    "completions/clipped_ratio": "cut_off_answers",
    "entropy": "entropy",
    "kl": "kl",
    # Between the weights that drew an answer and those that learn from it: the share of tokens that the loss clips.
    "clip_ratio/region_mean": "ratio_clipped",
    # Between vLLM and the trainer; only if vLLM draws the answers.
    **{f"sampling/importance_sampling_ratio/{which}": f"importance_ratio_{which}" for which in ("min", "mean", "max")},
    "mean_token_accuracy": "token_accuracy",
}
# Messages of torch when it draws from probabilities that are NaN or infinite: on a CPU, on a GPU.
NOT_FINITE = ("probability tensor contains", "device-side assert")


class StepRecorder(TrainerCallback):
    """Writes each step to `metrics.jsonl`, reports progress, marks complete checkpoints, and stops a run gone wrong."""

    def __init__(
        self,
        out_dir: Path,
        *,
        stage: str,
        resumed_at: int,
        guard: CollapseGuard | None,
        on_progress: OnProgress | None,
    ) -> None:
        self._out_dir = out_dir
        self._path = out_dir / METRICS_FILE
        self._stage = stage
        self._guard = guard
        self._on_progress = on_progress
        self._began = time.monotonic()
        self._spent = 0.0
        self._step = resumed_at
        self.last: dict[str, float] = {}
        rows = [row for row in _read_rows(self._path) if row["step"] <= resumed_at]
        for row in rows:
            self._ask_guard(row, row["step"])
            self._spent = row["seconds"]
        if rows:
            self.last = _numbers(rows[-1])
        if PartialState().is_main_process:
            write_atomically(self._path, "".join(json.dumps(row) + "\n" for row in rows))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: Any, **_: Any
    ) -> None:
        """Refuse to start from weights that are NaN or infinite."""
        if not all_finite(weight for weight in model.parameters() if weight.requires_grad):
            raise TrainingDiverged(
                f"{self._stage} cannot start: the adapter that it continues from contains NaN or infinite values. "
                "Start from another adapter, or train that one again.",
                last_good=None,
            )

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: Any, **_: Any
    ) -> None:
        """Stop before a gradient that is NaN or infinite reaches the weights."""
        if not all_finite(weight.grad for weight in model.parameters() if weight.grad is not None):
            raise self.not_finite("the gradient is NaN or infinite")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: Any, **_: Any
    ) -> None:
        """Stop before weights that are NaN or infinite are saved, and save no checkpoint of the last step.

        The adapter itself is saved at the last step, and a trainer that resumed there would do one step too many.
        """
        if not all_finite(weight for weight in model.parameters() if weight.requires_grad):
            raise self.not_finite("a weight is NaN or infinite")
        if state.global_step >= state.max_steps:
            control.should_save = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Record one step."""
        if not logs or "loss" not in logs:
            return
        metrics = {ours: float(logs[theirs]) for theirs, ours in _METRICS.items() if theirs in logs}
        for name in ("loss", "grad_norm"):
            if not math.isfinite(metrics.get(name, 0.0)):
                raise self.not_finite(f"the {name} is {metrics[name]}")
        self._step = state.global_step
        seconds = round(self._spent + time.monotonic() - self._began, 3)
        row = {"stage": self._stage, "step": state.global_step, "total": state.max_steps, **metrics, "seconds": seconds}
        if state.is_world_process_zero:
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        self.last = metrics
        if self._on_progress is not None:
            self._on_progress(Progress(self._stage, state.global_step, state.max_steps, metrics))
        self._ask_guard(row, state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Mark the new checkpoint as complete, after every process has written its part."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            mark_complete(checkpoint_of(self._out_dir, state.global_step))

    def not_finite(self, reason: str) -> TrainingDiverged:
        """Return the error for a step that gave NaN or an infinite value.

        The newest checkpoint's weights may be the cause; only an older checkpoint is known to work.
        """
        return self._diverged(reason, step=self._step + 1, good_until=self._step - 1)

    def _ask_guard(self, row: dict[str, Any], step: int) -> None:
        if self._guard is None or "valid_rate" not in row:
            return
        reason = self._guard.observe(reward=row["reward"], valid_rate=row["valid_rate"])
        if reason is not None:
            # The answers of a step were drawn with the weights of the step before.
            raise self._diverged(reason, step=step, good_until=step - self._guard.bad_steps - 1)

    def _diverged(self, reason: str, *, step: int, good_until: int) -> TrainingDiverged:
        good = [checkpoint for checkpoint in complete_checkpoints(self._out_dir) if step_of(checkpoint) <= good_until]
        last_good = good[-1] if good else None
        where = (
            f"The last good adapter, of step {step_of(last_good)}, is in {last_good}; later stages can use it."
            if last_good
            else "There is no earlier checkpoint."
        )
        scale = "" if self._guard is None else f" or use {self._stage}.scale_rewards = 'batch' or 'group',"
        return TrainingDiverged(
            f"{self._stage} stopped at step {step}: {reason}. {where}\n"
            f"Lower {self._stage}.learning_rate,{scale} and run again.",
            last_good=last_good,
        )


class AnswerRecorder(TrainerCallback):
    """Keeps all answers that TRL's GRPO trainer draws; a resumed run forgets those after its checkpoint."""

    def __init__(self, trainer: Any, out_dir: Path, *, horizon: int) -> None:
        self._trainer = trainer
        self._out_dir = out_dir
        self._path = out_dir / "answers.jsonl"
        self._horizon = horizon

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Drop the answers of steps that are done again."""
        if state.is_world_process_zero:
            rows = [row for row in _read_rows(self._path) if row["step"] <= state.global_step]
            write_atomically(self._path, "".join(json.dumps(row) + "\n" for row in rows))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Write the answers of one step."""
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        drawn = self._trainer._logs
        columns = (drawn["extra"]["window_id"], drawn["completion"], drawn["rewards"]["AccuracyReward"])
        with self._path.open("a") as file:
            for window, text, accuracy in zip(*columns, strict=True):
                row = (state.global_step, window, text, fault_of(text, horizon=self._horizon), accuracy)
                file.write(json.dumps(dict(zip(GRPO_ANSWER_COLUMNS, row, strict=True))) + "\n")

    def finish(self) -> None:
        """Turn the answers into one compressed `answers.parquet`."""
        if PartialState().is_main_process:
            frame = pd.DataFrame(_read_rows(self._path), columns=list(GRPO_ANSWER_COLUMNS)).astype({"fault": "str"})
            with atomic_path(self._out_dir / ANSWERS_FILE) as partial:
                frame.to_parquet(partial, index=False, compression="zstd")

    def clear(self) -> None:
        """Remove what only a resumed run needs."""
        if PartialState().is_main_process:
            self._path.unlink(missing_ok=True)


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Return whether all values of all floating-point tensors are finite."""
    values = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
    return not values or bool(torch.stack([value.isfinite().all() for value in values]).all())


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a `metrics.jsonl`, without a last line that a kill cut off."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key not in ("stage", "step", "total", "seconds")}
