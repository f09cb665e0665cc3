"""Large models are fine-tuned in bfloat16 on a CPU that has instructions for it; any other CPU emulates them here."""

import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from minute_training import CONFIG, Interrupted, digest, grpo, metrics, stop_at, train_examples
from tickerforge.training.backends import gpu_name, loading
from tickerforge.training.contracts import ADAPTER_WEIGHTS_FILE
from tickerforge.training.stages import run_sft
from trained_pieces import pieces

pytestmark = pytest.mark.skipif(gpu_name() is not None, reason="a GPU computes in its own precision")

Tune = Callable[..., Path]


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in metrics(folder)]


@pytest.fixture
def tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tune:
    """Fine-tunes the tiny model on a CPU with or without bfloat16."""

    def run(name: str, *, bfloat16: bool, small: int = 0, **options: object) -> Path:
        monkeypatch.setattr(loading, "SMALL_MODEL", small)
        monkeypatch.setattr(loading, "cpu_has_bfloat16", lambda: bfloat16)
        data, base = pieces().sft_data.path / "sft_data.parquet", pieces().base_model.location
        config, out = CONFIG.model_copy(update={"checkpoint_every": 1}), tmp_path / name
        run_sft(data, base_model=base, adapter=None, config=config, out_dir=out, seed=1, **options)
        return out

    return run


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({}, False),
    ],
)
def test_the_instructions_of_the_cpu_decide(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, bool], expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert loading.cpu_has_bfloat16() is expected


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have other instructions")
def test_torch_names_these_instructions() -> None:
    assert {"avx512_bf16", "amx_bf16"} <= torch.cpu.get_capabilities().keys()


def test_a_large_model_learns_the_same_but_for_rounding_and_its_adapter_is_saved_in_float32(tune: Tune) -> None:
    exact, rounded = tune("exact", bfloat16=False), tune("rounded", bfloat16=True)
    assert np.allclose(losses(rounded), losses(exact), rtol=0.02)
    assert losses(rounded) != losses(exact)
    weights = load_file(rounded / "adapter" / ADAPTER_WEIGHTS_FILE)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


def test_grpo_is_exact_also_after_fine_tuning_in_bfloat16_in_the_same_process(tune: Tune, tmp_path: Path) -> None:
    examples, base = train_examples(8), pieces().base_model.location
    tune("exact", bfloat16=False)
    exact = grpo(examples, base, tmp_path / "grpo")
    tune("rounded", bfloat16=True)
    assert digest(grpo(examples, base, tmp_path / "grpo after it")) == digest(exact)


def test_a_small_model_learns_in_float32_on_every_cpu(tune: Tune) -> None:
    unchanged = loading.SMALL_MODEL
    assert digest(tune("a", bfloat16=True, small=unchanged)) == digest(tune("b", bfloat16=False, small=unchanged))


def test_an_interrupted_run_in_bfloat16_ends_with_the_same_bytes(tune: Tune) -> None:
    with pytest.raises(Interrupted):
        tune("interrupted", bfloat16=True, on_progress=stop_at(2))
    steps: list[int] = []
    resumed = tune("interrupted", bfloat16=True, on_progress=lambda progress: steps.append(progress.step))
    assert steps[0] == 2
    assert digest(resumed) == digest(tune("undisturbed", bfloat16=True))
