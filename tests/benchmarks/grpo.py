"""CPU time per GRPO step: our trainer with its records and checks, and TRL's own trainer with the same settings.

Both train the same model on the same prompts, 8 prompts with 8 answers each per step. They take turns of a few steps.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tiny_setup import FEATURES, base_model, examples, spread
from transformers import TrainerCallback, set_seed
from trl import GRPOConfig, GRPOTrainer

from tickerforge.training.backends.base import TrainingJob
from tickerforge.training.backends.loading import LORA_TARGETS, load_base, load_tokenizer
from tickerforge.training.backends.transformers_ import TransformersBackend
from tickerforge.training.config import GRPOStageConfig, GuardConfig, TrainingConfig
from tickerforge.training.contracts import Example, Progress
from tickerforge.training.rewards import reward_terms

WARM_UP = 2


class Clock(TrainerCallback):
    """Records CPU time and wall-clock time after every step."""

    def __init__(self) -> None:
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def tick(self) -> None:
        """Record the end of a step."""
        self.cpu.append(time.process_time())
        self.wall.append(time.perf_counter())

    def on_log(self, *_: Any, **__: Any) -> None:
        """Record a step: TRL's trainer logs once per step, as ours does."""
        self.tick()

    def steps(self, ticks: list[float]) -> list[float]:
        """Return the duration of each step, without the warm-up steps."""
        return [after - before for before, after in zip(ticks[WARM_UP - 1 :], ticks[WARM_UP:], strict=False)]


def plain_adapter(job: TrainingJob) -> Any:
    """Load the base model with a new adapter as PEFT makes it."""
    set_seed(job.seed)
    rank = job.config.lora_rank
    lora = LoraConfig(r=rank, lora_alpha=rank, target_modules=LORA_TARGETS, task_type="CAUSAL_LM")
    return get_peft_model(load_base(job.base_model, trust_remote_code=False), lora)


def bare(job: TrainingJob, asked: list[Example], clock: TrainerCallback, *, model: Any) -> None:
    """Train with TRL's own trainer."""
    answers = job.config.grpo_1st.prompts_per_step * job.config.grpo_1st.group_size
    micro = min(answers, job.config.micro_batch_size)
    stage = job.config.grpo_1st
    terms, weights = reward_terms(job.config.reward, horizon=FEATURES.horizon, unit=job.unit)
    args = GRPOConfig(
        output_dir=str(job.out_dir),
        max_steps=stage.steps,
        learning_rate=job.config.learning_rate("grpo_1st"),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=answers // micro,
        num_generations=stage.group_size,
        max_completion_length=job.config.sampling.max_tokens,
        loss_type=stage.loss_type,
        scale_rewards=stage.scale_rewards,
        reward_weights=weights,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=job.seed,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=terms,
        args=args,
        train_dataset=Dataset.from_list(
            [{"prompt": e.prompt, "target": list(e.target), "last_close": e.last_close} for e in asked]
        ),
        processing_class=load_tokenizer(job.base_model, trust_remote_code=False),
        callbacks=[clock],
    )
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train()


def ours(job: TrainingJob, asked: list[Example]) -> None:
    """Train as `tickerforge run` does."""
    TransformersBackend().train_grpo(asked, job=job)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-model", help="folder of a tiny base model; default: build one")
    parser.add_argument("--rounds", type=int, default=4, help="turns per trainer (4)")
    parser.add_argument("--steps", type=int, default=5, help="measured steps per turn (5)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = base_model(options.base_model)
    asked = examples(200)
    config = TrainingConfig(
        grpo_1st=GRPOStageConfig(steps=options.steps + WARM_UP),
        guard=GuardConfig(min_valid_rate=0.0, max_reward_drop=100.0),
    )
    cpu: dict[str, list[float]] = {"TRL": [], "ours": []}
    wall: dict[str, list[float]] = {"TRL": [], "ours": []}
    for turn in range(options.rounds):
        for name in cpu:
            clock = Clock()

            def report(_: Progress, clock: Clock = clock) -> None:
                clock.tick()

            with tempfile.TemporaryDirectory() as folder:
                job = TrainingJob("grpo_1st", base, None, config, Path(folder), turn, on_progress=report)
                bare(job, asked, clock, model=plain_adapter(job)) if name == "TRL" else ours(job, asked)
            cpu[name] += clock.steps(clock.cpu)[: options.steps]
            wall[name] += clock.steps(clock.wall)[: options.steps]
    for name in cpu:
        print(f"{name}: {len(cpu[name])} steps, CPU-seconds per step {spread(cpu[name])}, seconds {spread(wall[name])}")
    for kind, taken in (("CPU time", cpu), ("time", wall)):
        ratio = statistics.median(taken["ours"]) / statistics.median(taken["TRL"])
        print(f"ours / TRL, {kind}, of medians: {ratio:.3f} (at most 1.05 wanted)")


if __name__ == "__main__":
    main()
