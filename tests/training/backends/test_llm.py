"""vLLM and Unsloth for real, on whatever their builds need: `make check-llm` runs these tests on a CPU."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.features.prompts import parse
from tickerforge.features.synthetic import market
from tickerforge.features.windows import build_windows
from tickerforge.training.backends import gpu_name, named, release_models, why_not
from tickerforge.training.backends.base import SamplingJob
from tickerforge.training.backends.loading import LORA_TARGETS
from tickerforge.training.backends.tiny_model import build_model, build_tokenizer
from tickerforge.training.config import (
    GRPOStageConfig,
    GuardConfig,
    LaunchConfig,
    SamplingConfig,
    TinyConfig,
    TrainingConfig,
)
from tickerforge.training.contracts import Example
from tickerforge.training.errors import TrainingError
from tickerforge.training.examples import build_examples
from tickerforge.training.stages import run_grpo
from trained_pieces import FEATURES as SHORT
from trained_pieces import shared_store, tiny_base_model

pytestmark = pytest.mark.gpu

needs_vllm = pytest.mark.skipif(why_not("vllm") is not None, reason=f"vllm cannot run here: {why_not('vllm')}")
needs_unsloth = pytest.mark.skipif(
    why_not("unsloth") is not None, reason=f"unsloth cannot run here: {why_not('unsloth')}"
)
needs_no_gpu = pytest.mark.skipif(gpu_name() is not None, reason="computes in float32 only without a GPU")

FEATURES = FeatureConfig(prompt_style="prices")
CONFIG = TrainingConfig(
    model="local",
    lora_rank=8,
    gpu_memory_utilization=0.1,
    # The same grammar for vLLM and transformers.
    sampling=SamplingConfig(max_tokens=48, constrained=True),
    guard=GuardConfig(min_valid_rate=0.0, max_reward_drop=100.0),
    grpo_1st=GRPOStageConfig(steps=3, prompts_per_step=2, group_size=4),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model of random weights."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    folder = tmp_path_factory.mktemp("base")
    build_model(TinyConfig(hidden_size=64, layers=1), tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    windows = build_windows(market(SyntheticConfig(sessions=400)), ticker="DEMO", config=FEATURES)
    return build_examples(windows.iloc[:8], config=FEATURES)


@pytest.fixture(scope="module")
def adapters(base: str, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters of random weights, in folders of the same name."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        lora = LoraConfig(
            r=8, lora_alpha=8, target_modules=LORA_TARGETS, task_type="CAUSAL_LM", init_lora_weights=False
        )
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
        made.append(tmp_path_factory.mktemp("adapters") / "adapter")
        model.save_pretrained(made[-1])
    return made


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    release_models()


def answers(sampler: str, examples: list[Example], base: str, adapter: Path | None) -> list[list[str]]:
    from tickerforge.training.backends.vllm_ import VLLMSampler

    job = SamplingJob(base, adapter, CONFIG, answers=8, horizon=10, seed=3)
    chosen = VLLMSampler() if sampler == "vllm" else named("transformers")
    return chosen.generate([example.prompt for example in examples], job=job)


def engines() -> list[psutil.Process]:
    return [
        each
        for each in psutil.Process().children(recursive=True)
        if each.status() != psutil.STATUS_ZOMBIE and any("vllm_engine" in word for word in each.cmdline())
    ]


def agreement(one: list[list[str]], other: list[list[str]]) -> float:
    same = [a == b for first, second in zip(one, other, strict=True) for a, b in zip(first, second, strict=True)]
    return sum(same) / len(same)


@needs_vllm
@needs_no_gpu
def test_vllm_draws_the_answers_of_transformers_for_each_of_two_adapters_of_one_folder_name(
    base: str, examples: list[Example], adapters: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    drawn = {adapter: answers("vllm", examples, base, adapter) for adapter in (None, *adapters)}
    printed = capfd.readouterr().out
    assert "vllm" not in printed.lower()
    assert all(parse(text, horizon=10) for group in drawn[None] for text in group)
    for adapter, found in drawn.items():
        # Rounding may change a token that lies on the border between two.
        assert agreement(found, answers("transformers", examples, base, adapter)) > 0.9
    assert agreement(drawn[adapters[0]], drawn[adapters[1]]) < 0.5
    assert answers("vllm", examples[3:4], base, adapters[1]) == drawn[adapters[1]][3:4]


@needs_vllm
def test_releasing_the_models_ends_the_engine(base: str, examples: list[Example]) -> None:
    answers("vllm", examples[:1], base, None)
    running = engines()
    assert running
    release_models()
    _, alive = psutil.wait_procs(running, timeout=20)
    assert not alive


@needs_vllm
def test_the_engine_ends_with_a_killed_parent(base: str, tmp_path: Path) -> None:
    program = tmp_path / "sample.py"
    program.write_text(
        textwrap.dedent(f"""
        import time
        from tickerforge.training.backends.vllm_ import EngineProcess
        engine = EngineProcess(model={base!r}, max_model_len=512, gpu_memory_utilization=0.1)
        print(engine._process.pid, flush=True)
        time.sleep(600)
        """)
    )
    parent = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    engine = psutil.Process(int(parent.stdout.readline()))
    processes = [engine, *engine.children(recursive=True)]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive


@needs_vllm
def test_an_engine_without_memory_names_vllms_error_and_the_setting(
    base: str, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tickerforge.training.backends.vllm_ import VLLMSampler

    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    starved = CONFIG.model_copy(update={"gpu_memory_utilization": 1.0 if gpu_name() is None else 1e-4})
    job = SamplingJob(base, None, starved, answers=1, horizon=10, seed=0)
    with pytest.raises(TrainingError, match=r"emory.*training\.gpu_memory_utilization"):
        VLLMSampler().generate([examples[0].prompt], job=job)


@needs_vllm
def test_what_runs_here_is_what_vllm_says_itself() -> None:
    script = "from vllm.platforms import current_platform; print(current_platform.device_type)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == ("cpu" if gpu_name() is None else "cuda")


@needs_unsloth
@needs_no_gpu
def test_unsloth_on_a_cpu_trains_the_adapter_of_transformers(tmp_path: Path) -> None:
    # A model that writes valid answers: from others nothing is learned.
    base = tiny_base_model(shared_store()).location
    windows = build_windows(market(SyntheticConfig(sessions=400)), ticker="DEMO", config=SHORT)
    examples = build_examples(windows.iloc[:8], config=SHORT)
    found = []
    for backend in ("unsloth", "transformers"):
        config = CONFIG.model_copy(update={"backend": backend, "launch": LaunchConfig(isolate=True)})
        common: dict = {"stage": "grpo_1st", "base_model": base, "adapter": None, "seed": 0}
        result = run_grpo(examples, config=config, out_dir=tmp_path / backend, **common)
        steps = [json.loads(line) for line in (tmp_path / backend / "metrics.jsonl").read_text().splitlines()]
        assert steps[-1]["grad_norm"] > 0
        found.append((result.adapter_dir / "adapter_model.safetensors").read_bytes())
    assert found[0] == found[1]


@needs_unsloth
@needs_no_gpu
def test_unsloths_patched_trainer_has_our_arguments_and_the_losses_of_trl_for_prompts_of_two_lengths(
    base: str, tmp_path: Path
) -> None:
    program = Path(__file__).parents[2] / "support" / "unsloth_patches.py"
    steps, facts = {}, {}
    for trainers in ("trl", "unsloth"):
        out = tmp_path / trainers
        subprocess.run(
            [sys.executable, str(program), trainers, base, str(out)],
            check=True,
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        steps[trainers] = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        facts[trainers] = json.loads((out / "facts.json").read_text())
    assert [facts[trainers]["patched"] for trainers in ("trl", "unsloth")] == [False, True]
    assert "--backend transformers" in facts["unsloth"]["refusal"]
    # Precision follows from the device; the others have no effect on a text model that is trained.
    harmless = {"fp16", "fp16_full_eval", "mixed_precision", "output_dir", "logging_dir", "torch_empty_cache_steps"}
    harmless |= {"per_device_eval_batch_size", "eval_accumulation_steps", "router_aux_loss_coef", "generation_kwargs"}
    ours, theirs = (facts[trainers]["arguments"] for trainers in ("trl", "unsloth"))
    assert {name for name in ours if theirs.get(name) != ours[name]} <= harmless
    for one, other in zip(steps["trl"], steps["unsloth"], strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-3)
        # Half precision on a pretended GPU, so the gradients agree less.
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=0.05)
