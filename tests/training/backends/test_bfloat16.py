"""Large models on a CPU compute in bfloat16 if it has instructions for that; any other CPU emulates them here."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from minute_training import CONFIG, metrics
from tickerforge.features.prompts import Chat
from tickerforge.training.backends import loading, named, prefix_sharing, transformers_
from tickerforge.training.backends.base import SamplingJob
from tickerforge.training.contracts import ADAPTER_WEIGHTS_FILE
from tickerforge.training.stages import run_sft
from trained_pieces import pieces

CHAT: Chat = [{"role": "user", "content": "1 2 3"}]


@pytest.fixture(params=[True, False], ids=["bfloat16", "float32 only"])
def rounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether this CPU shall have bfloat16; every model counts as large."""
    monkeypatch.setattr(loading, "SMALL_MODEL", 0)
    monkeypatch.setattr(loading, "cpu_has_bfloat16", lambda: request.param)
    transformers_._sampling_model.clear()
    yield request.param
    transformers_._sampling_model.clear()


def test_capabilities_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, expected in (
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assert loading.cpu_has_bfloat16() is expected


def test_a_small_model_stays_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "cpu_has_bfloat16", lambda: True)
    transformers_._sampling_model.clear()
    model = transformers_._sampling_model(pieces().base_model.location, None, 0, False)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_answers_are_drawn_in_bfloat16_with_exact_positions_and_shared_prompts(
    rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Any] = []
    decoder = prefix_sharing.SharedDecoder.__init__
    monkeypatch.setattr(
        prefix_sharing.SharedDecoder, "__init__", lambda self, *a, **b: used.append(1) or decoder(self, *a, **b)
    )
    adapter = pieces().sft.path / "adapter"
    job = SamplingJob(pieces().base_model.location, adapter, CONFIG, answers=4, horizon=10, seed=1)
    answers = named("transformers").generate([CHAT], job=job)
    assert len(answers[0]) == 4
    assert used
    model = transformers_._sampling_model(*next(iter(transformers_._sampling_model._kept))[0])
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16 if rounds else torch.float32}
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert named("transformers").generate([CHAT], job=job) == answers


def test_the_logits_of_a_rounded_model_are_those_of_the_exact_one_but_for_rounding(
    rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = (pieces().base_model.location, str(pieces().sft.path / "adapter"), 0, False)
    texts = prefix_sharing.SharedTexts([[5, 6, 7, 8], [5, 6, 9]], [[[10, 11], [12]], [[13, 14]]])

    def logits() -> torch.Tensor:
        model = transformers_._sampling_model(*where)
        assert prefix_sharing.shares_prefixes(model)
        with torch.no_grad(), prefix_sharing.attending(model, texts):
            return model(input_ids=texts.ids, position_ids=texts.positions, use_cache=False).logits.float()

    found = logits()
    transformers_._sampling_model.clear()
    monkeypatch.setattr(loading, "cpu_has_bfloat16", lambda: False)
    exact = logits()
    difference = ((found - exact).norm() / exact.norm()).item()
    assert 0 < difference < 0.05 if rounds else difference == 0


def test_fine_tuning_computes_in_bfloat16_and_saves_float32(
    rounds: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pieces().sft_data.path / "sft_data.parquet"

    def tune(name: str) -> tuple[list[float], dict[str, torch.Tensor]]:
        out = tmp_path / name
        run_sft(data, base_model=pieces().base_model.location, adapter=None, config=CONFIG, out_dir=out, seed=1)
        return [row["loss"] for row in metrics(out)], load_file(out / "adapter" / ADAPTER_WEIGHTS_FILE)

    losses, weights = tune("here")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    monkeypatch.setattr(loading, "cpu_has_bfloat16", lambda: False)
    exact, _ = tune("exact")
    assert np.allclose(losses, exact, rtol=0.02)
    assert (losses != exact) is rounds
