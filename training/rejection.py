"""Choosing the answers worth fine-tuning on, by one of four rules.

* ``best_of_n``: the best answers within a window, then windows by quota per stretch of time. Elicits answers that come
  nearer to what happened than the model's usual ones, in every regime.
* ``published``, for comparison: one answer a window, the first valid one; the windows are kept in the order of that
  answer's mean squared error, the lowest first, until as many are kept as have an answer that beats persistence (or
  reaches `min_skill`). Bins of equal width over the errors, kept bin by bin, come to the same. A window in which the
  price hardly moves has a low error whatever is answered: this selects calm windows rather than good answers, and
  elicits forecasts that hardly move.
* ``none``, the control: the first valid answer of every window. Elicits what the model does already.
* ``truth``, the other control: what really happened, and nothing is drawn. Supervised learning, which the stages before
  and after must justify themselves against.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from tickerforge.features.prompts import parse, render_answer
from tickerforge.training.config import RejectionConfig
from tickerforge.training.contracts import Example

COLUMNS = ("window_id", "ticker", "origin", "prompt", "answer", "skill", "rank", "bucket")


def spread_evenly(count: int, *, at_most: int) -> list[int]:
    """At most `at_most` of the indices 0 ... count-1, evenly spread, first and last included."""
    if count <= at_most:
        return list(range(count))
    return sorted({int(index) for index in np.linspace(0, count - 1, at_most).round()})


def answer_skill(values: Sequence[float], target: Sequence[float], *, last_close: float = 0.0) -> float:
    """Skill of one answer against persistence in its own window: ``1 - Σ eₕ²/h / Σ mₕ²/h``; at most 1.

    e is the error and m the move h sessions ahead, whose variance on a random walk grows with h: divided by it, the
    later sessions do not drown the earlier ones. The best of N answers then lies nearer what happened at every session,
    as though more had been drawn, and holds less of what the model believes already.

    In a window whose price never moved the divisor is 0: the skill is then 1 for a perfect answer and -inf for any
    other.
    """
    naive = scaled_error([last_close] * len(target), target)
    error = scaled_error(values, target)
    if naive == 0:
        return 1.0 if error == 0 else -np.inf
    return 1.0 - error / naive


def scaled_error(values: Sequence[float], target: Sequence[float]) -> float:
    """``Σ eₕ²/h``, e the error h sessions ahead."""
    ahead = np.arange(1, len(target) + 1)
    return float(np.sum((np.asarray(values, float) - np.asarray(target, float)) ** 2 / ahead))


def true_answers(examples: Sequence[Example], *, decimals: int = 0) -> list[list[str]]:
    """For each window what really happened, as the one answer drawn."""
    return [[render_answer(example.target, decimals=decimals)] for example in examples]


def select_answers(
    examples: Sequence[Example], answers: Sequence[Sequence[str]], *, config: RejectionConfig, decimals: int = 0
) -> pd.DataFrame:
    """The accepted answers, in time order.

    With ``best_of_n`` the valid answers of a window are ranked by skill against persistence and the best `config.keep`
    stay, or where `config.min_skill` is given those of them that reach it. The windows are then cut into
    `config.buckets` stretches of equal length in time, and each stretch may keep at most its quota of windows, the mean
    number of accepted windows per stretch that has any, rounded up: the best first where a skill is asked for, else
    some that are evenly spread, for no window may be preferred for what happened in it. So no regime crowds out the
    others. The other rules, which know neither `keep` nor `min_skill`, are described at the top of this module.

    Args:
        examples: Train windows; nothing of validation or test may be among them.
        answers: For each example the texts drawn for it.
        config: Rule, best of N, least skill, number of buckets.
        decimals: Decimals of a rewritten answer (0 in model units).

    Returns:
        One row an accepted answer with the columns `COLUMNS`; `prompt` is JSON, `answer` is rewritten in the one
        canonical form (values as parsed, `think` as written), `rank` is 0 for the best of its window, `bucket` is the
        stretch of time.
    """
    if config.rule == "best_of_n":
        best = _best_of_n(examples, answers, config=config, decimals=decimals)
        return _within_quota(best, best_first=config.min_skill is not None)[list(COLUMNS)]
    first = _first_valid(examples, answers, config=config, decimals=decimals)
    if config.rule == "published":
        asked = 0.0 if config.min_skill is None else config.min_skill
        best = _best_of_n(examples, answers, config=config, decimals=decimals)
        beating = best.loc[best["skill"] >= asked, "window_id"].nunique()
        first = first.sort_values(["error", "window_id"]).head(beating).sort_values("position", ignore_index=True)
    return first[list(COLUMNS)]


def _best_of_n(
    examples: Sequence[Example], answers: Sequence[Sequence[str]], *, config: RejectionConfig, decimals: int
) -> pd.DataFrame:
    rows = []
    for position, (example, texts) in enumerate(zip(examples, answers, strict=True)):
        scored: dict[tuple[float, ...], tuple[float, str]] = {}
        # Sorted, so that of answers alike but for their thoughts the same one stays, whichever was drawn first.
        for text in sorted(texts):
            values = parse(text, horizon=len(example.target))
            if values is None or values in scored:
                continue
            scored[values] = (scaled_error(values, example.target), text)
        best = sorted(scored.items(), key=lambda item: (item[1][0], item[0]))[: config.keep]
        for rank, (values, (_, text)) in enumerate(best):
            skill = answer_skill(values, example.target, last_close=example.last_close)
            if config.min_skill is None or skill >= config.min_skill:
                row = _row(example, text, values, decimals=decimals)
                rows.append(row | {"skill": skill, "rank": rank, "position": position})
    return _frame(rows, count=len(examples), buckets=config.buckets)


def _first_valid(
    examples: Sequence[Example], answers: Sequence[Sequence[str]], *, config: RejectionConfig, decimals: int
) -> pd.DataFrame:
    rows = []
    for position, (example, texts) in enumerate(zip(examples, answers, strict=True)):
        parsed = ((text, parse(text, horizon=len(example.target))) for text in texts)
        text, values = next(((text, values) for text, values in parsed if values is not None), ("", None))
        if values is None:
            continue
        row = _row(example, text, values, decimals=decimals)
        skill = answer_skill(values, example.target, last_close=example.last_close)
        error = float(np.mean((np.asarray(values) - np.asarray(example.target)) ** 2))
        rows.append(row | {"skill": skill, "rank": 0, "position": position, "error": error})
    return _frame(rows, count=len(examples), buckets=config.buckets)


def _row(example: Example, text: str, values: Sequence[float], *, decimals: int) -> dict[str, Any]:
    think = text.split("<think>", 1)[1].split("</think>", 1)[0]
    return {
        "window_id": example.window_id,
        "ticker": example.ticker,
        "origin": pd.Timestamp(example.origin),
        "prompt": json.dumps(example.prompt, ensure_ascii=False),
        "answer": render_answer(values, think=think.strip(), decimals=decimals),
    }


def _frame(rows: Sequence[dict[str, Any]], *, count: int, buckets: int) -> pd.DataFrame:
    if not rows:
        return pd.DataFrame(columns=[*COLUMNS, "position", "error"])
    frame = pd.DataFrame(rows)
    frame["bucket"] = (frame["position"] * buckets // count).astype(int)
    return frame


def _within_quota(accepted: pd.DataFrame, *, best_first: bool) -> pd.DataFrame:
    if accepted.empty:
        return accepted
    windows = accepted[accepted["rank"] == 0]
    quota = int(np.ceil(len(windows) / windows["bucket"].nunique()))
    if best_first:
        best = windows.sort_values(["bucket", "skill", "window_id"], ascending=[True, False, True])
        kept = set(best.groupby("bucket").head(quota)["window_id"])
    else:
        stretches = [rows["window_id"].to_numpy() for _, rows in windows.groupby("bucket")]
        kept = {each for ids in stretches for each in ids[spread_evenly(len(ids), at_most=quota)]}
    chosen = accepted[accepted["window_id"].isin(kept)]
    return chosen.sort_values(["position", "rank"]).reset_index(drop=True)
