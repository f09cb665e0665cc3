"""The GPU backends for real: a few steps on the tiny model; skipped without a GPU, unsloth and vllm."""

from pathlib import Path

import pytest

from features.config import FeatureConfig, SyntheticConfig
from features.prompts import parse
from features.synthetic import market
from features.windows import build_windows
from training.backends import why_not
from training.backends.base import TrainingJob
from training.base_model import build_tiny
from training.config import GRPOStageConfig, TinyConfig, TrainingConfig
from training.examples import build_examples

pytestmark = pytest.mark.gpu

CONFIG = TrainingConfig(
    model="local", load_in_4bit=False, lora_rank=8, grpo_1st=GRPOStageConfig(steps=3, learning_rate=1e-3)
)
FEATURES = FeatureConfig()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    build_tiny(folder, config=TinyConfig(steps=100), features=FEATURES)
    return str(folder)


@pytest.mark.skipif(why_not("vllm") is not None, reason=f"vllm cannot run here: {why_not('vllm')}")
def test_vllm_answers_always_parse(base: str) -> None:
    from training.backends.vllm_ import VLLMSampler

    windows = build_windows(market(SyntheticConfig(sessions=400)), ticker="DEMO", config=FEATURES)
    prompts = [example.prompt for example in build_examples(windows.iloc[:8], config=FEATURES)]
    answers = VLLMSampler().generate(
        prompts, base_model=base, adapter=None, n=4, sampling=CONFIG.sampling, seed=0, config=CONFIG, horizon=10
    )
    assert all(parse(text, horizon=10) for texts in answers for text in texts)


@pytest.mark.skipif(why_not("unsloth") is not None, reason=f"unsloth cannot run here: {why_not('unsloth')}")
def test_unsloth_trains_an_adapter(base: str, tmp_path: Path) -> None:
    from training.backends.unsloth_ import UnslothBackend

    windows = build_windows(market(SyntheticConfig(sessions=400)), ticker="DEMO", config=FEATURES)
    examples = build_examples(windows.iloc[:64], config=FEATURES)
    UnslothBackend().train_grpo(examples, job=TrainingJob("grpo_1st", base, None, CONFIG, tmp_path, 0))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
