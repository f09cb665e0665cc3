"""What texts share is computed once, for several architectures, and gives what each text alone gives."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from trl import SFTTrainer

from tickerforge.training.backends import loading, prefix_sharing
from tickerforge.training.backends.prefix_sharing import (
    SharedDecoder,
    SharedTexts,
    attending,
    common_prefix,
    shares_prefixes,
)
from tickerforge.training.backends.sampling import draw_tokens, sample
from tickerforge.training.backends.sft_trainer import SharedSFTTrainer

VOCABULARY = 60
SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
LLAMA_LIKE: dict[str, Any] = SIZES | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.3,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**LLAMA_LIKE),
    "qwen2": Qwen2Config(**LLAMA_LIKE),
    "gpt2": GPT2Config(**SIZES, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3),
}
SHARED = [11, 12, 13, 14, 15]
PROMPTS = [[*SHARED, 20, 21], [*SHARED, 22], [*SHARED, 20, 23, 24, 25]]


def model_of(config: PreTrainedConfig) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model of random weights that counts as large, in float64: there, rounding hardly decides anything."""
    monkeypatch.setattr(loading, "SMALL_MODEL", 0)
    made = model_of(CONFIGS[request.param])
    assert shares_prefixes(made)
    return made


def alone(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Logits that predict the tokens of an answer, shape (tokens, vocabulary)."""
    return model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]


def test_prompts_keep_at_least_one_token_that_they_do_not_share() -> None:
    assert common_prefix(PROMPTS) == len(SHARED)
    assert common_prefix([[1, 2, 3], [1, 2]]) == 1
    assert common_prefix([[1, 2, 3]] * 2) == 2
    assert common_prefix([[1], [2]]) == 0


@pytest.mark.parametrize(
    "prompts", [PROMPTS, [[5, 6, 7], [8, 9, 7], [8, 4]], [[5]] * 3], ids=["alike", "unlike", "one"]
)
def test_logits_and_gradients_are_those_of_each_text_alone(model: Any, prompts: list[list[int]]) -> None:
    answers = [[[30, 31, 32], [33]], [[34, 35]], [[36, 37, 38, 39, 40], [41, 42], [43]]]
    texts = SharedTexts(prompts, answers)
    weights = torch.randn(60, VOCABULARY, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with attending(model, texts):
        logits = model(input_ids=texts.ids, position_ids=texts.positions, use_cache=False).logits[0]
    ours, theirs, loss, expected_loss = [], [], 0.0, 0.0
    starts = texts.answer_starts.tolist()
    for prompt, group, end in zip(prompts, answers, texts.prompt_ends.tolist(), strict=True):
        for answer in group:
            start = starts.pop(0)
            mine = torch.cat([logits[end : end + 1], logits[start : start + len(answer) - 1]])
            other = alone(model, prompt, answer)
            loss = loss + (mine * weights[: len(mine)]).sum()
            expected_loss = expected_loss + (other * weights[: len(mine)]).sum()
            ours.append(mine)
            theirs.append(other)
    # Rotary embeddings and norms are computed in float32 whatever the weights.
    torch.testing.assert_close(torch.cat(ours), torch.cat(theirs), rtol=1e-4, atol=1e-4)
    parameters = [p for p in model.parameters() if p.requires_grad]
    mine, other = (torch.autograd.grad(each, parameters, allow_unused=True) for each in (loss, expected_loss))
    for ours_g, theirs_g in zip(mine, other, strict=True):
        if theirs_g is not None:
            torch.testing.assert_close(ours_g, theirs_g, rtol=1e-3, atol=1e-3)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("full", [0.0, 0.75, 10.0], ids=["never freed", "freed", "always freed"])
def test_sampled_tokens_are_those_that_a_plain_forward_gives(
    model: Any, monkeypatch: pytest.MonkeyPatch, full: float
) -> None:
    monkeypatch.setattr(prefix_sharing, "FULL", full)
    used = []
    monkeypatch.setattr(SharedDecoder, "advance", _recorded(SharedDecoder.advance, used))
    uniforms = torch.rand(len(PROMPTS), 6, 20, 2, generator=torch.Generator().manual_seed(2)).double()
    end = list(range(0, VOCABULARY, 9))
    drawn = sample(model, PROMPTS, uniforms, temperature=1.1, top_p=0.95, end=end, pad=0)
    assert len(used) > 8
    assert len({len(answer) for group in drawn for answer in group}) > 3
    for prompt, group, given in zip(PROMPTS, drawn, uniforms, strict=True):
        for answer, numbers in zip(group, given, strict=True):
            expected = draw_tokens(alone(model, prompt, answer), numbers[: len(answer)], temperature=1.1, top_p=0.95)
            assert answer == expected.tolist()
            assert answer[-1] in end or len(answer) == 20
            assert not set(end) & set(answer[:-1])


def _recorded(method: Any, calls: list[int]) -> Any:
    def call(self: Any, token: torch.Tensor) -> None:
        calls.append(len(token))
        method(self, token)

    return call


def test_ended_answers_are_no_longer_computed(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    monkeypatch.setattr(SharedDecoder, "advance", _recorded(SharedDecoder.advance, used))
    uniforms = torch.rand(len(PROMPTS), 8, 20, 2, generator=torch.Generator().manual_seed(2)).double()
    sample(model, PROMPTS, uniforms, temperature=1.0, end=list(range(0, VOCABULARY, 4)), pad=0)
    assert used[0] == 24
    assert used[-1] < 6


def test_a_model_with_another_attention_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "SMALL_MODEL", 0)
    capped = AutoModelForCausalLM.from_config(
        Gemma2Config(**LLAMA_LIKE, attn_logit_softcapping=0.5), attn_implementation="eager"
    )
    assert not shares_prefixes(capped)
    assert capped.config._attn_implementation == "eager"
    # One that gives other logits with ours, and one that fails.
    for alibi in (True, False):
        falcon = FalconConfig(**SIZES, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=alibi)
        assert not shares_prefixes(model_of(falcon))


def test_small_models_and_half_precision_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model_of(CONFIGS["llama"])
    assert not shares_prefixes(made)
    monkeypatch.setattr(loading, "SMALL_MODEL", 0)
    assert shares_prefixes(made)
    assert not shares_prefixes(made.bfloat16())


@pytest.fixture
def sft_trainer(model: Any, tmp_path: Path) -> SharedSFTTrainer:
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from trl import SFTConfig

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({str(i): i for i in range(VOCABULARY)}, unk_token="0")),
        pad_token="0",
        eos_token="1",
    )
    gpt2 = model.config.model_type == "gpt2"
    targets = ["c_attn", "c_fc"] if gpt2 else loading.LORA_TARGETS
    lora = LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False, fan_in_fan_out=gpt2)
    args = SFTConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        use_cpu=True,
        bf16=False,
        report_to="none",
        completion_only_loss=True,
        gradient_checkpointing=False,
    )
    rows = [{"input_ids": [3, 4], "completion_mask": [0, 1]}]
    return SharedSFTTrainer(
        model=get_peft_model(model, lora).double(),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def test_the_loss_of_fine_tuning_its_records_and_gradients_are_those_of_trl(sft_trainer: SharedSFTTrainer) -> None:
    answers = [[30, 31, 32, 1], [33, 1], [34, 35, 36, 37, 38, 39, 1]]
    rows = [
        {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}
        for prompt, answer in zip(PROMPTS, answers, strict=True)
    ]
    # The same prompt again, and the same beginning of an answer: that must count twice.
    for each in (rows, [rows[0]] * 2, [rows[2]]):
        outcomes = []
        for cls in (SharedSFTTrainer, SFTTrainer):
            sft_trainer.model.zero_grad()
            batch = sft_trainer.data_collator([dict(row) for row in each])
            loss, out = cls.compute_loss(
                sft_trainer, sft_trainer.model, batch, return_outputs=True, num_items_in_batch=11
            )
            loss.backward()
            gradients = [p.grad.clone() for p in sft_trainer.model.parameters() if p.requires_grad]
            outcomes.append([loss, out.num_correct_tokens, out.entropy_sum, out.num_valid_tokens, *gradients])
        for ours, theirs in zip(*outcomes, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4, check_dtype=False)
        assert max(float(gradient.abs().max()) for gradient in outcomes[0][4:]) > 0.01
