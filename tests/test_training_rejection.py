"""Rejection sampling: best of N within a window, quotas over time, nothing unfit for training."""

import json
from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.prompts import parse, render_answer
from training.config import RejectionConfig
from training.contracts import Example
from training.rejection import answer_skill, select_answers, spread_evenly

HORIZON = 10


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
