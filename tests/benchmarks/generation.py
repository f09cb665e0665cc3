"""Forecasts per CPU-second of our sampling and of `model.generate` in batches of 60 answers, as published.

Both use the same adapter on the same tiny model, the same prompts and the same number of samples. Tokenising, decoding
and parsing count. The variants take turns, so other load on the machine affects both.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tiny_setup import FEATURES, base_model, examples, spread

from tickerforge.features.prompts import parse
from tickerforge.training.backends.base import SamplingJob
from tickerforge.training.backends.loading import LORA_TARGETS, attach_adapter, load_base, load_tokenizer
from tickerforge.training.backends.transformers_ import TransformersBackend
from tickerforge.training.config import SamplingConfig, TrainingConfig
from tickerforge.training.contracts import Example

PUBLISHED_BATCH = 60


def published(
    base: str, adapter: Path, asked: list[Example], n: int, sampling: SamplingConfig
) -> Callable[[], list[str]]:
    """Make a function that samples every prompt n times in batches of 60, padded on the left; no merged adapter."""
    tokenizer = load_tokenizer(base, trust_remote_code=False)
    model = load_base(base, trust_remote_code=False)
    model = attach_adapter(model, adapter, trainable=False).eval()

    def draw() -> list[str]:
        texts = [
            tokenizer.apply_chat_template(example.prompt, tokenize=False, add_generation_prompt=True)
            for example in asked
            for _ in range(n)
        ]
        answers: list[str] = []
        for start in range(0, len(texts), PUBLISHED_BATCH):
            batch = tokenizer(
                texts[start : start + PUBLISHED_BATCH], return_tensors="pt", padding=True, add_special_tokens=False
            )
            with torch.no_grad():
                out = model.generate(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    do_sample=True,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    max_new_tokens=sampling.max_tokens,
                    pad_token_id=tokenizer.pad_token_id,
                )
            answers += tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        return answers

    return draw


def ours(base: str, adapter: Path, asked: list[Example], n: int, config: TrainingConfig) -> Callable[[], list[str]]:
    """Make a function that calls `TransformersBackend.generate` as forecasting does."""

    def draw() -> list[str]:
        job = SamplingJob(base, adapter, config, answers=n, horizon=FEATURES.horizon, seed=0)
        groups = TransformersBackend().generate([example.prompt for example in asked], job=job)
        return [text for group in groups for text in group]

    return draw


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-model", help="folder of a tiny base model; default: build one")
    parser.add_argument("--windows", type=int, default=30, help="forecasts per round (30)")
    parser.add_argument("--samples", type=int, default=16, help="answers per forecast (16)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds with one turn per variant (5)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = base_model(options.base_model)
    asked = examples(options.windows)
    adapter = Path(tempfile.mkdtemp(prefix="tickerforge-benchmark-")) / "adapter"
    lora = LoraConfig(r=32, lora_alpha=32, target_modules=LORA_TARGETS, task_type="CAUSAL_LM")
    get_peft_model(load_base(base, trust_remote_code=False), lora).save_pretrained(str(adapter))
    config = TrainingConfig()
    variants = {
        "model.generate, batches of 60": published(base, adapter, asked, options.samples, config.sampling),
        "ours": ours(base, adapter, asked, options.samples, config),
    }
    torch.set_num_threads(options.threads)
    cpu: dict[str, list[float]] = {name: [] for name in variants}
    wall: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(options.rounds + 1):
        for name, draw in variants.items():
            began, began_wall = time.process_time(), time.perf_counter()
            answers = draw()
            valid = sum(parse(text, horizon=FEATURES.horizon) is not None for text in answers) / len(answers)
            if turn == 0:  # warms up
                print(f"{name}: {len(answers)} answers, {valid:.1%} valid")
                continue
            cpu[name].append(options.windows / (time.process_time() - began))
            wall[name].append(options.windows / (time.perf_counter() - began_wall))
    for name in variants:
        print(f"{name}: forecasts per CPU-second {spread(cpu[name])}, per second {spread(wall[name])}")
    reference, mine = cpu.values()
    ratios = [b / a for a, b in zip(reference, mine, strict=True)]
    print(
        f"ours / reference, CPU time: {spread(ratios)} (of medians: {_ratio(mine, reference):.2f}; at least 3 wanted)"
    )


def _ratio(above: list[float], below: list[float]) -> float:
    return statistics.median(above) / statistics.median(below)


if __name__ == "__main__":
    main()
