"""GRPO and SFT with TRL for any PEFT model, with checkpoints, resume, collapse guard and metrics."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import PartialState
from transformers import Trainer, TrainerCallback
from trl import GRPOConfig, SFTConfig

from tickerforge.features.prompts import Chat
from tickerforge.training.backends.averaging import TailAverage
from tickerforge.training.backends.base import TrainingJob
from tickerforge.training.backends.checkpoints import last_complete_checkpoint, remove_checkpoints, step_of
from tickerforge.training.backends.grpo_trainer import REFERENCE
from tickerforge.training.backends.horizon_credit import HorizonCreditTrainer
from tickerforge.training.backends.loading import (
    check_length,
    context_length,
    fine_tunes_in_bfloat16,
    gpu_dtype,
    token_count,
)
from tickerforge.training.backends.memory import (
    MEMORY_CURE,
    TrainableWeights,
    largest_divisor,
    with_smaller_batches,
)
from tickerforge.training.backends.recorder import NOT_FINITE, AnswerRecorder, StepRecorder
from tickerforge.training.backends.sft_trainer import SharedSFTTrainer
from tickerforge.training.config import GRPOStageConfig, PrimeConfig, SFTStageConfig
from tickerforge.training.contracts import ADAPTER_FOLDER, Example, OnProgress
from tickerforge.training.errors import TrainingError
from tickerforge.training.guard import CollapseGuard
from tickerforge.training.rewards import reward_terms

logger = logging.getLogger(__name__)

LIKE_TRL = {
    "mask_truncated_completions": False,
    "epsilon": 0.2,
    "epsilon_high": 0.2,
    "vllm_importance_sampling_correction": True,
}
"""Arguments of GRPO with TRL's defaults, because Unsloth's configuration has others."""


def grpo(model: Any, tokenizer: Any, examples: Sequence[Example], *, job: TrainingJob) -> dict[str, float]:
    """Train by group-relative policy optimisation (GRPO); see `Backend.train_grpo`."""
    from datasets import Dataset

    stage: GRPOStageConfig = getattr(job.config, job.stage)
    terms, weights = reward_terms(job.config.reward, horizon=len(examples[0].target), unit=job.unit)
    answers = stage.prompts_per_step * stage.group_size // job.config.launch.processes
    longest = max((example.prompt for example in examples), key=_characters)
    limit = context_length(job.base_model, config=job.config)
    check_length(token_count(longest, tokenizer), answer=job.config.sampling.max_tokens, limit=limit)
    dataset = Dataset.from_list(
        [
            {"prompt": e.prompt, "target": list(e.target), "last_close": e.last_close, "window_id": e.window_id}
            for e in examples
        ]
    )

    def train(batch: int) -> dict[str, float]:
        micro = largest_divisor(answers, at_most=batch)
        if REFERENCE in model.peft_config:
            # Left by an attempt that ran out of memory; the trainer makes its own.
            model.delete_adapter(REFERENCE)
        given = {
            **LIKE_TRL,
            "loss_type": stage.loss_type,
            "scale_rewards": stage.scale_rewards,
            "beta": stage.kl,
            "temperature": stage.temperature,
        }
        args = GRPOConfig(
            **_common_arguments(job, max_steps=stage.steps),
            **given,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=answers // micro,
            num_generations=stage.group_size,
            max_completion_length=job.config.sampling.max_tokens,
            reward_weights=weights,
            **job.engine_arguments,
        )
        check_kept(args, given)
        trainer = HorizonCreditTrainer(
            model=model,
            reward_funcs=terms,
            args=on_one_gpu(args),
            train_dataset=dataset,
            processing_class=tokenizer,
            reward=job.config.reward,
            unit=job.unit,
        )
        trainer.add_callback(TailAverage(stage.tail_average))
        answers_drawn = AnswerRecorder(trainer, job.out_dir, horizon=len(examples[0].target))
        trainer.add_callback(answers_drawn)
        last = train_resumably(
            trainer,
            out_dir=job.out_dir,
            stage=job.stage,
            guard=CollapseGuard(job.config.guard),
            on_progress=job.on_progress,
        )
        answers_drawn.finish()
        save_adapter(trainer, job=job)
        answers_drawn.clear()
        return last

    return with_smaller_batches(train, **_memory_limits(model, answers, job=job))


def sft(model: Any, tokenizer: Any, accepted: pd.DataFrame, *, job: TrainingJob) -> dict[str, float]:
    """Fine-tune on accepted answers, with a loss on the answers only; see `Backend.train_sft`.

    Large models multiply in bfloat16 (by autocast) on a CPU that has it. Sampling stays in float32 there, and GRPO with
    it: in bfloat16, rounding would let the answers to a prompt depend on the other prompts of a batch.
    """
    from datasets import Dataset

    stage: SFTStageConfig | PrimeConfig = getattr(job.config, job.stage)
    answers = stage.batch_size // job.config.launch.processes
    rows = [(json.loads(prompt), answer) for prompt, answer in zip(accepted["prompt"], accepted["answer"], strict=True)]
    prompt, answer = max(rows, key=lambda row: _characters(row[0]) + len(row[1]))
    answer_tokens = len(tokenizer(answer, add_special_tokens=False)["input_ids"])
    limit = context_length(job.base_model, config=job.config)
    check_length(token_count(prompt, tokenizer), answer=answer_tokens, limit=limit)
    dataset = Dataset.from_list(
        [{"prompt": prompt, "completion": [{"role": "assistant", "content": answer}]} for prompt, answer in rows]
    )

    def train(batch: int) -> dict[str, float]:
        micro = largest_divisor(answers, at_most=batch)
        args = SFTConfig(
            **_common_arguments(job, max_steps=-1) | {"bf16": fine_tunes_in_bfloat16(model)},
            num_train_epochs=stage.epochs,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=answers // micro,
            max_length=job.config.max_seq_length,
            completion_only_loss=True,
            dataset_num_proc=None,
        )
        trainer = SharedSFTTrainer(
            model=model, args=on_one_gpu(args), train_dataset=dataset, processing_class=tokenizer
        )
        trainer.add_callback(TailAverage(stage.tail_average))
        last = train_resumably(trainer, out_dir=job.out_dir, stage=job.stage, guard=None, on_progress=job.on_progress)
        save_adapter(trainer, job=job)
        return last

    return with_smaller_batches(train, **_memory_limits(model, answers, job=job))


def _characters(prompt: Chat) -> int:
    return sum(len(message["content"]) for message in prompt)


def _memory_limits(model: Any, answers: int, *, job: TrainingJob) -> dict[str, Any]:
    """Return how `with_smaller_batches` fits the answers of a step into memory.

    Gradients accumulate over the parts of a step's batch, so every step learns from the whole batch. An attempt after
    memory ran out resumes from the last checkpoint, or starts over with the first weights. Several processes make no
    further attempt, so they keep no copy of the weights.
    """
    processes = job.config.launch.processes
    limits = {
        "batch": min(job.config.micro_batch_size, answers),
        "what": job.stage,
        "cure": MEMORY_CURE,
        "processes": processes,
    }
    return limits if processes > 1 else limits | {"reset": TrainableWeights(model).restore}


def _common_arguments(job: TrainingJob, *, max_steps: int) -> dict[str, Any]:
    return {
        "output_dir": str(job.out_dir),
        "max_steps": max_steps,
        "learning_rate": job.learning_rate,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
        "warmup_steps": 5,
        "max_grad_norm": 1.0,
        # Named although they are TRL's defaults, because Unsloth has others.
        "optim": "adamw_torch_fused",
        "weight_decay": 0.0,
        "gradient_checkpointing": job.config.gradient_checkpointing,
        "seed": job.seed,
        "data_seed": job.seed,
        **trainer_arguments(save_steps=job.config.checkpoint_every, kept=_kept_checkpoints(job)),
    }


def check_kept(args: Any, given: dict[str, Any]) -> None:
    """Check that the trainer's configuration has the values that it was given.

    Raises:
        TrainingError: It has others; Unsloth, for one, drops `scale_rewards = "group"` with the loss `dr_grpo`.
    """
    changed = {name: getattr(args, name) for name, value in given.items() if getattr(args, name) != value}
    if changed:
        asked = ", ".join(f"{name} = {given[name]!r}" for name in changed)
        found = ", ".join(f"{name} = {value!r}" for name, value in changed.items())
        raise TrainingError(
            f"{type(args).__name__} replaces {asked} by {found}: set these values, or use --backend transformers"
        )


def _kept_checkpoints(job: TrainingJob) -> int:
    """Return how many checkpoints to keep, so one is older than the guard's patience when it stops a run."""
    return job.config.guard.patience // job.config.checkpoint_every + 2


def trainer_arguments(*, save_steps: int, kept: int = 2) -> dict[str, Any]:
    """Return the arguments that all trainers share: log each step, save every `save_steps`, report to no service.

    Training uses bfloat16 on a GPU that has it and float32 on a CPU, with an exception in `sft`.
    """
    return {
        "bf16": gpu_dtype() == "bfloat16",
        "use_cpu": not torch.cuda.is_available(),
        "logging_steps": 1,
        "logging_first_step": True,
        # Otherwise a loss that is NaN or infinite is logged as the mean of the losses before it.
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": save_steps,
        "save_total_limit": kept,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
    }


def on_one_gpu(args: Any) -> Any:
    """Limit a process's arguments to one GPU; otherwise transformers splits each batch over all visible GPUs."""
    args._n_gpu = min(args.n_gpu, 1)
    return args


def save_adapter(trainer: Trainer, *, job: TrainingJob) -> None:
    """Save the trained adapter in the job's folder and remove the checkpoints; several processes save it once."""
    if not PartialState().is_main_process:
        return
    for settings in trainer.model.peft_config.values():
        # Each process would write a set in a different order, and equal adapters would get different hashes.
        if isinstance(settings.target_modules, set):
            settings.target_modules = sorted(settings.target_modules)
    trainer.model.save_pretrained(
        str(job.out_dir / ADAPTER_FOLDER), safe_serialization=True, selected_adapters=["default"]
    )
    (job.out_dir / ADAPTER_FOLDER / "README.md").unlink(missing_ok=True)
    remove_checkpoints(job.out_dir)


def train_resumably(
    trainer: Trainer, *, out_dir: Path, stage: str, guard: CollapseGuard | None, on_progress: OnProgress | None
) -> dict[str, float]:
    """Train to the end, from the last complete checkpoint if there is one; the result is the same either way.

    Returns:
        The metrics of the last step.

    Raises:
        TrainingDiverged: The run collapsed, or a value became NaN or infinite; names the newest checkpoint before that.
    """
    with PartialState().main_process_first():
        checkpoint = last_complete_checkpoint(out_dir)
    recorder = StepRecorder(
        out_dir, stage=stage, resumed_at=step_of(checkpoint) if checkpoint else 0, guard=guard, on_progress=on_progress
    )
    trainer.remove_callback(_printer_callback())
    trainer.add_callback(recorder)
    if checkpoint is not None:
        logger.info("%s: resuming at step %d", stage, step_of(checkpoint))
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except RuntimeError as error:
        if not any(words in str(error) for words in NOT_FINITE):
            raise
        raise recorder.not_finite(
            f"the probabilities of the next token seem to be NaN or infinite ({str(error).strip().splitlines()[0]})"
        ) from error
    return recorder.last


def _printer_callback() -> type[TrainerCallback]:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback
