"""CPU time with a real language model: ours against plain TRL and plain `model.generate`, in turns, in one run.

The same model, prompts, batch and settings; every answer is cut off after `--tokens`, which is the length of a valid
one, so that a base model that has not learned the format costs both the same. Memory bounds the plain trainer: it gets
the answers of a step in parts of `--micro`, ours gets all of them at once.

python tests/benchmarks/real_model.py --base-model FOLDER
python tests/benchmarks/real_model.py --base-model FOLDER --part grpo --prompts 2
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from generation import ours as our_sampling
from generation import published
from grpo import bare, plain_adapter
from tiny_setup import examples, spread
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from tickerforge.features.prompts import render_answer
from tickerforge.training.backends import loading, trl_
from tickerforge.training.backends.base import TrainingJob
from tickerforge.training.backends.grpo_trainer import GroupedGRPOTrainer
from tickerforge.training.backends.loading import load_tokenizer, load_trainable
from tickerforge.training.config import (
    GRPOStageConfig,
    GuardConfig,
    SamplingConfig,
    SFTStageConfig,
    TrainingConfig,
)
from tickerforge.training.contracts import Example

Work = Callable[[], Any]


def sampling(options: argparse.Namespace, config: TrainingConfig, asked: list[Example]) -> tuple[Work, Work]:
    """Make the plain and our function that answer all prompts with one adapter."""
    adapter = Path(tempfile.mkdtemp(prefix="tickerforge-benchmark-")) / "adapter"
    job = TrainingJob("sft", options.base_model, None, config, adapter, 0)
    plain_adapter(job).save_pretrained(str(adapter))
    plain = published(options.base_model, adapter, asked[: options.prompts], options.answers, config.sampling)
    # Loads the model, which is kept.
    our_sampling(options.base_model, adapter, asked[:1], 1, config)()
    return plain, our_sampling(options.base_model, adapter, asked[: options.prompts], options.answers, config)


def grpo(options: argparse.Namespace, config: TrainingConfig, asked: list[Example]) -> tuple[Work, Work]:
    """Make the plain and our function that train one step."""

    def job_of(micro: int) -> TrainingJob:
        folder = Path(tempfile.mkdtemp(prefix="tickerforge-benchmark-"))
        return TrainingJob(
            "grpo_1st", options.base_model, None, config.model_copy(update={"micro_batch_size": micro}), folder, 0
        )

    plain, ours = job_of(options.micro), job_of(options.prompts * options.answers)
    models = {"plain": plain_adapter(plain), "ours": load_trainable(ours)}
    tokenizer = load_tokenizer(options.base_model, trust_remote_code=False)
    return (
        lambda: bare(plain, asked, TrainerCallback(), model=models["plain"]),
        lambda: trl_.grpo(models["ours"], tokenizer, asked, job=ours),
    )


def passes(options: argparse.Namespace, config: TrainingConfig, asked: list[Example]) -> tuple[Work, Work]:
    """Make the plain and our function for the forward and backward pass of a step, on random answers."""
    asked = asked[: options.prompts]
    folder = Path(tempfile.mkdtemp(prefix="tickerforge-benchmark-"))
    job = TrainingJob("grpo_1st", options.base_model, None, config, folder, 0)
    tokenizer = load_tokenizer(options.base_model, trust_remote_code=False)
    texts = [tokenizer.apply_chat_template(e.prompt, tokenize=False, add_generation_prompt=True) for e in asked]
    prompts = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    count = options.prompts * options.answers
    answers = torch.randint(10, len(tokenizer), (count, options.tokens), generator=torch.Generator().manual_seed(0))
    ids = torch.cat([prompts["input_ids"].repeat_interleave(options.answers, 0), answers], 1)
    seen = torch.cat([prompts["attention_mask"].repeat_interleave(options.answers, 0), torch.ones_like(answers)], 1)

    def work(cls: Any, model: Any, size: int) -> Work:
        args = GRPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=options.answers,
            num_generations=options.answers,
            max_completion_length=options.tokens,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
        )
        trainer = cls(
            model=model,
            reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
            args=args,
            train_dataset=Dataset.from_list([{"prompt": asked[0].prompt}] * options.answers),
            processing_class=tokenizer,
        )

        def run() -> None:
            model.zero_grad()
            for part, mask in zip(ids.split(size), seen.split(size), strict=True):
                found = trainer._full_logits_logps(model, part, mask, options.tokens, compute_entropy=True)
                (found[0].sum() / count).backward()

        return run

    return work(GRPOTrainer, plain_adapter(job), options.micro), work(GroupedGRPOTrainer, load_trainable(job), count)


def sft(options: argparse.Namespace, config: TrainingConfig, asked: list[Example]) -> tuple[Work, Work]:
    """Make the plain and our function that fine-tune one step on answers of a random walk."""
    rng = np.random.default_rng(0)
    count = options.prompts * options.answers if options.examples is None else options.examples
    answers = [render_answer(rng.normal(0, 10, 10).cumsum()) for _ in range(count)]
    data = pd.DataFrame({"prompt": [json.dumps(e.prompt) for e in asked[:count]], "answer": answers})
    config = config.model_copy(update={"sft": SFTStageConfig(epochs=1, batch_size=count)})
    job = TrainingJob(
        "sft", options.base_model, None, config, Path(tempfile.mkdtemp(prefix="tickerforge-benchmark-")), 0
    )
    models = {"plain": plain_adapter(job), "ours": load_trainable(job)}
    if options.float32:
        loading.cpu_has_bfloat16 = lambda: False
    ours = "bfloat16" if loading.fine_tunes_in_bfloat16(models["ours"]) else "float32"
    print(f"  sft: plain TRL in float32, ours in {ours}")
    tokenizer = load_tokenizer(options.base_model, trust_remote_code=False)
    micro = min(options.micro, count)

    def plain() -> None:
        args = SFTConfig(
            output_dir=str(job.out_dir),
            num_train_epochs=1,
            learning_rate=job.learning_rate,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=count // micro,
            completion_only_loss=True,
            max_length=config.max_seq_length,
            gradient_checkpointing=False,
            use_cpu=True,
            bf16=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        rows = [
            {"prompt": e.prompt, "completion": [{"role": "assistant", "content": answer}]}
            for e, answer in zip(asked, answers, strict=False)
        ]
        trainer = SFTTrainer(
            model=models["plain"], args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()

    return plain, lambda: trl_.sft(models["ours"], tokenizer, data, job=job)


PARTS = {
    "sampling": (sampling, "plain model.generate in batches of 60", "at least 4 times as fast wanted"),
    "grpo": (grpo, "plain TRL", "at most 1/3 of the time wanted"),
    "passes": (passes, "plain TRL", "the part of GRPO that is no sampling"),
    "sft": (sft, "plain TRL", "at most 0.7 of the time wanted"),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", required=True, help="folder of a model, for example SmolLM2-135M-Instruct")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (all)")
    parser.add_argument("--prompts", type=int, default=8, help="prompts (8)")
    parser.add_argument("--answers", type=int, default=8, help="answers per prompt (8)")
    parser.add_argument("--examples", type=int, help="examples of SFT (prompts times answers)")
    parser.add_argument("--tokens", type=int, default=48, help="tokens per answer (48)")
    parser.add_argument("--micro", type=int, default=16, help="answers at a time of the plain trainers (16)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each variant (3)")
    parser.add_argument("--float32", action="store_true", help="fine-tune in float32 also on a CPU that has bfloat16")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    options = parser.parse_args()
    asked = examples(200)
    config = TrainingConfig(
        model=options.base_model,
        sampling=SamplingConfig(max_tokens=options.tokens),
        grpo_1st=GRPOStageConfig(
            steps=1, prompts_per_step=options.prompts, group_size=options.answers, learning_rate=1e-5
        ),
        guard=GuardConfig(min_valid_rate=0.0, max_reward_drop=100.0),
    )
    for part in options.part:
        make, reference, wanted = PARTS[part]
        plain, ours = make(options, config, asked)
        # Loading a small model limits the threads.
        torch.set_num_threads(options.threads)
        taken: dict[str, list[float]] = {reference: [], "ours": []}
        for _ in range(options.rounds):
            for name, work in ((reference, plain), ("ours", ours)):
                began = time.process_time()
                work()
                taken[name].append(time.process_time() - began)
                print(f"  {part}, {name}: {taken[name][-1]:.1f} s of CPU", flush=True)
        medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
        what = f"{options.prompts} prompts, {options.answers} answers each, {options.tokens} tokens"
        print(f"{part} ({what}): " + ", ".join(f"{name} {spread(seconds)} s of CPU" for name, seconds in taken.items()))
        print(f"{part}: ours / plain {medians['ours'] / medians[reference]:.3f} ({wanted})", flush=True)


if __name__ == "__main__":
    main()
