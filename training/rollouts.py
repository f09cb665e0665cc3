"""A page of rollouts: for some steps of GRPO the prompts, the answers, their scores, and the credit as colour."""

import html
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tickerforge.training.config import RewardConfig
from tickerforge.training.contracts import Example
from tickerforge.training.credit import value_spans
from tickerforge.training.value_credit import value_advantages

STEPS, WINDOWS = 5, 2
# The text must stay readable on the strongest colour.
_STRONGEST = 0.5
_STYLE = """
:root { color-scheme: light dark; --good: 0 150 90; --bad: 200 80 0; --line: #8886; }
@media (prefers-color-scheme: dark) { :root { --good: 60 210 160; --bad: 255 150 80; } }
body { max-width: 72rem; margin: 0 auto; padding: 1rem; font: 15px/1.5 system-ui, sans-serif; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; font: 13px/1.6 ui-monospace, monospace; }
article { border-top: 1px solid var(--line); padding: .4rem 0; display: grid; gap: 1rem; }
article { grid-template-columns: 7rem 1fr; }
@media (max-width: 40rem) { article { grid-template-columns: 1fr; gap: 0; } }
i { font-style: normal; border-radius: .2rem; padding: 0 .1rem; }
"""


def rollouts_page(
    answers: pd.DataFrame,
    examples: Mapping[str, Example],
    *,
    stage: str,
    reward: RewardConfig,
    unit: float,
    scale: str,
) -> str:
    """Render the page, one HTML file without scripts; all texts are escaped.

    Five steps are shown, from the first to the last one, each with two windows. A value is coloured by its advantage
    in the loss: green values become more likely, orange ones less likely. Stronger colours mean larger advantages,
    relative to the largest of the step. A tooltip has the advantage. An invalid answer has one colour.

    Args:
        answers: Columns `GRPO_ANSWER_COLUMNS`; the answers to a window one after the other.
        examples: The train windows by their ids.
        stage: Name of the stage.
        reward: What GRPO rewards.
        unit: Size of one daily standard deviation in the units that the model writes.
        scale: What the advantages are divided by; see `training.credit.advantages`.
    """
    every = answers["step"].unique()
    steps = every[np.unique(np.linspace(0, len(every) - 1, STEPS).round().astype(int))] if len(every) else []
    parts = []
    for step in steps:
        drawn = answers[answers["step"] == step]
        valid = drawn["fault"].isna().mean()
        parts.append(
            f"<h2>Step {step}</h2><p>{len(drawn)} answers, {valid:.0%} valid, mean score "
            f"{drawn['accuracy'].mean():.3f}</p>"
        )
        drawn = drawn[drawn["window_id"].isin(examples.keys())]
        if drawn.empty:
            continue
        credit = _credit(drawn, examples, reward=reward, unit=unit, scale=scale)
        strongest = float(np.abs(credit).max()) or 1.0
        for name in drawn["window_id"].unique()[:WINDOWS]:
            mine = (drawn["window_id"] == name).to_numpy()
            parts.append(_window(drawn[mine], examples[name], credit=credit[mine], strongest=strongest))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Rollouts of {html.escape(stage)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>Rollouts of {html.escape(stage)}</h1><p>Green values become more likely by this step, orange ones less "
        "likely; stronger colours mean more credit within the step, and a tooltip has the advantage in the loss. "
        "The score is that of the whole answer.</p>"
        f"{''.join(parts)}</body></html>"
    )


def _credit(
    drawn: pd.DataFrame, examples: Mapping[str, Example], *, reward: RewardConfig, unit: float, scale: str
) -> NDArray[np.float64]:
    """Compute the advantages of all answers of a step, shape (answers, horizon + 1): `batch` divides by all of them."""
    runs = (drawn["window_id"] != drawn["window_id"].shift()).cumsum()
    sizes = runs.value_counts()
    group = int(sizes.iloc[0])
    if (sizes != group).any():
        # A window that was drawn twice in a row, or one with fewer answers: each window alone.
        alone = [_credit(part, examples, reward=reward, unit=unit, scale=scale) for _, part in drawn.groupby(runs)]
        return np.concatenate(alone)
    shown = [examples[name] for name in drawn["window_id"]]
    return value_advantages(
        drawn["answer"].tolist(),
        targets=np.array([example.target for example in shown]),
        start=np.array([[example.last_close] for example in shown]),
        group=group,
        reward=reward,
        unit=unit,
        scale=scale,
    )


def _window(group: pd.DataFrame, example: Example, *, credit: NDArray[np.float64], strongest: float) -> str:
    texts, horizon = group["answer"].tolist(), len(example.target)
    rows = []
    for text, fault, accuracy, own in zip(texts, group["fault"], group["accuracy"], credit, strict=True):
        valid = pd.isna(fault)
        note = f"score {accuracy:.3f}" if valid else f"invalid: {html.escape(str(fault))}"
        rows.append(f"<article><div>{note}</div><pre>{_coloured(text, own, horizon, valid, strongest)}</pre></article>")
    prompt = "\n\n".join(f"[{turn['role']}] {turn['content']}" for turn in example.prompt)
    actual = ", ".join(f"{value:g}" for value in example.target)
    return (
        f"<h3>{html.escape(example.window_id)}</h3><details><summary>Prompt</summary>"
        f"<pre>{html.escape(prompt)}</pre></details><p>What happened: {actual}</p>{''.join(rows)}"
    )


def _coloured(text: str, credit: NDArray[np.float64], horizon: int, valid: bool, strongest: float) -> str:
    """Return an answer as HTML; a value has the colour of its credit, and an invalid answer that of the whole."""
    spans = value_spans(text) if valid else []
    if len(spans) != horizon:
        return _mark(text, float(credit[-1]), strongest)
    found, at = [], 0
    for (start, end), own in zip(spans, credit, strict=False):
        found += [html.escape(text[at:start]), _mark(text[start:end], float(own), strongest)]
        at = end
    return "".join([*found, html.escape(text[at:])])


def _mark(text: str, credit: float, strongest: float) -> str:
    colour, strength = "good" if credit > 0 else "bad", _STRONGEST * abs(credit) / strongest
    style = f"background: rgb(var(--{colour}) / {strength:.2f})"
    return f'<i style="{style}" title="{credit:+.2f}">{html.escape(text)}</i>'
