"""Rejection sampling: three rules, quotas over time, nothing unfit for training, the same whatever came first."""

import json
import math
from datetime import date, timedelta
from random import Random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerforge.features.prompts import parse, render_answer
from tickerforge.training.config import RejectionConfig
from tickerforge.training.contracts import Example
from tickerforge.training.rejection import answer_skill, answers_frame, select_answers, spread_evenly, true_answers

HORIZON = 10
RULES = ("best_of_n", "published", "none")


def example(index: int, target: list[float]) -> Example:
    origin = date(2020, 1, 1) + timedelta(days=index)
    return Example(f"T:{origin}", "T", origin, [{"role": "user", "content": f"window {index}"}], tuple(target))


def draws(count: int, *, seed: int, n: int = 6) -> tuple[list[Example], list[list[str]]]:
    rng = np.random.default_rng(seed)
    examples = [example(i, rng.integers(-40, 40, HORIZON).astype(float).tolist()) for i in range(count)]
    junk = ["", "nonsense", "<think></think><answer>[nan]</answer>", render_answer([1] * 9)]
    answers = [
        [render_answer(rng.integers(-40, 40, HORIZON)) for _ in range(n - 1)] + [junk[int(rng.integers(len(junk)))]]
        for _ in examples
    ]
    return examples, answers


def test_the_best_answer_of_a_window_is_kept() -> None:
    target = [float(5 * step) for step in range(1, HORIZON + 1)]
    good, fair = [value - 1 for value in target], [value - 9 for value in target]
    texts = [render_answer(fair), "rubbish", render_answer(good), render_answer([0] * HORIZON)]
    accepted = select_answers([example(0, target)], [texts], config=RejectionConfig(buckets=1))
    assert [parse(text, horizon=HORIZON) for text in accepted["answer"]] == [tuple(good)]
    assert accepted["skill"].item() == pytest.approx(answer_skill(good, target))


def test_every_answer_is_listed_with_its_thoughts_its_fault_or_its_skill() -> None:
    target = [1.0] * HORIZON
    texts = [render_answer(target, think="it rises"), render_answer([1] * 9), "rubbish"]
    listed = answers_frame([example(0, target), example(1, target)], [texts, texts[:1]])
    assert listed["draw"].tolist() == [0, 1, 2, 0]
    assert listed["answer"].tolist() == [*texts, texts[0]]
    assert listed["fault"].fillna("").tolist() == ["", "count", "tag", ""]
    assert listed["skill"].fillna(-9.0).tolist() == [1.0, -9.0, -9.0, 1.0]


def test_no_window_is_left_out_for_what_happened_in_it() -> None:
    """Of windows in which the price hardly moved even the best answer does worse than persistence."""
    rng = np.random.default_rng(5)
    examples = [example(i, rng.normal(0, 1 if i % 2 else 40, HORIZON).round().tolist()) for i in range(200)]
    answers = [[render_answer(rng.normal(0, 30, HORIZON).round().astype(int)) for _ in range(4)] for _ in examples]
    accepted = select_answers(examples, answers, config=RejectionConfig())
    assert (accepted["skill"] < 0).sum() > 50
    assert set(accepted["window_id"]) == {each.window_id for each in examples}
    beating = select_answers(examples, answers, config=RejectionConfig(min_skill=0.0))
    assert set(beating["window_id"]) < set(accepted["window_id"])
    by_published = select_answers(examples, answers, config=RejectionConfig(rule="published"))
    assert len(beating) <= len(by_published) < len(accepted)


def test_a_quota_leaves_out_windows_whatever_happened_in_them() -> None:
    """Half of the second stretch has no valid answer, so that the first one keeps three quarters of its windows."""
    rng = np.random.default_rng(6)
    calm = rng.random(100) < 0.5
    targets = [rng.normal(0, 1 if quiet else 40, HORIZON).round().tolist() for quiet in calm]
    answers = [[render_answer(rng.normal(0, 30, HORIZON).round().astype(int)) for _ in range(4)] for _ in targets]
    answers[50::2] = [["invalid"]] * 25
    examples = [example(index, target) for index, target in enumerate(targets)]
    accepted = select_answers(examples, answers, config=RejectionConfig(buckets=2))
    assert accepted.groupby("bucket").size().to_dict() == {0: 38, 1: 25}
    quiet = {example.window_id for example, quiet in zip(examples, calm, strict=True) if quiet}
    kept = accepted[accepted["bucket"] == 0]["window_id"].isin(quiet).mean()
    assert kept == pytest.approx(calm[:50].mean(), abs=0.1)


def test_of_a_window_that_never_moved_the_nearest_answer_is_kept() -> None:
    texts = [render_answer([level] * HORIZON) for level in (4, -1, 7)]
    accepted = select_answers([example(0, [0.0] * HORIZON)], [texts], config=RejectionConfig())
    assert [parse(text, horizon=HORIZON) for text in accepted["answer"]] == [(-1.0,) * HORIZON]
    assert accepted["skill"].item() == -np.inf
    assert select_answers([example(0, [0.0] * HORIZON)], [texts], config=RejectionConfig(min_skill=-9.0)).empty


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), keep=st.integers(1, 3), buckets=st.integers(1, 6))
def test_every_accepted_answer_parses_has_the_skill_asked_for_and_belongs_to_its_window(
    seed: int, keep: int, buckets: int
) -> None:
    examples, answers = draws(20, seed=seed)
    config = RejectionConfig(keep=keep, buckets=buckets, min_skill=-0.5)
    accepted = select_answers(examples, answers, config=config)
    by_id = {e.window_id: (e, texts) for e, texts in zip(examples, answers, strict=True)}
    for row in accepted.itertuples():
        owner, texts = by_id[row.window_id]
        values = parse(row.answer, horizon=HORIZON)
        assert values is not None
        assert values in [parse(text, horizon=HORIZON) for text in texts]
        assert answer_skill(values, owner.target) == pytest.approx(row.skill)
        assert row.skill >= -0.5
        assert json.loads(row.prompt) == owner.prompt
    assert (accepted.groupby("window_id").size() <= keep).all()
    assert accepted["origin"].is_monotonic_increasing


def test_no_stretch_of_time_keeps_more_windows_than_its_quota() -> None:
    easy = [example(i, [10.0] * HORIZON) for i in range(50)]
    hard = [example(50 + i, [10.0] * HORIZON) for i in range(50)]
    answers = [[render_answer([10] * HORIZON)]] * 50 + [[render_answer([1 + i % 5] * HORIZON)] for i in range(50)]
    answers[60:] = [["invalid"]] * 40
    accepted = select_answers(easy + hard, answers, config=RejectionConfig(buckets=2))
    assert accepted.groupby("bucket").size().to_dict() == {0: 30, 1: 10}


def test_selection_does_not_depend_on_anything_but_its_input() -> None:
    examples, answers = draws(30, seed=3)
    first = select_answers(examples, answers, config=RejectionConfig(keep=2))
    second = select_answers(examples, [list(texts) for texts in answers], config=RejectionConfig(keep=2))
    assert first.equals(second)


def test_nothing_fit_gives_an_empty_frame_with_the_columns() -> None:
    accepted = select_answers([example(0, [5.0] * HORIZON)], [["junk", ""]], config=RejectionConfig())
    assert accepted.empty
    assert {"window_id", "prompt", "answer", "skill"} <= set(accepted.columns)


def test_a_window_that_never_moved_accepts_only_the_perfect_answer() -> None:
    assert answer_skill([0.0] * HORIZON, [0.0] * HORIZON) == 1.0
    assert answer_skill([1.0] * HORIZON, [0.0] * HORIZON) == -np.inf


@given(count=st.integers(1, 500), at_most=st.integers(1, 500))
def test_spread_evenly_never_exceeds_its_limit_and_stays_in_range(count: int, at_most: int) -> None:
    chosen = spread_evenly(count, at_most=at_most)
    assert len(chosen) <= max(at_most, 1)
    assert chosen == sorted(set(chosen))
    assert 0 <= chosen[0] <= chosen[-1] < count


numbers = st.sampled_from(["0", "7", "-12", "3.5", "300", "1e3", "nan", "inf", "-inf", "", "x", "1e9", "9999999"])
texts = st.one_of(
    st.lists(st.integers(-9, 9), min_size=HORIZON, max_size=HORIZON).map(render_answer),
    st.builds(
        lambda think, values: render_answer(values, think=think),
        st.sampled_from(["up", "down"]),
        st.sampled_from([[1] * HORIZON, [-1] * HORIZON]),
    ),
    st.lists(numbers, min_size=HORIZON - 1, max_size=HORIZON + 1).map(
        lambda cells: f"<think></think><answer>[{', '.join(cells)}]</answer>"
    ),
    st.text(max_size=30),
)
targets = st.lists(st.integers(-9, 9).map(float), min_size=HORIZON, max_size=HORIZON)
markets = st.lists(st.tuples(targets, st.lists(texts, max_size=5)), min_size=1, max_size=12)
Market = list[tuple[list[float], list[str]]]


def chosen(market: Market, *, rule: str, keep: int = 1, buckets: int = 3, min_skill: float = -2.0) -> pd.DataFrame:
    config = RejectionConfig(rule=rule, keep=keep, buckets=buckets, min_skill=min_skill)
    examples = [example(index, target) for index, (target, _) in enumerate(market)]
    return select_answers(examples, [answers for _, answers in market], config=config)


def valid(answers: list[str]) -> list[tuple[float, ...]]:
    return [values for text in answers if (values := parse(text, horizon=HORIZON)) is not None]


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=25, deadline=None)
@given(market=markets, keep=st.integers(1, 3))
def test_whatever_was_answered_only_finite_answers_of_the_windows_given_are_kept(
    rule: str, market: Market, keep: int
) -> None:
    accepted = chosen(market, rule=rule, keep=keep)
    drawn = {example(index, target).window_id: answers for index, (target, answers) in enumerate(market)}
    for row in accepted.itertuples():
        values = parse(row.answer, horizon=HORIZON)
        assert values is not None
        assert all(math.isfinite(value) for value in values)
        assert tuple(round(value) for value in values) in [
            tuple(round(value) for value in each) for each in valid(drawn[row.window_id])
        ]


@settings(max_examples=25, deadline=None)
@given(market=markets)
def test_no_answer_of_a_window_is_better_than_the_one_that_best_of_n_keeps(market: Market) -> None:
    drawn = {example(index, target).window_id: (target, answers) for index, (target, answers) in enumerate(market)}
    for row in chosen(market, rule="best_of_n").itertuples():
        target, answers = drawn[row.window_id]
        assert row.skill == max(answer_skill(values, target) for values in valid(answers))


@settings(max_examples=25, deadline=None)
@given(market=markets, seed=st.randoms(use_true_random=False))
def test_best_of_n_does_not_depend_on_the_order_in_which_answers_were_drawn(market: Market, seed: Random) -> None:
    shuffled = [(target, seed.sample(answers, len(answers))) for target, answers in market]
    assert chosen(shuffled, rule="best_of_n", keep=2).equals(chosen(market, rule="best_of_n", keep=2))


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=30, deadline=None)
@given(market=markets)
def test_every_rule_repeats_and_is_not_moved_by_invalid_answers(rule: str, market: Market) -> None:
    spoilt = [(target, ["no answer", *answers, "<answer>[]</answer>"]) for target, answers in market]
    assert chosen(market, rule=rule).equals(chosen(market, rule=rule))
    assert chosen(spoilt, rule=rule).equals(chosen(market, rule=rule))


@settings(max_examples=25, deadline=None)
@given(market=markets, buckets=st.integers(1, 5))
def test_best_of_n_keeps_to_the_quota_of_each_stretch_of_time(market: Market, buckets: int) -> None:
    accepted = chosen(market, rule="best_of_n", buckets=buckets)
    fit = [
        index * buckets // len(market)
        for index, (target, answers) in enumerate(market)
        if any(answer_skill(values, target) >= -2.0 for values in valid(answers))
    ]
    if fit:
        quota = math.ceil(len(fit) / len(set(fit)))
        kept = accepted.groupby("bucket")["window_id"].nunique()
        assert kept.to_dict() == {bucket: min(quota, fit.count(bucket)) for bucket in set(fit)}
    else:
        assert accepted.empty


@settings(max_examples=25, deadline=None)
@given(market=markets)
def test_the_published_rule_keeps_as_many_windows_as_have_a_good_answer_and_none_with_a_larger_error_than_one_left_out(
    market: Market,
) -> None:
    accepted = chosen(market, rule="published")
    good = [any(answer_skill(each, target) >= -2.0 for each in valid(answers)) for target, answers in market]
    assert len(accepted) == sum(good)
    first = {
        example(index, target).window_id: float(np.mean((np.array(valid(answers)[0]) - target) ** 2))
        for index, (target, answers) in enumerate(market)
        if valid(answers)
    }
    kept = {name: first[name] for name in accepted["window_id"]}
    left_out = [error for name, error in first.items() if name not in kept]
    if kept and left_out:
        assert max(kept.values()) <= min(left_out)
        assert accepted["bucket"].between(0, 2).all()


def test_the_published_rule_prefers_the_window_that_hardly_moved_where_the_default_keeps_the_better_answer() -> None:
    calm = example(0, [1.0] * HORIZON), [render_answer([0] * HORIZON)]
    moved = example(1, [100.0] * HORIZON), [render_answer([90] * HORIZON)]
    examples, answers = [calm[0], moved[0]], [calm[1], moved[1]]

    def kept(rule: str) -> list[str]:
        config = RejectionConfig(rule=rule, buckets=1, min_skill=0.5)
        return select_answers(examples, answers, config=config)["window_id"].tolist()

    assert kept("best_of_n") == [moved[0].window_id]
    assert kept("published") == [calm[0].window_id]
    assert kept("none") == [calm[0].window_id, moved[0].window_id]


@settings(max_examples=25, deadline=None)
@given(market=markets)
def test_the_control_keeps_the_first_valid_answer_of_every_window(market: Market) -> None:
    accepted = chosen(market, rule="none")
    expected = {
        example(index, target).window_id: render_answer(valid(answers)[0])
        for index, (target, answers) in enumerate(market)
        if valid(answers)
    }
    assert {
        row.window_id: row.answer.replace("up", "").replace("down", "") for row in accepted.itertuples()
    } == expected


def test_the_truth_as_a_control_keeps_what_really_happened_in_every_window() -> None:
    examples = [example(index, [float(index)] * HORIZON) for index in range(3)]
    config = RejectionConfig(rule="truth", min_skill=0.9)
    accepted = select_answers(examples, true_answers(examples), config=config)
    assert list(accepted["answer"]) == [render_answer([index] * HORIZON) for index in range(3)]
    assert list(accepted["skill"]) == [1.0] * 3
