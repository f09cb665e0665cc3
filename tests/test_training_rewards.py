"""Rewards: formulas, ranges, and that nothing can be gained by answering badly on purpose."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.prompts import render_answer
from training.config import RewardConfig
from training.rejection import answer_skill
from training.rewards import accuracy, expected_square, reward_terms, worst_accuracy

HORIZON = 10
KINDS = ("mse", "bounded_skill", "huber", "published")
INVALID = ("", "<answer>[1]</answer>", render_answer([0] * 9), render_answer([0] * HORIZON) + " and so on")
moves = st.lists(st.integers(-300, 300), min_size=HORIZON, max_size=HORIZON)


def total(kind: str, text: str, target: list[float]) -> float:
    terms, weights = reward_terms(RewardConfig(kind=kind), horizon=HORIZON, unit=10.0)
    return sum(
        weight * term(completions=[text], target=[target], last_close=[0.0])[0]
        for term, weight in zip(terms, weights, strict=True)
    )


@pytest.mark.parametrize("kind", KINDS)
@given(forecast=moves, target=moves)
def test_an_invalid_answer_scores_below_every_valid_one(kind: str, forecast: list[int], target: list[int]) -> None:
    valid = total(kind, render_answer(forecast), target)
    assert all(total(kind, text, target) < valid for text in INVALID)


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_answer_scores_highest(kind: str) -> None:
    target = [3.0, -4.0, 8.0, 12.0, 9.0, 15.0, 21.0, 18.0, 25.0, 30.0]
    perfect = total(kind, render_answer(target), target)
    flat = total(kind, render_answer([0] * HORIZON), target)
    wrong = total(kind, render_answer([-value for value in target]), target)
    assert perfect > flat > wrong


@pytest.mark.parametrize("kind", KINDS)
@given(forecast=moves, target=moves)
def test_accuracy_stays_in_its_documented_range(kind: str, forecast: list[int], target: list[int]) -> None:
    value = accuracy(np.array(forecast, float), np.array(target, float), kind=kind, clip=4.0, unit=10.0)
    assert (
        worst_accuracy(kind, clip=4.0)
        <= value
        <= {"mse": 0.0, "huber": 0.0, "bounded_skill": 1.0, "published": 5.0}[kind]
    )


def test_the_mse_reward_of_the_docstring_example_is_what_it_says() -> None:
    value = accuracy(np.zeros(HORIZON), np.full(HORIZON, 10.0), kind="mse", clip=4.0, unit=10.0)
    assert value == pytest.approx(-100 / 550)


def test_persistence_expects_a_loss_of_one_on_a_random_walk() -> None:
    rng = np.random.default_rng(0)
    walks = np.cumsum(rng.normal(0, 10.0, (20_000, HORIZON)), axis=1)
    assert np.mean(walks**2) / expected_square(HORIZON) == pytest.approx(1.0, abs=0.03)


def test_clipped_mse_elicits_the_conditional_mean_where_bounded_skill_shrinks_it() -> None:
    rng = np.random.default_rng(1)
    targets = 20.0 + rng.normal(0, 20.0, (4_000, 1))
    candidates = np.arange(0.0, 31.0)

    def best(kind: str) -> float:
        scores = [
            np.mean([accuracy(np.array([c]), t, kind=kind, clip=50.0, unit=10.0) for t in targets]) for c in candidates
        ]
        return float(candidates[int(np.argmax(scores))])

    assert best("mse") == pytest.approx(20.0, abs=1.5)
    assert best("bounded_skill") < best("mse") - 2


def test_the_financial_term_pays_the_right_direction_only() -> None:
    terms, _ = reward_terms(RewardConfig(), horizon=HORIZON, unit=10.0)
    financial = terms[1]
    rise = [float(10 * step) for step in range(1, HORIZON + 1)]
    up, down, flat = (render_answer([sign * 5] * HORIZON) for sign in (1, -1, 0))
    assert financial(completions=[up, down, flat], target=[rise] * 3, last_close=[0.0] * 3) == [1.0, -1.0, 0.0]


def test_reward_terms_take_chats_and_survive_pickling() -> None:
    terms, _ = reward_terms(RewardConfig(), horizon=HORIZON, unit=10.0)
    chat = [{"role": "assistant", "content": render_answer([1] * HORIZON)}]
    for term in terms:
        again = pickle.loads(pickle.dumps(term))
        call = {"completions": [chat], "target": [[1.0] * HORIZON], "last_close": [0.0]}
        assert again(**call) == term(**call)


@pytest.mark.parametrize("kind", KINDS)
def test_rewards_and_skill_do_not_depend_on_where_zero_lies(kind: str) -> None:
    target = [0.1, -0.2, 0.3, 0.2, 0.4, 0.5, 0.3, 0.6, 0.7, 0.8]
    forecast = [0.05] * 5 + [0.3] * 5
    level = 2.0
    terms, _ = reward_terms(RewardConfig(kind=kind), horizon=HORIZON, unit=0.1)
    for term in terms:
        at_zero = term(completions=[written(forecast)], target=[target], last_close=[0.0])
        shifted = [value + level for value in target]
        raised = written([value + level for value in forecast])
        assert term(completions=[raised], target=[shifted], last_close=[level]) == pytest.approx(at_zero)
    assert answer_skill([level] * HORIZON, [value + level for value in target], last_close=level) == pytest.approx(0)


def written(values: list[float]) -> str:
    return render_answer(values, decimals=4)
