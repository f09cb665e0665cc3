"""Throughput of sampling and GRPO on randomly initialised models of real sizes, as rows of a Markdown table.

    python tests/benchmarks/gpu.py --shape 7B --backend unsloth            # on a GPU
    python tests/benchmarks/gpu.py --shape 0.5B --device cpu --layers 2    # a quick check without a GPU

The values of the weights do not change the duration of a step, so nothing is downloaded. An untrained model hardly ever
ends an answer: each answer is counted as `--tokens` tokens.
"""

import json
import os
import platform
import resource
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.features.synthetic import market
from tickerforge.features.windows import build_windows
from tickerforge.training.backends import gpu_name, named, sampler_for
from tickerforge.training.backends.base import SamplingJob
from tickerforge.training.config import GRPOStageConfig, GuardConfig, SamplingConfig, TrainingConfig
from tickerforge.training.contracts import Progress
from tickerforge.training.examples import build_examples
from tickerforge.training.stages import run_grpo

SHAPES = {
    "0.5B": {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "7B": {
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
}


def save_model(folder: Path, shape: dict) -> int:
    """Write a random model of a shape in bfloat16, with the tiny model's tokenizer extended to its vocabulary.

    Returns:
        Number of parameters.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from tickerforge.training.backends.tiny_model import build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    tokenizer.add_tokens([f"filler{index}" for index in range(shape["vocab_size"] - len(tokenizer))])
    tokenizer.save_pretrained(folder)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = Qwen2Config(max_position_embeddings=4096, dtype="bfloat16", **ends, **shape)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.set_default_dtype(torch.bfloat16)
        model = Qwen2ForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder, safe_serialization=True)
    return model.num_parameters()


def memory_gib() -> float:
    """Return the memory in use (GiB): of all GPUs that the driver lists, or without one the peak of this process."""
    if gpu_name() is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return sum(float(line) for line in subprocess.check_output(query, text=True).split()) / 1024


def main(
    shape: Annotated[str, typer.Option(help="0.5B or 7B.")] = "0.5B",
    backend: Annotated[str, typer.Option(help="transformers or unsloth.")] = "transformers",
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    layers: Annotated[int | None, typer.Option(help="Fewer layers than the shape has.")] = None,
    steps: Annotated[int, typer.Option(min=2)] = 6,
    prompts: int = 12,
    group: int = 8,
    tokens: Annotated[int, typer.Option(min=8, help="Tokens of an answer.")] = 64,
    micro: int = 8,
    four_bit: bool = True,
) -> None:
    """Measure, and print the row below the head of the table."""
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif gpu_name() is None:
        raise typer.BadParameter("no GPU was found: --device cpu")
    card = gpu_name() or f"{platform.machine()} CPU"
    sizes = SHAPES[shape] | ({"num_hidden_layers": layers} if layers else {})
    config = TrainingConfig(
        model="random",
        backend=backend,
        load_in_4bit=four_bit,
        micro_batch_size=micro,
        gradient_checkpointing=shape == "7B",
        checkpoint_every=1000,
        sampling=SamplingConfig(max_tokens=tokens, samples=group),
        guard=GuardConfig(min_valid_rate=0.0, max_reward_drop=1e6),
        grpo_1st=GRPOStageConfig(steps=steps, prompts_per_step=prompts, group_size=group),
    )
    features = FeatureConfig()
    windows = build_windows(market(SyntheticConfig()), ticker="DEMO", config=features)
    examples = build_examples(windows[windows["split"] == "train"], config=features)
    peak = 0.0

    def watch(_: Progress) -> None:
        nonlocal peak
        peak = max(peak, memory_gib())

    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        parameters = save_model(base, sizes)
        sampler = sampler_for(named(backend), config=config)
        seconds = []
        for seed in (0, 1):  # the first call compiles and warms up
            began = time.monotonic()
            job = SamplingJob(str(base), None, config, answers=group, horizon=features.horizon, seed=seed)
            sampler.generate([example.prompt for example in examples[:prompts]], job=job)
            seconds.append(time.monotonic() - began)
        result = run_grpo(
            examples,
            stage="grpo_1st",
            base_model=str(base),
            adapter=None,
            config=config,
            out_dir=Path(name) / "grpo",
            seed=0,
            on_progress=watch,
        )
        rows = [json.loads(line) for line in result.metrics_path.read_text().splitlines()]
    pace = (rows[-1]["step"] - rows[0]["step"]) / (rows[-1]["seconds"] - rows[0]["seconds"])
    typer.echo("| model | layers | parameters | backend | device | sampler | rollout tokens/s | steps/s | peak GiB |")
    typer.echo("|---|---|---|---|---|---|---|---|---|")
    typer.echo(
        f"| {shape} | {sizes['num_hidden_layers']} | {parameters / 1e6:.0f}M | {backend} | {card} | {sampler.name} "
        f"| {prompts * group * tokens / seconds[-1]:.0f} | {pace:.3f} | {peak:.1f} |"
    )


if __name__ == "__main__":
    typer.run(main)
