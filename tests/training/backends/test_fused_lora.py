"""Adding up weight and adapter first changes rounding only."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from tickerforge.training.backends.fused_lora import _FusedLinear, fuse
from tickerforge.training.backends.loading import LORA_TARGETS

CONFIG = LlamaConfig(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    attention_bias=True,
    initializer_range=0.3,
)
IDS = torch.arange(3, 48).view(3, 15)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    options = {"r": 4, "lora_alpha": 6, "target_modules": LORA_TARGETS, "init_lora_weights": False}
    made = get_peft_model(LlamaForCausalLM(CONFIG), LoraConfig(**options)).double()
    made.add_adapter("other", LoraConfig(**options))
    return made.double()


def outcome(model: Any) -> list[torch.Tensor]:
    model.zero_grad()
    logits = model(input_ids=IDS, use_cache=False).logits
    logits.square().mean().backward()
    return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def test_logits_and_gradients_are_those_of_peft(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = outcome(model)
    calls = []
    apply = _FusedLinear.apply
    monkeypatch.setattr(_FusedLinear, "apply", lambda *args: calls.append(1) or apply(*args))
    fuse(model)
    found = outcome(model)
    assert len(calls) == 2 * len(LORA_TARGETS)
    assert len(found) == 1 + 2 * 2 * len(LORA_TARGETS)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


def test_the_adapter_in_use_counts_and_none_if_it_is_off_or_merged(model: Any) -> None:
    plain = {}
    for fused in (False, True):
        if fused:
            fuse(model)
        model.set_adapter("other")
        plain[fused] = [outcome(model)[0]]
        model.set_adapter("default")
        with model.disable_adapter(), torch.no_grad():
            plain[fused].append(model(input_ids=IDS).logits)
        model.merge_adapter()
        with torch.no_grad():
            plain[fused].append(model(input_ids=IDS).logits)
        model.unmerge_adapter()
    for ours, theirs in zip(plain[True], plain[False], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)
    assert not torch.allclose(plain[True][0], plain[True][1])


def test_autocast_is_left_to_peft(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fuse(model.float())
    monkeypatch.setattr(_FusedLinear, "apply", None)
    with torch.autocast("cpu", torch.bfloat16):
        outcome(model)


def test_dropout_is_left_to_peft() -> None:
    made = get_peft_model(LlamaForCausalLM(CONFIG), LoraConfig(r=4, lora_dropout=0.5, target_modules=["q_proj"]))
    fuse(made)
    calls = []
    layer = next(layer for layer in made.modules() if hasattr(layer, "lora_dropout"))
    layer.lora_dropout["default"].register_forward_hook(lambda *_: calls.append(1))
    outcome(made)
    assert calls
