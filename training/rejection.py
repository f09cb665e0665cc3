"""Choosing the answers worth fine-tuning on: best of N within a window, then windows by quota per time bucket."""

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd

from features.prompts import parse, render_answer
from training.config import RejectionConfig
from training.contracts import Example

COLUMNS = ("window_id", "ticker", "origin", "prompt", "answer", "skill", "rank", "bucket")


def spread_evenly(count: int, *, at_most: int) -> list[int]:
    """At most `at_most` of the indices 0 ... count-1, evenly spread, first and last included."""
    if count <= at_most:
        return list(range(count))
    return sorted({int(index) for index in np.linspace(0, count - 1, at_most).round()})


def answer_skill(values: Sequence[float], target: Sequence[float], *, last_close: float = 0.0) -> float:
    """Skill of one answer against persistence in its own window: ``1 - MSE / MSE₀``; at most 1.

    In a window whose price never moved MSE₀ is 0: the skill is then 1 for a perfect answer and -inf for any other.
    """
    error = float(np.mean((np.asarray(values) - np.asarray(target)) ** 2))
    naive = float(np.mean((np.asarray(target, float) - last_close) ** 2))
    if naive == 0:
        return 1.0 if error == 0 else -np.inf
    return 1.0 - error / naive


def select_answers(
    examples: Sequence[Example], answers: Sequence[Sequence[str]], *, config: RejectionConfig, decimals: int = 0
) -> pd.DataFrame:
    """The accepted answers, in time order.

    Within a window the valid answers are ranked by skill against persistence and the best `config.keep` of those with
    at least `config.min_skill` stay. The windows are then cut into `config.buckets` stretches of equal length in time,
    and each stretch may keep at most its quota of windows, the best first: the mean number of accepted windows per
    stretch that has any, rounded up. So no regime crowds out the others, and no window is preferred for being calm.

    Args:
        examples: Train windows; nothing of validation or test may be among them.
        answers: For each example the texts drawn for it.
        config: Best of N, least skill, number of buckets.
        decimals: Decimals of a rewritten answer (0 in model units).

    Returns:
        One row an accepted answer with the columns `COLUMNS`; `prompt` is JSON, `answer` is rewritten in the one
        canonical form (values as parsed, `think` as written), `rank` is 0 for the best of its window.
    """
    rows = []
    for example, texts in zip(examples, answers, strict=True):
        horizon = len(example.target)
        scored: dict[tuple[float, ...], tuple[float, str]] = {}
        for text in texts:
            values = parse(text, horizon=horizon)
            if values is None or values in scored:
                continue
            skill = answer_skill(values, example.target, last_close=example.last_close)
            if skill >= config.min_skill:
                scored[values] = (skill, text)
        best = sorted(scored.items(), key=lambda item: (-item[1][0], item[0]))[: config.keep]
        for rank, (values, (skill, text)) in enumerate(best):
            think = text.split("<think>", 1)[1].split("</think>", 1)[0]
            rows.append(
                {
                    "window_id": example.window_id,
                    "ticker": example.ticker,
                    "origin": pd.Timestamp(example.origin),
                    "prompt": json.dumps(example.prompt, ensure_ascii=False),
                    "answer": render_answer(values, think=think.strip(), decimals=decimals),
                    "skill": skill,
                    "rank": rank,
                }
            )
    if not rows:
        return pd.DataFrame(columns=list(COLUMNS))
    accepted = pd.DataFrame(rows)
    order = {example.window_id: index for index, example in enumerate(examples)}
    position = accepted["window_id"].map(order)
    accepted["bucket"] = (position * config.buckets // len(examples)).astype(int)
    return _apply_quota(accepted, order=order)


def _apply_quota(accepted: pd.DataFrame, *, order: dict[str, int]) -> pd.DataFrame:
    windows = accepted[accepted["rank"] == 0]
    quota = int(np.ceil(len(windows) / windows["bucket"].nunique()))
    best = windows.sort_values(["bucket", "skill", "window_id"], ascending=[True, False, True])
    kept = best.groupby("bucket").head(quota)["window_id"]
    chosen = accepted[accepted["window_id"].isin(set(kept))].copy()
    chosen["position"] = chosen["window_id"].map(order)
    chosen = chosen.sort_values(["position", "rank"]).drop(columns="position").reset_index(drop=True)
    return chosen[list(COLUMNS)]
