"""Rewards: formulas, ranges, and that nothing can be gained by answering badly on purpose."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerforge.features.prompts import parse, render_answer
from tickerforge.training.config import RewardConfig
from tickerforge.training.rejection import answer_skill
from tickerforge.training.rewards import accuracy, expected_square, reward_terms, worst_accuracy

HORIZON = 10
KINDS = ("mse", "bounded_skill", "huber", "published")
FLAT = render_answer([0] * HORIZON)
INVALID = (
    "",
    "<answer>[1]</answer>",
    render_answer([0] * (HORIZON - 1)),
    render_answer([0] * (HORIZON + 1)),
    FLAT + " and so on",
    "Sure: " + FLAT,
    FLAT + FLAT,
    FLAT.replace("<answer>", "<answer><answer>"),
    FLAT.replace("<think>", "<think><think>"),
    FLAT.replace("[0", "[nan"),
    FLAT.replace("[0", "[inf"),
    FLAT.replace("[0", "[1e9"),
    FLAT.replace("[0", "[1000000000"),
    FLAT.replace("[0, ", "[, "),
)
moves = st.lists(st.integers(-300, 300), min_size=HORIZON, max_size=HORIZON)
far = st.lists(st.integers(-(10**6), 10**6), min_size=HORIZON, max_size=HORIZON)
rubbish = st.one_of(
    st.sampled_from(INVALID),
    st.text(max_size=40),
    st.lists(st.sampled_from(["0", "5", "nan", "-inf", "1e5", "2000000", "one", ""]), max_size=HORIZON + 2).map(
        lambda cells: f"<think></think><answer>[{', '.join(cells)}]</answer>"
    ),
).filter(lambda text: parse(text, horizon=HORIZON) is None)
configs = st.builds(
    RewardConfig,
    kind=st.sampled_from(KINDS),
    clip=st.floats(0.01, 1000),
    financial_weight=st.floats(0, 1),
    format_weight=st.floats(0, 1),
)


def totals(config: RewardConfig, texts: list[str], target: list[float], *, last_close: float = 0.0) -> list[float]:
    """Rewards as TRL adds them up: terms as a float32 tensor, times the weights, summed."""
    terms, weights = reward_terms(config, horizon=HORIZON, unit=10.0)
    count = len(texts)
    scores = np.array(
        [term(completions=texts, target=[target] * count, last_close=[last_close] * count) for term in terms],
        np.float32,
    )
    return (scores.T * np.array(weights, np.float32)).sum(axis=1).tolist()


def total(kind: str, text: str, target: list[float]) -> float:
    return totals(RewardConfig(kind=kind), [text], target)[0]


@pytest.mark.parametrize("kind", KINDS)
@given(forecast=moves, target=moves)
def test_an_invalid_answer_scores_below_every_valid_one(kind: str, forecast: list[int], target: list[int]) -> None:
    valid = total(kind, render_answer(forecast), target)
    assert all(total(kind, text, target) < valid for text in INVALID)


@given(config=configs, invalid=rubbish, forecast=st.one_of(moves, far), target=moves, last_close=st.integers(-50, 50))
def test_nothing_invalid_scores_above_anything_valid_whatever_the_weights(
    config: RewardConfig, invalid: str, forecast: list[int], target: list[float], last_close: int
) -> None:
    above, below = totals(config, [render_answer(forecast), invalid], target, last_close=float(last_close))
    assert np.isfinite([above, below]).all()
    assert below < above


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", INVALID)
def test_every_invalid_answer_scores_the_same_one_margin_below_the_worst_accuracy(kind: str, text: str) -> None:
    config = RewardConfig(kind=kind, financial_weight=0.3, format_weight=0.2)
    assert totals(config, [text], [5.0] * HORIZON)[0] == pytest.approx(worst_accuracy(kind, clip=4.0) - 1.0 - 0.3)


@pytest.mark.parametrize("kind", KINDS)
@given(target=moves, prices=moves)
def test_a_flat_answer_scores_as_persistence_and_a_copied_one_as_the_forecast_that_it_is(
    kind: str, target: list[int], prices: list[int]
) -> None:
    config = RewardConfig(kind=kind, financial_weight=0.5, format_weight=0.1)
    copied = np.array(prices, float)
    realised = np.array(target, float)
    flat, echoed = totals(config, [FLAT, render_answer(prices)], [float(value) for value in target])

    def worth(forecast: np.ndarray) -> float:
        return accuracy(forecast, realised, kind=kind, clip=4.0, unit=10.0) + 0.1

    direction = np.sign(copied[-1]) * np.clip(realised[-1] / (10.0 * np.sqrt(HORIZON)), -2, 2) / 2
    assert flat == pytest.approx(worth(np.zeros(HORIZON)), abs=1e-5)
    assert echoed == pytest.approx(worth(copied) + 0.5 * direction, abs=1e-5)


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


@pytest.mark.nightly
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
