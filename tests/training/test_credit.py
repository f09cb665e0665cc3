"""Credit by session: which tokens write a value, whose error falls on them, and that CRPS elicits the distribution."""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from minute_training import train_examples
from tickerforge.features.prompts import AnswerFormat, parse, render_answer
from tickerforge.training.backends.sampling import draw_tokens, in_halves
from tickerforge.training.config import GRPOStageConfig, RewardConfig
from tickerforge.training.credit import DISCOUNT, advantages, half_of, tokens_of_values
from tickerforge.training.rewards import invalid_score, session_distances, session_scores
from tickerforge.training.stages import run_grpo
from trained_pieces import FEATURES, TRAINING, pieces

HORIZON = 10


def scores_of(values: list[list[float]], target: list[float], kind: str) -> np.ndarray:
    group = np.array([values], float)
    return session_scores(group, np.array([target], float), kind=kind, clip=4.0, unit=10.0)


def distances(values: list[list[float]]) -> np.ndarray:
    return session_distances(np.array([values], float), clip=4.0, unit=10.0)


def test_a_token_that_is_a_whole_number_belongs_to_its_value() -> None:
    pieces = ["<think>", "</think>", "<answer>", "[", "3", ",", "-12", ",", "0", "]", "</answer>", ""]
    assert tokens_of_values(pieces, horizon=3) == [[4], [6], [8]]


def test_a_number_of_several_tokens_owns_all_of_them_and_none_of_its_neighbours() -> None:
    pieces = ["<think>up 7 of 10</think><answer>", "[", "1", "2", ", -", "3", ",", " 45", "6.", "0]", "</answer>"]
    assert tokens_of_values(pieces, horizon=3) == [[2, 3], [4, 5], [7, 8, 9]]


def test_a_value_without_a_digit_before_its_point_owns_its_sign_and_point_too() -> None:
    pieces = ["<think></think><answer>", "[", "-", ".", "5", ",", " +", ".25", ", ", ".", "75", "]", "</answer>"]
    assert parse("".join(pieces), horizon=3) == (-0.5, 0.25, 0.75)
    assert tokens_of_values(pieces, horizon=3) == [[2, 3, 4], [6, 7], [9, 10]]


def test_in_the_numbered_style_a_value_owns_its_sign_and_its_end_but_no_label() -> None:
    pieces = [
        "<think>1:9</think>",
        "<answer>",
        "1",
        ":-",
        "9",
        " ",
        "2",
        ":",
        "1",
        "2",
        " ",
        "3",
        ":",
        "0",
        "</answer>",
    ]
    assert parse("".join(pieces), horizon=3) == (-9.0, 12.0, 0.0)
    assert tokens_of_values(pieces, horizon=3) == [[3, 4, 5], [7, 8, 9, 10], [12, 13, 14]]
    with_spaces = ["<think></think><answer>", "1:", " -", "9", " 2", ":", " 12", "</", "answer>"]
    assert tokens_of_values(with_spaces, horizon=2) == [[2, 3], [5, 6, 7]]


def test_the_tiny_tokenizer_writes_both_styles_and_credits_whole_integers() -> None:
    from tickerforge.training.backends.tiny_model import build_tokenizer

    values = [-9, 12, 300, 0, 5, -7, 1, 2, -300, -18]
    for style, first in (("list", "["), ("numbered", "1:")):
        tokenizer = build_tokenizer(AnswerFormat(style))
        ids = tokenizer(render_answer(values, style=style))["input_ids"]
        pieces = tokenizer.batch_decode([[each] for each in ids])
        assert pieces[3] == first
        assert parse("".join(pieces), horizon=10) == tuple(map(float, values))
        owned = ["".join(pieces[t] for t in tokens) for tokens in tokens_of_values(pieces, horizon=10)]
        assert [text.removesuffix("</answer>") for text in owned] == [str(value) for value in values]


@pytest.mark.parametrize("pieces", [[], ["no", " list"], ["[", "1", ",", "2", "]"], ["[1, 2, x]"]])
def test_an_answer_without_its_numbers_has_no_tokens_of_values(pieces: list[str]) -> None:
    assert tokens_of_values(pieces, horizon=3) == []


def test_with_the_default_limit_huber_forgives_large_errors_and_is_not_the_squared_error_under_another_name() -> None:
    errors = np.array([[[0.5, 1.5, 2.25, 3.0]]])
    unit = np.sqrt(np.arange(1, 5))
    options = {"clip": RewardConfig().clip, "unit": 1.0}
    huber, mse = (session_scores(errors * unit, np.zeros((1, 4)), kind=kind, **options) for kind in ("huber", "mse"))
    np.testing.assert_allclose(huber, [[[-0.25, -2.0, -3.5, -4.0]]])
    np.testing.assert_allclose(mse, [[[-0.25, -2.25, -4.0, -4.0]]])


@pytest.mark.parametrize("kind", ["mse", "huber", "crps"])
def test_a_session_is_credited_for_its_own_error_alone(kind: str) -> None:
    good, bad = scores_of([[0.0, 0.0], [0.0, 90.0]], [0.0, 0.0], kind)[0]
    assert good[0] == bad[0]
    assert good[1] > bad[1]


@pytest.mark.parametrize("answers", [2, 5, 8])
def test_an_answer_is_compared_with_the_other_half_alone(answers: int) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3, answers, 1))
    found = advantages(scores, np.zeros((3, answers)), scale="none")[..., 0]
    halves = half_of(answers)
    assert abs((halves == 0).sum() - (halves == 1).sum()) <= 1
    for answer in range(answers):
        other = scores[:, halves != halves[answer], 0]
        assert np.allclose(found[:, answer], scores[:, answer, 0] - other.mean(axis=1))


@pytest.mark.parametrize("scale", ["none", "group", "batch"])
def test_tokens_around_the_values_get_their_mean_and_scaled_advantages_are_of_size_one(scale: str) -> None:
    rng = np.random.default_rng(0)
    found = advantages(rng.normal(size=(3, 8, HORIZON)), np.zeros((3, 8)), scale=scale)
    assert found.shape == (3, 8, HORIZON + 1)
    assert np.allclose(found[..., -1], found[..., :-1].mean(axis=-1))
    if scale != "none":
        assert np.sqrt(np.mean(found[..., :-1] ** 2)) == pytest.approx(1.0, abs=1e-3)


def test_where_the_whole_other_half_is_invalid_a_value_is_not_compared_with_anything() -> None:
    scores = np.full((1, 4, HORIZON), np.nan)
    scores[0, :2] = np.random.default_rng(0).normal(size=(2, HORIZON))
    worth = np.array([[0.1, 0.1, -5.0, -5.0]])
    found = advantages(scores, worth, scale="none", apart=distances([[1.0] * HORIZON] * 4))[0]
    assert np.allclose(found, (worth - worth.mean())[0][:, None])


def test_a_value_is_credited_with_the_sessions_after_it_less_and_less_and_never_with_those_before() -> None:
    scores = np.zeros((1, 2, 3))
    scores[0, 0, 1] = 1.0
    first, second, third, others = advantages(scores, np.zeros((1, 2)), scale="none")[0, 0]
    assert first == pytest.approx(DISCOUNT / (1 + DISCOUNT + DISCOUNT**2))
    assert (second, third) == (pytest.approx(1 / (1 + DISCOUNT)), 0.0)
    assert others == pytest.approx((first + second + third) / 3)


@pytest.mark.parametrize("scale", ["none", "group", "batch"])
@pytest.mark.parametrize("kind", ["mse", "huber", "crps"])
def test_every_token_of_an_invalid_answer_is_worse_off_than_any_token_of_a_valid_one_however_far_off(
    kind: str, scale: str
) -> None:
    far = [300.0] * HORIZON
    for others in ([[0.0] * HORIZON] * 6, [far, [-300.0] * HORIZON], [[5.0 * h for h in range(HORIZON)]] * 2):
        values = [[np.nan] * HORIZON, far, *others]
        scores = scores_of(values, [0.0] * HORIZON, kind)
        worth = [invalid_score(kind, clip=4.0), *[0.1] * (len(values) - 1)]
        apart = distances(values) if kind == "crps" else None
        found = advantages(scores, np.array([worth]), scale=scale, apart=apart)[0]
        assert len(set(found[0])) == 1
        assert found[0, 0] < found[1:].min()
        assert found[0, 0] < 0


def crps_gradient(logits: torch.Tensor, places: np.ndarray, target: float) -> torch.Tensor:
    """Of minus the continuous ranked probability score of a distribution on some places, in units of 10."""
    shares = logits.softmax(0)
    apart = torch.as_tensor(np.abs(places[:, None] - places[None]))
    score = shares @ torch.as_tensor(np.abs(places - target)) - 0.5 * shares @ apart @ shares
    return torch.autograd.grad(-score / 10.0, logits)[0]


PLACES, TARGET = np.array([-10.0, 0.0, 20.0]), 5.0


def crps_credit(drawn: list[int]) -> torch.Tensor:
    """Advantages of answers of one session."""
    values = [[PLACES[i]] for i in drawn]
    none = np.zeros((1, len(drawn)))
    found = advantages(scores_of(values, [TARGET], "crps"), none, scale="none", apart=distances(values))
    return torch.as_tensor(found[0, :, 0])


@pytest.mark.parametrize("group", [2, 3, 4, 6])
def test_the_gradient_of_the_crps_credit_is_that_of_the_continuous_ranked_probability_score(group: int) -> None:
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    surrogate = torch.zeros((), dtype=torch.float64)
    for drawn in product(range(3), repeat=group):
        chance = logits.detach().softmax(0)[list(drawn)].prod()
        logs = logits.log_softmax(0)[list(drawn)]
        surrogate = surrogate + chance * (crps_credit(list(drawn)) * logs).sum() / group
    found = torch.autograd.grad(surrogate, logits)[0]
    assert torch.allclose(found, crps_gradient(logits, PLACES, TARGET), atol=1e-10)


@pytest.mark.nightly
def test_evenly_drawn_halves_leave_the_gradient_as_it_is_and_take_most_of_its_noise() -> None:
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    shares = logits.softmax(0)
    generator = torch.Generator().manual_seed(0)

    def gradients(draw: Callable[[], torch.Tensor]) -> torch.Tensor:
        found = []
        for _ in range(3000):
            answers = draw_tokens(logits.float().expand(8, -1), draw()[:, 0], temperature=1.0, top_p=1.0)
            # That of the sum of advantages times logarithms of shares.
            credit = crps_credit(answers.tolist())
            found.append((credit[:, None] * (torch.eye(3)[answers] - shares)).mean(0))
        return torch.stack(found)

    even = gradients(lambda: in_halves(8, 1, generator=generator))
    chance = gradients(lambda: torch.rand(8, 1, 2, generator=generator).double())
    expected = crps_gradient(logits.requires_grad_(), PLACES, TARGET)
    for found in (even, chance):
        errors = (found.mean(0) - expected) / (found.std(0) / np.sqrt(len(found)))
        assert errors.abs().max() < 4
    assert even.var(0).sum() < 0.35 * chance.var(0).sum()


@pytest.mark.parametrize("kind", ["published", "bounded_skill"])
def test_a_kind_that_scores_whole_answers_only_cannot_be_credited_by_session(kind: str) -> None:
    with pytest.raises(ValueError, match="use credit = 'answer'"):
        RewardConfig.model_validate({"kind": kind, "credit": "horizon"})


def test_each_kind_has_a_credit_that_fits_it() -> None:
    by_horizon = {kind: RewardConfig(kind=kind).by_horizon for kind in ("mse", "huber", "crps", "bounded_skill")}
    assert by_horizon == {"mse": True, "huber": True, "crps": True, "bounded_skill": False}


def base() -> str:
    return pieces().base_model.location


def trained(tmp_path: Path, **reward: object) -> None:
    examples = train_examples()
    config = TRAINING.model_copy(
        update={
            "grpo_1st": GRPOStageConfig(steps=2, prompts_per_step=2, group_size=4),
            "reward": RewardConfig.model_validate(reward),
        }
    )
    run_grpo(examples, stage="grpo_1st", base_model=base(), adapter=None, config=config, out_dir=tmp_path, seed=5)


def test_a_trainer_credits_each_number_with_its_own_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tickerforge.training.backends.horizon_credit import HorizonCreditTrainer

    base()
    ours = HorizonCreditTrainer._generate_and_score_completions
    seen = []

    def keep(self, inputs):
        output = ours(self, inputs)
        texts = [self._pieces(row) for row in output["completion_ids"]]
        seen.append((texts, output["advantages"].clone(), output["completion_mask"].clone()))
        return output

    monkeypatch.setattr(HorizonCreditTrainer, "_generate_and_score_completions", keep)
    trained(tmp_path, kind="mse")
    numbers = 0
    for texts, found, mask in seen:
        assert found.shape == mask.shape
        for row, answer in enumerate(texts):
            owners = tokens_of_values(answer, horizon=FEATURES.horizon)
            others = [t for t in range(len(answer)) if not any(t in owner for owner in owners)]
            assert len(set(found[row, others].tolist())) == 1
            if owners:
                values = torch.stack([found[row, tokens].unique() for tokens in owners]).flatten()
                assert torch.allclose(values.mean(), found[row, others[0]], atol=1e-4)
                numbers += len(set(values.tolist()))
    assert numbers > 20


def test_groups_whose_answers_all_score_alike_weigh_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tickerforge.training.backends.horizon_credit import HorizonCreditTrainer

    base()
    ours = HorizonCreditTrainer._leave_out_flat_groups
    counted = []

    def flatten_first_group(self, output):
        ours(self, output)
        before = int(output["num_items_in_batch"])
        # What rounding leaves where seven scores that are all alike are compared with their mean.
        scores = np.repeat(np.random.default_rng(0).normal(size=(1, 1, FEATURES.horizon)), 7, axis=1)
        alike = advantages(scores, np.full((1, 7), 0.1), scale="batch")
        assert np.abs(alike).max() > 0
        output["advantages"][:4] = float(np.abs(alike).max())
        ours(self, output)
        counted.append((before, int(output["num_items_in_batch"]), output["completion_mask"].sum(dim=1).tolist()))

    monkeypatch.setattr(HorizonCreditTrainer, "_leave_out_flat_groups", flatten_first_group)
    trained(tmp_path)
    assert len(counted) == 2
    for before, after, tokens in counted:
        assert before == sum(tokens)
        assert after == sum(tokens[4:])
