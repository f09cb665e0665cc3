"""GRPO and SFT by TRL, with checkpoints, resume, collapse guard and metrics; for any model that PEFT has wrapped."""

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from training.backends.base import TrainingJob
from training.config import GRPOStageConfig
from training.contracts import Example, OnProgress, Progress
from training.errors import TrainingDiverged
from training.guard import CollapseGuard
from training.rewards import reward_terms

logger = logging.getLogger(__name__)

COMPLETE = "COMPLETE"
METRICS = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "reward": "reward",
    "reward_std": "reward_std",
    "rewards/FormatReward/mean": "valid_rate",
    "rewards/AccuracyReward/mean": "accuracy",
    "rewards/FinancialReward/mean": "financial",
    "frac_reward_zero_std": "zero_variance_groups",
    "completions/mean_length": "answer_tokens",
    "entropy": "entropy",
    "mean_token_accuracy": "token_accuracy",
}


def grpo(model: Any, tokenizer: Any, examples: Sequence[Example], *, job: TrainingJob) -> dict[str, float]:
    """Train by group-relative policy optimisation; see `Backend.train_grpo`."""
    from datasets import Dataset

    stage: GRPOStageConfig = getattr(job.config, job.stage)
    terms, weights = reward_terms(job.config.reward, horizon=len(examples[0].target), unit=job.unit)
    answers = stage.prompts_per_step * stage.group_size
    micro = math.gcd(job.config.micro_batch_size, answers)
    args = GRPOConfig(
        **_common_arguments(job, max_steps=stage.steps, learning_rate=job.config.learning_rate(job.stage)),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=answers // micro,
        num_generations=stage.group_size,
        max_completion_length=job.config.sampling.max_tokens,
        temperature=stage.temperature,
        loss_type=stage.loss_type,
        scale_rewards=stage.scale_rewards,
        reward_weights=weights,
        **job.engine_arguments,
    )
    dataset = Dataset.from_list(
        [{"prompt": e.prompt, "target": list(e.target), "last_close": e.last_close} for e in examples]
    )
    trainer = GRPOTrainer(model=model, reward_funcs=terms, args=args, train_dataset=dataset, processing_class=tokenizer)
    return run_trainer(trainer, job=job, guard=CollapseGuard(job.config.guard))


def sft(model: Any, tokenizer: Any, accepted: pd.DataFrame, *, job: TrainingJob) -> dict[str, float]:
    """Fine-tune on accepted answers, with loss on the answers only; see `Backend.train_sft`."""
    from datasets import Dataset

    stage = job.config.sft
    micro = math.gcd(job.config.micro_batch_size, stage.batch_size)
    args = SFTConfig(
        **_common_arguments(job, max_steps=-1, learning_rate=job.config.learning_rate(job.stage)),
        num_train_epochs=stage.epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=stage.batch_size // micro,
        max_length=job.config.max_seq_length,
        completion_only_loss=True,
        dataset_num_proc=None,
    )
    dataset = Dataset.from_list(
        [
            {"prompt": json.loads(prompt), "completion": [{"role": "assistant", "content": answer}]}
            for prompt, answer in zip(accepted["prompt"], accepted["answer"], strict=True)
        ]
    )
    trainer = SFTTrainer(model=model, args=args, train_dataset=dataset, processing_class=tokenizer)
    return run_trainer(trainer, job=job, guard=None)


def _common_arguments(job: TrainingJob, *, max_steps: int, learning_rate: float) -> dict[str, Any]:
    return {
        "output_dir": str(job.out_dir),
        "max_steps": max_steps,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
        "warmup_steps": 5,
        "max_grad_norm": 1.0,
        "gradient_checkpointing": job.config.gradient_checkpointing,
        "seed": job.seed,
        "data_seed": job.seed,
        **trainer_arguments(save_steps=job.config.checkpoint_every, kept=_kept_checkpoints(job)),
    }


def _kept_checkpoints(job: TrainingJob) -> int:
    """Enough that one from before the guard's patience is still there when it speaks."""
    return job.config.guard.patience // job.config.checkpoint_every + 2


def trainer_arguments(*, save_steps: int, kept: int = 2) -> dict[str, Any]:
    """Arguments that every trainer here shares: log each step, save every `save_steps`, report to nobody.

    bfloat16 on a GPU, float32 on a CPU: many CPUs emulate bfloat16, at a third of the speed.
    """
    on_gpu = torch.cuda.is_available()
    return {
        "bf16": on_gpu,
        "use_cpu": not on_gpu,
        "logging_steps": 1,
        "logging_first_step": True,
        "save_strategy": "steps",
        "save_steps": save_steps,
        "save_total_limit": kept,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
    }


def run_trainer(trainer: Trainer, *, job: TrainingJob, guard: CollapseGuard | None) -> dict[str, float]:
    """Train from the last complete checkpoint in the job's folder, if any, to the end; leave the adapter there.

    Returns:
        The metrics of the last step.

    Raises:
        TrainingDiverged: The guard stopped the run; names the newest checkpoint from before the collapse.
    """
    last = train_resumably(trainer, out_dir=job.out_dir, stage=job.stage, guard=guard, on_progress=job.on_progress)
    for settings in trainer.model.peft_config.values():
        # Every process writes a set in another order, and the same adapter would have another identity.
        if isinstance(settings.target_modules, set):
            settings.target_modules = sorted(settings.target_modules)
    trainer.model.save_pretrained(str(job.out_dir / "adapter"), safe_serialization=True)
    (job.out_dir / "adapter" / "README.md").unlink(missing_ok=True)
    remove_checkpoints(job.out_dir)
    return last


def train_resumably(
    trainer: Trainer, *, out_dir: Path, stage: str, guard: CollapseGuard | None, on_progress: OnProgress | None
) -> dict[str, float]:
    """Train to the end, from the last complete checkpoint if there is one; the same result either way."""
    checkpoint = last_complete_checkpoint(out_dir)
    recorder = StepRecorder(
        out_dir, stage=stage, resumed_at=_step_of(checkpoint) if checkpoint else 0, guard=guard, on_progress=on_progress
    )
    trainer.remove_callback(_printer_callback())
    trainer.add_callback(recorder)
    if checkpoint is not None:
        logger.info("%s: resuming at step %d", stage, _step_of(checkpoint))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return recorder.last


def _printer_callback() -> type[TrainerCallback]:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback


class StepRecorder(TrainerCallback):
    """Writes each step to `metrics.jsonl`, reports progress, marks complete checkpoints and asks the guard."""

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
        self._path = out_dir / "metrics.jsonl"
        self._stage = stage
        self._guard = guard
        self._on_progress = on_progress
        self._began = time.monotonic()
        self._spent = 0.0
        self.last: dict[str, float] = {}
        rows = [row for row in read_metrics(self._path) if row["step"] <= resumed_at]
        for row in rows:
            self._ask_guard(row, row["step"])
            self._spent = row["seconds"]
        if rows:
            self.last = _numbers(rows[-1])
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(temporary, self._path)

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
        metrics = {ours: float(logs[theirs]) for theirs, ours in METRICS.items() if theirs in logs}
        seconds = round(self._spent + time.monotonic() - self._began, 3)
        row = {"stage": self._stage, "step": state.global_step, "total": state.max_steps, **metrics, "seconds": seconds}
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.last = metrics
        if self._on_progress is not None:
            self._on_progress(Progress(self._stage, state.global_step, state.max_steps, metrics))
        self._ask_guard(row, state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Mark the checkpoint just written as complete."""
        checkpoint = self._out_dir / f"checkpoint-{state.global_step}"
        for file in (path for path in checkpoint.rglob("*") if path.is_file()):
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        (checkpoint / COMPLETE).touch()

    def _ask_guard(self, row: dict[str, Any], step: int) -> None:
        if self._guard is None or "valid_rate" not in row:
            return
        reason = self._guard.observe(reward=row["reward"], valid_rate=row["valid_rate"])
        if reason is None:
            return
        good = [c for c in complete_checkpoints(self._out_dir) if _step_of(c) <= step - self._guard.patience]
        last_good = good[-1] if good else None
        where = (
            f"The last good checkpoint is {last_good}." if last_good else "It collapsed before the first checkpoint."
        )
        raise TrainingDiverged(
            f"{self._stage} stopped at step {step}: {reason}. {where}\n"
            "Lower the learning rate, or use scale_rewards = 'batch' or 'group'.",
            last_good=last_good,
        )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a last line that a kill cut short is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key not in ("stage", "step", "total", "seconds")}


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[1])


def complete_checkpoints(out_dir: Path) -> list[Path]:
    """Checkpoints that were written to the end, oldest first."""
    found = [path for path in out_dir.glob("checkpoint-*") if (path / COMPLETE).exists()]
    return sorted(found, key=_step_of)


def last_complete_checkpoint(out_dir: Path) -> Path | None:
    """The newest checkpoint written to the end; half-written ones are removed."""
    for path in out_dir.glob("checkpoint-*"):
        if not (path / COMPLETE).exists():
            shutil.rmtree(path)
    found = complete_checkpoints(out_dir)
    return found[-1] if found else None


def remove_checkpoints(out_dir: Path) -> None:
    """Delete the checkpoints, once the result is saved."""
    for path in out_dir.glob("checkpoint-*"):
        (path / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(path)
