"""The paths on a GPU: each trains the tiny model, and its adapter must forecast as one trained on the CPU does.

Without a GPU, `test_llm.py` compares Unsloth and vLLM with transformers to the byte.

How far two trainings may lie apart is measured, not guessed: twice as far as two seeds on the CPU do. Prices rise in
all windows that are trained on, so that the base model lies many times as far away, and a path that trains nothing or
leaves the adapter out is seen.
"""

import math
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.features.prompts import parse
from tickerforge.features.synthetic import market
from tickerforge.features.windows import build_windows
from tickerforge.training.backends import Sampler, gpu_name, gpu_names, named, why_not
from tickerforge.training.backends.base import SamplingJob
from tickerforge.training.config import (
    GRPOStageConfig,
    GuardConfig,
    LaunchConfig,
    SamplingConfig,
    TinyConfig,
    TrainingConfig,
)
from tickerforge.training.contracts import Example
from tickerforge.training.examples import build_examples
from tickerforge.training.models.tiny import build_tiny
from tickerforge.training.stages import run_grpo

pytestmark = pytest.mark.gpu

HORIZON = 10
CONFIG = TrainingConfig(
    model="local",
    backend="transformers",
    load_in_4bit=False,
    lora_rank=8,
    gpu_memory_utilization=0.1,
    launch=LaunchConfig(isolate=True),
    sampling=SamplingConfig(samples=64, max_tokens=48),
    guard=GuardConfig(min_valid_rate=0.0, max_reward_drop=100.0),
    grpo_1st=GRPOStageConfig(steps=20, learning_rate=3e-3),
)
RISE = tuple(float(round(15 * math.sqrt(ahead))) for ahead in range(1, HORIZON + 1))
"""In model units: one and a half standard deviations of a random walk."""
PORT = 8123

needs_gpu = pytest.mark.skipif(gpu_name() is None, reason="no GPU")
needs_two = pytest.mark.skipif(len(gpu_names()) < 2, reason="fewer than two GPUs")
needs_vllm = pytest.mark.skipif(why_not("vllm") is not None, reason=f"vllm cannot run here: {why_not('vllm')}")
needs_unsloth = pytest.mark.skipif(
    why_not("unsloth") is not None, reason=f"unsloth cannot run here: {why_not('unsloth')}"
)


@dataclass(frozen=True)
class Setting:
    """A base model, what to train on, what to forecast, and two adapters trained on the CPU."""

    base: str
    train: list[Example]
    asked: list[Example]
    on_cpu: tuple[Path, Path]

    def trained(self, out: Path, *, seed: int = 0, **changes: object) -> Path:
        """An adapter trained as `CONFIG` says but for `changes`."""
        config = CONFIG.model_copy(update=changes)
        common: dict = {"stage": "grpo_1st", "base_model": self.base, "adapter": None}
        return run_grpo(self.train, config=config, out_dir=out, seed=seed, **common).adapter_dir

    def forecasts(self, adapter: Path | None, *, sampler: Sampler | None = None) -> np.ndarray:
        """Median forecasts, shape (n_windows, horizon), in model units."""
        job = SamplingJob(self.base, adapter, CONFIG, answers=CONFIG.sampling.samples, horizon=HORIZON, seed=0)
        answers = (sampler or named("transformers")).generate([example.prompt for example in self.asked], job=job)
        valid = [[values for text in texts if (values := parse(text, horizon=HORIZON))] for texts in answers]
        assert all(len(values) >= CONFIG.sampling.samples / 2 for values in valid)
        return np.array([np.median(values, axis=0) for values in valid])

    def check(self, forecasts: np.ndarray) -> None:
        """Demand that forecasts lie near those of an adapter trained on the CPU, where the base model's do not."""
        first, second = (self.forecasts(adapter) for adapter in self.on_cpu)
        limit = 2 * np.abs(first - second).mean()
        assert np.abs(forecasts - first).mean() <= limit < np.abs(self.forecasts(None) - first).mean()


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    features = FeatureConfig()
    folder = tmp_path_factory.mktemp("gpu")
    build_tiny(folder, config=TinyConfig(steps=100), features=features)
    windows = build_windows(market(SyntheticConfig(sessions=400)), ticker="DEMO", config=features)
    seen = build_examples(windows[windows["split"] == "train"], config=features)
    train = [replace(example, target=RISE) for example in seen]
    asked = build_examples(windows[windows["split"] == "validation"].iloc[:12], config=features)
    hidden = Setting(str(folder), train, asked, (folder, folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        first, second = (hidden.trained(folder / f"seed-{seed}", seed=seed) for seed in (0, 1))
    return Setting(str(folder), train, asked, (first, second))


@needs_gpu
def test_transformers_on_a_gpu_trains_an_adapter_that_forecasts_as_the_cpus(setting: Setting, tmp_path: Path) -> None:
    setting.check(setting.forecasts(setting.trained(tmp_path)))


@needs_gpu
@needs_unsloth
def test_unsloth_trains_an_adapter_that_forecasts_as_the_cpus(setting: Setting, tmp_path: Path) -> None:
    setting.check(setting.forecasts(setting.trained(tmp_path, backend="unsloth")))


@needs_gpu
@needs_vllm
def test_vllm_forecasts_by_an_adapter_as_transformers_does(setting: Setting) -> None:
    from tickerforge.training.backends.vllm_ import VLLMSampler

    setting.check(setting.forecasts(setting.on_cpu[0], sampler=VLLMSampler()))


@needs_gpu
@needs_vllm
def test_vllm_answers_always_parse(setting: Setting) -> None:
    from tickerforge.training.backends.vllm_ import VLLMSampler

    prompts = [example.prompt for example in setting.asked]
    job = SamplingJob(setting.base, None, CONFIG, answers=4, horizon=HORIZON, seed=0)
    answers = VLLMSampler().generate(prompts, job=job)
    assert all(parse(text, horizon=HORIZON) for texts in answers for text in texts)


@needs_two
def test_two_gpus_train_an_adapter_that_forecasts_as_the_cpus(setting: Setting, tmp_path: Path) -> None:
    setting.check(setting.forecasts(setting.trained(tmp_path, launch=LaunchConfig(processes=2))))


@pytest.fixture
def vllm_server(setting: Setting) -> Iterator[str]:
    """A vLLM server for the tiny model, as TRL needs it, on the second GPU."""
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", setting.base, "--port", str(PORT)]
    command += ["--enable-scale-out", "--weight-transfer-config", '{"backend": "nccl"}']
    command += ["--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1"]
    chosen = {"CUDA_VISIBLE_DEVICES": "1", "VLLM_SERVER_DEV_MODE": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    process = subprocess.Popen(command, env=os.environ | chosen)
    url = f"http://localhost:{PORT}"
    deadline = time.monotonic() + 300
    try:
        while True:
            assert process.poll() is None
            assert time.monotonic() < deadline
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                break
            except (urllib.error.URLError, TimeoutError):
                time.sleep(2)
        yield url
    finally:
        process.terminate()
        process.wait(60)


@needs_two
@needs_vllm
def test_a_vllm_server_on_another_gpu_draws_the_answers_of_grpo(
    setting: Setting, vllm_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    launch = LaunchConfig(isolate=True, vllm_server=vllm_server)
    setting.check(setting.forecasts(setting.trained(tmp_path, launch=launch)))
