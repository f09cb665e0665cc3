"""Sharing a prompt among its answers changes what is computed, not what comes out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest

from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.features.synthetic import market
from tickerforge.features.windows import build_windows
from tickerforge.training.backends import grpo_trainer, loading, sampling
from tickerforge.training.backends.grpo_trainer import GroupedGRPOTrainer, merged, pack
from tickerforge.training.backends.loading import LORA_TARGETS, load_base, load_tokenizer
from tickerforge.training.backends.sampling import draw_tokens, in_halves, sample, shares_prompts, stratified
from tickerforge.training.backends.tiny_model import build_model, build_tokenizer
from tickerforge.training.config import TinyConfig
from tickerforge.training.examples import build_examples


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of random weights, large enough that every token depends on the ones before it."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build_model(TinyConfig(hidden_size=64, layers=1), tokenizer)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.Linear) and layer is not model.lm_head:
                layer.weight *= 10
        model.model.norm.weight *= 8
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tokenizer(base: str) -> Any:
    return load_tokenizer(base, trust_remote_code=False)


@pytest.fixture(scope="module")
def prompts(tokenizer: Any) -> list[list[int]]:
    """Three long prompts and three short ones."""
    windows = build_windows(market(SyntheticConfig(sessions=400)), ticker="DEMO", config=FeatureConfig()).iloc[:3]
    chats = [
        example.prompt
        for style in ("full", "prices")
        for example in build_examples(windows, config=FeatureConfig(prompt_style=style))
    ]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    found = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert len({len(ids) for ids in found}) > 1
    return found


@pytest.fixture
def model(base: str) -> Any:
    """The base model under adapters that do something, in float64: there, rounding hardly decides anything."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    loaded = load_base(base, trust_remote_code=False)
    lora = LoraConfig(r=4, lora_alpha=4, target_modules=LORA_TARGETS, task_type="CAUSAL_LM", init_lora_weights=False)
    return get_peft_model(loaded, lora).double()


@pytest.fixture(params=["shared", "a row an answer", "crowded", "large model"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "crowded":
        monkeypatch.setattr(sampling, "CROWDED", 20)
    if request.param == "large model":
        monkeypatch.setattr(loading, "SMALL_MODEL", 0)
    if request.param == "a row an answer":
        monkeypatch.setattr(sampling, "shares_prompts", lambda model: False)
    return request.param


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (1.3, 0.9)])
def test_every_sampled_token_is_the_one_that_a_plain_forward_gives_for_its_random_number(
    model: Any, prompts: list[list[int]], tokenizer: Any, layout: str, temperature: float, top_p: float
) -> None:
    assert shares_prompts(model)
    uniforms = torch.rand(len(prompts), 5, 40, 2, generator=torch.Generator().manual_seed(1))
    # One token in eight ends an answer: answers then end at any step, and a few go on long after most have ended.
    end = list(range(0, len(tokenizer), 8))
    drawn = sample(model, prompts, uniforms, temperature=temperature, top_p=top_p, end=end, pad=tokenizer.pad_token_id)
    lengths = sorted(len(answer) for group in drawn for answer in group)
    assert lengths[len(lengths) * 3 // 4] < lengths[-1] - 2
    for prompt, group, given in zip(prompts, drawn, uniforms, strict=True):
        for answer, numbers in zip(group, given, strict=True):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            expected = draw_tokens(logits, numbers[: len(answer)], temperature=temperature, top_p=top_p)
            assert answer == expected.tolist()
            assert not set(end) & set(answer[:-1])
            assert answer[-1] in end or len(answer) == 40


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_tokens_come_as_often_as_the_nucleus_says(top_p: float) -> None:
    logits = torch.randn(12, generator=torch.Generator().manual_seed(2)) * 1.5
    uniforms = torch.rand(40_000, 2, generator=torch.Generator().manual_seed(3))
    tokens = draw_tokens(logits.expand(len(uniforms), -1), uniforms, temperature=0.7, top_p=top_p)
    shares = (logits / 0.7).softmax(-1)
    order = shares.argsort(descending=True)
    nucleus = order[: int((shares[order].cumsum(-1) < top_p).sum()) + 1]
    seen = torch.bincount(tokens, minlength=12)[nucleus]
    assert seen.sum() == len(tokens)
    expected = shares[nucleus].double() / shares[nucleus].double().sum() * len(tokens)
    assert chisquare(seen.numpy(), expected.numpy()).pvalue > 0.001


def test_a_large_vocabulary_is_searched_in_blocks_and_gives_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(500, 5_003, generator=generator) * 4
    logits[:, ::3] = -torch.inf
    uniforms = torch.rand(500, 2, generator=generator).double()
    uniforms[:3] = torch.tensor([0.0, 1 - 2**-25, 0.5], dtype=torch.float64)[:, None]
    in_blocks = draw_tokens(logits, uniforms, temperature=1.0, top_p=0.9)
    monkeypatch.setattr(sampling, "BLOCK", 100)
    assert torch.equal(in_blocks, draw_tokens(logits, uniforms, temperature=1.0, top_p=0.9))


def test_an_answer_does_not_depend_on_what_else_is_asked(
    model: Any, prompts: list[list[int]], tokenizer: Any, layout: str
) -> None:
    uniforms = torch.rand(len(prompts), 3, 32, 2, generator=torch.Generator().manual_seed(4))
    common: dict = {"temperature": 1.0, "top_p": 0.98, "end": [tokenizer.eos_token_id], "pad": tokenizer.pad_token_id}
    together = sample(model, prompts, uniforms, **common)
    alone = [sample(model, [ids], uniforms[i : i + 1], **common)[0] for i, ids in enumerate(prompts)]
    assert together == alone


@pytest.fixture
def trainer(model: Any, tokenizer: Any, tmp_path: Path) -> GroupedGRPOTrainer:
    from datasets import Dataset
    from trl import GRPOConfig

    args = GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=40,
        temperature=1.2,
        use_cpu=True,
        bf16=False,
        report_to="none",
        gradient_checkpointing=False,
    )
    return GroupedGRPOTrainer(
        model=model,
        reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
        args=args,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": "prices 1 2 3"}]}] * 2),
        processing_class=tokenizer,
    )


@pytest.mark.parametrize("large", [False, True])
def test_log_probabilities_entropies_and_gradients_are_those_of_trl(
    trainer: GroupedGRPOTrainer,
    prompts: list[list[int]],
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    large: bool,
) -> None:
    if large:
        monkeypatch.setattr(loading, "SMALL_MODEL", 0)
        monkeypatch.setattr(grpo_trainer, "pack", None)
    uniforms = torch.rand(len(prompts), 4, 40, 2, generator=torch.Generator().manual_seed(5))
    pad, end = tokenizer.pad_token_id, [tokenizer.eos_token_id]
    drawn = sample(trainer.model, prompts, uniforms, temperature=1.2, end=end, pad=pad)
    pairs = [(prompt, answer) for prompt, group in zip(prompts, drawn, strict=True) for answer in group]
    # Shuffled and cut, as a micro-batch is: prompts have different numbers of answers in it.
    pairs = [pairs[i] for i in torch.randperm(len(pairs), generator=torch.Generator().manual_seed(6)).tolist()][:17]
    before, after = max(len(p) for p, _ in pairs), max(len(a) for _, a in pairs)
    ids = torch.tensor([[pad] * (before - len(p)) + p + a + [pad] * (after - len(a)) for p, a in pairs])
    seen = torch.tensor([[0] * (before - len(p)) + [1] * len(p + a) + [0] * (after - len(a)) for p, a in pairs])
    assert large or pack(ids, seen, answer_length=after, pad=pad) is not None
    if large:
        # An answer that is masked out, as TRL does with cut ones if it is asked to.
        seen[3, before:] = 0

    def of(cls: type) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        trainer.model.zero_grad()
        logps, entropies, _ = cls._full_logits_logps(trainer, trainer.model, ids, seen, after, compute_entropy=True)
        (logps * torch.linspace(-1, 1, logps.numel()).view(logps.shape)).sum().backward()
        return logps, entropies, [p.grad.clone() for p in trainer.model.parameters() if p.requires_grad]

    ours, theirs = of(GroupedGRPOTrainer), of(GroupedGRPOTrainer.__mro__[1])
    for mine, other in ((ours[0], theirs[0]), (ours[1], theirs[1]), *zip(ours[2], theirs[2], strict=True)):
        # Rotary embeddings and norms are computed in float32 whatever the weights.
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    assert max(float(gradient.abs().max()) for gradient in ours[2]) > 0.01


def test_the_parts_of_a_step_hold_all_answers_to_few_prompts(
    trainer: GroupedGRPOTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "SMALL_MODEL", 0)
    monkeypatch.setattr(trainer.args, "steps_per_generation", 4)
    chats = [[{"role": "user", "content": f"prices {' '.join('123'[:count])}"}] for count in (1, 2, 3, 1)]
    asked = [{"prompt": chat} for chat in chats for _ in range(4)]
    trainer.model.train()
    first = trainer._prepare_inputs(asked)
    parts = trainer._buffered_inputs
    assert first is parts[0]
    assert [part["completion_ids"].shape[0] for part in parts] == [4] * 4
    distinct = [len({tuple(row) for row in part["prompt_ids"].tolist()}) for part in parts]
    assert distinct == [1] * 4
    assert len({id(part["num_items_in_batch"]) for part in parts}) == 1
    assert sum(int(part["completion_mask"].sum()) for part in parts) == int(parts[0]["num_items_in_batch"])


def test_rollouts_are_draws_from_the_policy_that_trains(
    trainer: GroupedGRPOTrainer, prompts: list[list[int]], tokenizer: Any
) -> None:
    asked = [prompt for prompt in prompts for _ in range(4)]
    torch.manual_seed(7)
    answers, _ = trainer._generate_single_turn(asked, None, {}, 4)
    torch.manual_seed(7)
    uniforms = torch.stack([in_halves(4, 40) for _ in prompts])
    for prompt, answer, numbers in zip(asked, answers, uniforms.flatten(0, 1), strict=True):
        logits = trainer.model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        assert answer == draw_tokens(logits, numbers[: len(answer)], temperature=1.2, top_p=1.0).tolist()


def test_prompts_that_nothing_shares_are_left_to_trl(prompts: list[list[int]], tokenizer: Any) -> None:
    ids = torch.tensor([prompts[0] + [5, 6], prompts[1] + [7, 8]])
    assert pack(ids, torch.ones_like(ids), answer_length=2, pad=tokenizer.pad_token_id) is None


def test_long_answers_to_a_short_prompt_are_left_to_trl(tokenizer: Any) -> None:
    ids = torch.tensor([[5, 6] + [7] * 100] * 8)
    assert pack(ids, torch.ones_like(ids), answer_length=100, pad=tokenizer.pad_token_id) is None


def test_merging_for_a_rollout_leaves_every_weight_as_it_was(model: Any) -> None:
    model = model.float()
    ids = torch.arange(10, 40)[None]
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        with merged(model):
            changed = [name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])]
            inside = model(input_ids=ids).logits
        after = model(input_ids=ids).logits
    assert len(changed) == len(LORA_TARGETS) * model.config.num_hidden_layers
    torch.testing.assert_close(inside, plain, rtol=1e-3, atol=1e-4)
    assert torch.equal(after, plain)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_the_random_numbers_of_a_prompt_lie_one_in_each_share_of_the_unit_interval_at_each_token() -> None:
    drawn = stratified(256, 20, generator=torch.Generator().manual_seed(3))
    assert drawn.shape == (256, 20, 2)
    assert 0 <= float(drawn.min()) <= float(drawn.max()) < 1
    shares = (drawn[..., 0] * 256).floor().long().sort(dim=0).values
    assert torch.equal(shares, torch.arange(256)[:, None].expand(-1, 20))
    assert not torch.equal(drawn[:, 0, 0].argsort(), drawn[:, 1, 0].argsort())
    again = stratified(256, 20, generator=torch.Generator().manual_seed(3))
    assert torch.equal(drawn, again)


def test_the_second_half_of_the_answers_mirrors_the_first_and_a_last_odd_one_stands_alone() -> None:
    drawn = stratified(9, 30, generator=torch.Generator().manual_seed(5))
    assert torch.equal(drawn[4:8], 1 - drawn[:4])
    assert not torch.isin(drawn[8, :, 0], drawn[:8, :, 0]).any()
    alone = stratified(1, 4_000, generator=torch.Generator().manual_seed(5))[0]
    assert kstest(alone[:, 0].numpy(), "uniform").pvalue > 0.001


def test_each_single_answer_is_distributed_as_if_it_were_drawn_alone() -> None:
    drawn = torch.stack([stratified(6, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(2_000)])
    for answer in range(6):
        for token in range(3):
            assert kstest(drawn[:, answer, token, 0].numpy(), "uniform").pvalue > 1e-4
        together = np.corrcoef(drawn[:, answer, :, 0].T.numpy())[np.triu_indices(3, 1)]
        assert np.abs(together).max() < 4 / 2_000**0.5


def medians_of_walks(draw) -> torch.Tensor:
    """Medians over 16 random walks of ten normal steps, 400 times."""

    steps = (torch.special.ndtri(draw(torch.Generator().manual_seed(seed))[..., 0]) for seed in range(400))
    return torch.stack([step.cumsum(1)[:, -1].quantile(0.5) for step in steps])


def test_the_median_of_answers_that_go_up_as_likely_as_down_is_no_move_whatever_was_drawn() -> None:
    mirrored = medians_of_walks(lambda generator: stratified(16, 10, generator=generator))
    chance = medians_of_walks(lambda generator: torch.rand(16, 10, 2, generator=generator).double())
    assert float(mirrored.abs().max()) < 1e-6
    assert float(chance.std()) > 0.5


def test_medians_of_lopsided_answers_vary_less_than_those_of_independent_ones_and_lie_at_the_same_place() -> None:
    def medians(draw) -> torch.Tensor:
        steps = (-(draw(torch.Generator().manual_seed(seed))[..., 0].log()) for seed in range(400))
        return torch.stack([step.cumsum(1)[:, -1].quantile(0.5) for step in steps])

    spread = medians(lambda generator: stratified(16, 10, generator=generator))
    chance = medians(lambda generator: torch.rand(16, 10, 2, generator=generator).double().clamp(min=1e-9))
    assert float(spread.std()) < 0.7 * float(chance.std())
    assert abs(float(spread.mean() - chance.mean())) < 4 * float(chance.std()) / 400**0.5
