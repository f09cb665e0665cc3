"""The page of rollouts: values are coloured by their credit, and every text is escaped."""

import re
from dataclasses import replace
from datetime import date

import numpy as np
import pandas as pd

from tickerforge.training.config import RewardConfig
from tickerforge.training.contracts import GRPO_ANSWER_COLUMNS, Example
from tickerforge.training.rollouts import rollouts_page
from tickerforge.training.value_credit import value_advantages

TARGET = (10.0, 0.0)
EXAMPLE = Example(
    window_id="A:2026-11-20",
    ticker="A",
    origin=date(2026, 11, 20),
    prompt=[{"role": "user", "content": "<closes> & more"}],
    target=TARGET,
)
TEXTS = ["<think>up & away</think><answer>[10, 0]</answer>", "<answer>[-40, 0]</answer>", "<b>nothing</b>"] * 2


def page(texts: list[str] = TEXTS) -> str:
    faults = [None if "answer" in text else "no answer" for text in texts]
    rows = [
        (step, EXAMPLE.window_id, text, fault, 0.5)
        for step in (1, 2)
        for text, fault in zip(texts, faults, strict=True)
    ]
    answers = pd.DataFrame(rows, columns=list(GRPO_ANSWER_COLUMNS))
    examples = {EXAMPLE.window_id: EXAMPLE}
    return rollouts_page(answers, examples, stage="grpo_1st", reward=RewardConfig(), unit=10.0, scale="group")


def advantages(texts: list[str], *, group: int, scale: str) -> np.ndarray:
    n = len(texts)
    return value_advantages(
        texts,
        targets=np.tile(TARGET, (n, 1)),
        start=np.zeros((n, 1)),
        group=group,
        reward=RewardConfig(),
        unit=10.0,
        scale=scale,
    )


def test_a_value_has_the_colour_and_the_strength_of_its_advantage() -> None:
    shown = page()
    assert re.findall(r"<h2>Step (\d)</h2>", shown) == ["1", "2"]
    credit = advantages(TEXTS, group=6, scale="group")
    good, bad = credit[0, 0], credit[1, 0]
    assert good > 0 > bad
    strongest = np.abs(credit).max()
    for text, value, colour in (("10", good, "good"), ("-40", bad, "bad")):
        strength = abs(value) / strongest / 2
        mark = f'<i style="background: rgb(var(--{colour}) / {strength:.2f})" title="{value:+.2f}">{text}</i>'
        assert mark in shown


def test_advantages_scaled_by_the_batch_are_those_of_all_windows_of_the_step() -> None:
    texts = [*TEXTS[:2], *("<answer>[9, 0]</answer>", "<answer>[10, 1]</answer>")]
    other = replace(EXAMPLE, window_id="B:2026-11-20", ticker="B")
    names = [EXAMPLE.window_id] * 2 + [other.window_id] * 2
    rows = [(1, name, text, None, 0.5) for name, text in zip(names, texts, strict=True)]
    shown = rollouts_page(
        pd.DataFrame(rows, columns=list(GRPO_ANSWER_COLUMNS)),
        {each.window_id: each for each in (EXAMPLE, other)},
        stage="grpo_1st",
        reward=RewardConfig(),
        unit=10.0,
        scale="batch",
    )
    credit = advantages(texts, group=2, scale="batch")
    titles = re.findall(r'title="(.*?)"', shown)
    assert titles == [f"{value:+.2f}" for value in credit[:, :-1].ravel()]


def test_texts_are_escaped_and_an_invalid_answer_says_why() -> None:
    shown = page()
    assert "up &amp; away&lt;/think&gt;" in shown
    assert "&lt;closes&gt; &amp; more" in shown
    assert "&lt;b&gt;nothing&lt;/b&gt;" in shown
    assert "invalid: no answer" in shown
    assert "<script" not in shown


def test_a_stage_without_answers_has_an_empty_page() -> None:
    assert "<h2>" not in page([])
