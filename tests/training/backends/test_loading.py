"""How models are loaded."""

import gc
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, OPTConfig, PreTrainedConfig, Qwen3MoeConfig

from tickerforge.training.backends import loading
from tickerforge.training.backends.base import SamplingJob, TrainingJob
from tickerforge.training.backends.transformers_ import TransformersBackend
from tickerforge.training.config import SamplingConfig, SFTStageConfig, TrainingConfig
from tickerforge.training.contracts import ADAPTER_CONFIG_FILE, ADAPTER_FOLDER
from tickerforge.training.errors import AdapterError, BaseModelError
from trained_pieces import shared_store, tiny_base_model

CONFIG = TrainingConfig(
    lora_rank=4,
    max_seq_length=128,
    sampling=SamplingConfig(max_tokens=8),
    sft=SFTStageConfig(epochs=1, batch_size=2, learning_rate=1e-3),
)
PROMPT = [{"role": "user", "content": "1 2 3"}]
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 60}


@pytest.fixture
def base() -> str:
    return tiny_base_model(shared_store()).location


@pytest.fixture
def gpt2(base: str, tmp_path: Path) -> Path:
    """A GPT-2 of random weights with the tokenizer of the tiny model."""
    tokenizer = loading.load_tokenizer(base, trust_remote_code=False)
    folder = tmp_path / "gpt2"
    ids = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=4, **ids)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def job(base_model: Path, out_dir: Path, **changes: Any) -> TrainingJob:
    return replace(TrainingJob("sft", str(base_model), None, CONFIG, out_dir, 0), **changes)


def asking(base_model: Path, adapter: Path | None) -> SamplingJob:
    return SamplingJob(str(base_model), adapter, CONFIG, answers=4, horizon=1, seed=0)


def test_a_collection_between_two_models_leaves_the_libraries_out(base: str) -> None:
    gc.unfreeze()
    loading.leave_libraries_alone.cache_clear()
    model = loading.load_base(base, trust_remote_code=False)
    assert gc.get_freeze_count() > len(gc.get_objects())
    del model


def test_a_model_with_other_layers_is_fine_tuned_and_sampled(gpt2: Path, tmp_path: Path) -> None:
    accepted = pd.DataFrame({"prompt": [json.dumps(PROMPT)] * 2, "answer": ["1", "2"]})
    backend = TransformersBackend()
    backend.train_sft(accepted, job=job(gpt2, tmp_path / "out"))
    adapter = tmp_path / "out" / ADAPTER_FOLDER
    targets = json.loads((adapter / ADAPTER_CONFIG_FILE).read_text())["target_modules"]
    assert {name.rpartition(".")[2] for name in targets} == {"c_attn", "c_fc", "c_proj"}
    (answers,) = backend.generate([PROMPT], job=asking(gpt2, adapter))
    assert len(answers) == 4


@pytest.mark.parametrize(
    ("config", "targets"),
    [
        (OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32), "all-linear"),
        (Qwen3MoeConfig(**SIZES, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2), loading.LORA_TARGETS),
    ],
)
def test_lora_goes_to_all_layers_if_the_attention_has_other_names(config: PreTrainedConfig, targets: object) -> None:
    assert loading.lora_targets(AutoModelForCausalLM.from_config(config)) == targets


def test_weights_that_are_cut_off_are_named(gpt2: Path) -> None:
    weights = gpt2 / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BaseModelError, match=r"cannot load the base model .*gpt2"):
        loading.load_base(str(gpt2), trust_remote_code=False)


def test_what_the_model_cannot_read_is_refused(gpt2: Path, tmp_path: Path) -> None:
    long = [{"role": "user", "content": "1 " * 60}]
    backend = TransformersBackend()
    with pytest.raises(BaseModelError, match="exceed 64 tokens"):
        backend.generate([long], job=asking(gpt2, None))
    accepted = pd.DataFrame({"prompt": [json.dumps(long)], "answer": ["1"]})
    with pytest.raises(BaseModelError, match="exceed 64 tokens"):
        backend.train_sft(accepted, job=job(gpt2, tmp_path / "out"))


def test_an_adapter_of_another_rank_is_not_trained_on(gpt2: Path, tmp_path: Path) -> None:
    accepted = pd.DataFrame({"prompt": [json.dumps(PROMPT)] * 2, "answer": ["1", "2"]})
    TransformersBackend().train_sft(accepted, job=job(gpt2, tmp_path / "first"))
    adapter = tmp_path / "first" / ADAPTER_FOLDER
    larger = job(gpt2, tmp_path / "second", adapter=adapter, config=CONFIG.model_copy(update={"lora_rank": 8}))
    with pytest.raises(AdapterError, match=r"LoRA rank 4, and training\.lora_rank is 8"):
        TransformersBackend().train_sft(accepted, job=larger)


def test_a_larger_model_gets_all_threads_again(base: str, gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(loading, "_threads_before", None)
    try:
        torch.set_num_threads(3)
        loading.load_base(base, trust_remote_code=False)
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(loading, "SMALL_MODEL", 0)
        loading.load_base(str(gpt2), trust_remote_code=False)
        assert torch.get_num_threads() == 3
        # What somebody else has set since stays.
        torch.set_num_threads(1)
        loading.load_base(str(gpt2), trust_remote_code=False)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_weights_are_only_read_from_safetensors(gpt2: Path) -> None:
    shutil.move(gpt2 / "model.safetensors", gpt2 / "pytorch_model.bin")
    with pytest.raises(BaseModelError, match="safetensors"):
        loading.load_base(str(gpt2), trust_remote_code=False)
