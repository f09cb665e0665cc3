"""Selection of the answers to fine-tune on, by one of four rules.

* ``best_of_n``: the best answers of each window, then windows by a quota per time bucket. Teaches answers that are
  closer to what happened than the model's usual ones, in every market regime.
* ``published``, for comparison: the first valid answer of each window. Windows are kept in the order of that answer's
  mean squared error, lowest first, until as many are kept as have an answer that beats persistence (or reaches
  `min_skill`). Bins of equal width over the errors, kept bin by bin, give the same. If the price hardly moves, every
  answer has a low error: this rule selects calm windows, not good answers, and teaches forecasts that hardly move.
* ``none``, a control: the first valid answer of every window. Teaches what the model does already.
* ``truth``, another control: the actual prices, with no sampling. This is supervised learning, the yardstick for the
  stages before and after.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from tickerforge.features.prompts import AnswerFormat, fault_of, parse, render_answer, thoughts_of
from tickerforge.training.config import RejectionConfig
from tickerforge.training.contracts import ANSWER_COLUMNS, Example

ACCEPTED_COLUMNS = ("window_id", "ticker", "origin", "prompt", "answer", "skill", "rank", "bucket")


def spread_evenly(count: int, *, at_most: int) -> list[int]:
    """Choose at most `at_most` of the indices 0 ... count-1, evenly spread, with the first and the last."""
    if count <= at_most:
        return list(range(count))
    return sorted({int(index) for index in np.linspace(0, count - 1, at_most).round()})


def answer_skill(values: Sequence[float], target: Sequence[float], *, last_close: float = 0.0) -> float:
    """Compute the skill of one answer against persistence in its window: ``1 - (Σ eₕ²/h) / (Σ mₕ²/h)``; at most 1.

    e is the error and m the move, h sessions ahead. On a random walk their variance grows with h; divided by h, the
    later sessions do not outweigh the earlier ones. The best of N answers is then closer to the actual prices in every
    session, as if more answers had been drawn, and repeats less of what the model believes already.

    If the price never moved in a window, the divisor is 0: the skill is then 1 for a perfect answer and -inf for any
    other.
    """
    naive = scaled_error([last_close] * len(target), target)
    error = scaled_error(values, target)
    if naive == 0:
        return 1.0 if error == 0 else -np.inf
    return 1.0 - error / naive


def scaled_error(values: Sequence[float], target: Sequence[float]) -> float:
    """Compute ``Σ eₕ²/h`` with e the error h sessions ahead (units of the target, squared)."""
    ahead = np.arange(1, len(target) + 1)
    return float(np.sum((np.asarray(values, float) - np.asarray(target, float)) ** 2 / ahead))


def true_answers(examples: Sequence[Example], *, written: AnswerFormat = AnswerFormat()) -> list[list[str]]:
    """Return the actual prices of each window, as its only answer."""
    return [[render_answer(example.target, decimals=written.decimals, style=written.style)] for example in examples]


def select_answers(
    examples: Sequence[Example],
    answers: Sequence[Sequence[str]],
    *,
    config: RejectionConfig,
    written: AnswerFormat = AnswerFormat(),
) -> pd.DataFrame:
    """Select the accepted answers, in order of time.

    With ``best_of_n``, the valid answers of a window are ranked by skill against persistence. The best `config.keep`
    stay, if they reach `config.min_skill` (when it is set). Then the windows are cut into `config.buckets` time buckets
    of equal length, and each keeps at most its quota of windows: the mean number of accepted windows per bucket that
    has any, rounded up. If `min_skill` is set, these are the best windows. If not, they are evenly spread, because no
    window may be preferred for what happened in it. So no market regime crowds out the others. The other rules, which
    ignore `keep` and (but for ``published``) `min_skill`, are described at the top of this module.

    Args:
        examples: Train windows; windows of validation or test must not be among them.
        answers: For each example, the texts sampled for it.
        config: Rule, answers to keep, lowest skill, number of buckets.
        written: Format of a rewritten answer.

    Returns:
        One row per accepted answer, with the columns `ACCEPTED_COLUMNS`: `prompt` is JSON, `answer` is rewritten in
        canonical form (values as parsed, `think` as written), `rank` is 0 for the best of its window, `bucket` is the
        number of the time bucket.
    """
    if config.rule == "best_of_n":
        best = _best_of_n(examples, answers, config=config, written=written)
        return _within_quota(best, best_first=config.min_skill is not None)[list(ACCEPTED_COLUMNS)]
    first = _first_valid(examples, answers, config=config, written=written)
    if config.rule == "published":
        asked = 0.0 if config.min_skill is None else config.min_skill
        best = _best_of_n(examples, answers, config=config, written=written)
        beating = best.loc[best["skill"] >= asked, "window_id"].nunique()
        first = first.sort_values(["error", "window_id"]).head(beating).sort_values("position", ignore_index=True)
    return first[list(ACCEPTED_COLUMNS)]


def answers_frame(examples: Sequence[Example], answers: Sequence[Sequence[str]]) -> pd.DataFrame:
    """List all answers that were drawn, with the columns `ANSWER_COLUMNS`."""
    rows = []
    for example, texts in zip(examples, answers, strict=True):
        for draw, text in enumerate(texts):
            values = parse(text, horizon=len(example.target))
            fault = fault_of(text, horizon=len(example.target))
            skill = np.nan
            if values is not None:
                skill = answer_skill(values, example.target, last_close=example.last_close)
            rows.append((example.window_id, draw, text, fault, skill))
    return pd.DataFrame(rows, columns=list(ANSWER_COLUMNS)).astype({"fault": "str"})


def _best_of_n(
    examples: Sequence[Example], answers: Sequence[Sequence[str]], *, config: RejectionConfig, written: AnswerFormat
) -> pd.DataFrame:
    rows = []
    for position, (example, texts) in enumerate(zip(examples, answers, strict=True)):
        scored: dict[tuple[float, ...], tuple[float, str]] = {}
        # Sorted: of answers that differ only in their thoughts, the same one stays, whichever was drawn first.
        for text in sorted(texts):
            values = parse(text, horizon=len(example.target))
            if values is None or values in scored:
                continue
            scored[values] = (scaled_error(values, example.target), text)
        best = sorted(scored.items(), key=lambda item: (item[1][0], item[0]))[: config.keep]
        for rank, (values, (_, text)) in enumerate(best):
            skill = answer_skill(values, example.target, last_close=example.last_close)
            if config.min_skill is None or skill >= config.min_skill:
                row = _row(example, text, values, written=written)
                rows.append(row | {"skill": skill, "rank": rank, "position": position})
    return _frame(rows, count=len(examples), buckets=config.buckets)


def _first_valid(
    examples: Sequence[Example], answers: Sequence[Sequence[str]], *, config: RejectionConfig, written: AnswerFormat
) -> pd.DataFrame:
    rows = []
    for position, (example, texts) in enumerate(zip(examples, answers, strict=True)):
        parsed = ((text, parse(text, horizon=len(example.target))) for text in texts)
        text, values = next(((text, values) for text, values in parsed if values is not None), ("", None))
        if values is None:
            continue
        row = _row(example, text, values, written=written)
        skill = answer_skill(values, example.target, last_close=example.last_close)
        error = float(np.mean((np.asarray(values) - np.asarray(example.target)) ** 2))
        rows.append(row | {"skill": skill, "rank": 0, "position": position, "error": error})
    return _frame(rows, count=len(examples), buckets=config.buckets)


def _row(example: Example, text: str, values: Sequence[float], *, written: AnswerFormat) -> dict[str, Any]:
    return {
        "window_id": example.window_id,
        "ticker": example.ticker,
        "origin": pd.Timestamp(example.origin),
        "prompt": json.dumps(example.prompt, ensure_ascii=False),
        "answer": render_answer(
            values, think=thoughts_of(text).strip(), decimals=written.decimals, style=written.style
        ),
    }


def _frame(rows: Sequence[dict[str, Any]], *, count: int, buckets: int) -> pd.DataFrame:
    if not rows:
        return pd.DataFrame(columns=[*ACCEPTED_COLUMNS, "position", "error"])
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
