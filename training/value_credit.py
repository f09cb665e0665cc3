"""The credit of each value of a group's answers, as GRPO learns from it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tickerforge.features.prompts import parse
from tickerforge.training.config import RewardConfig
from tickerforge.training.credit import advantages
from tickerforge.training.rewards import FinancialReward, invalid_score, session_distances, session_scores


def value_advantages(
    texts: Sequence[str],
    *,
    targets: NDArray[np.float64],
    start: NDArray[np.float64],
    group: int,
    reward: RewardConfig,
    unit: float,
    scale: str,
) -> NDArray[np.float64]:
    """Compute what `training.credit.advantages` gives for answers.

    Args:
        texts: The answers, those of a window one after the other in the order in which they were drawn.
        targets: Actual values in the units that the model writes, shape `(answers, horizon)`.
        start: The last close in these units, shape `(answers, 1)`.
        group: Answers per window.
        reward: What GRPO rewards.
        unit: Size of one daily standard deviation in these units.
        scale: See `training.credit.advantages`.

    Returns:
        Shape `(answers, horizon + 1)`.
    """
    horizon = targets.shape[1]
    values = np.full(targets.shape, np.nan)
    for row, text in enumerate(texts):
        parsed = parse(text, horizon=horizon)
        if parsed is not None:
            values[row] = parsed
    valid = np.isfinite(values[:, 0]).reshape(-1, group)
    limits = {"clip": reward.clip, "unit": unit}
    moves = (values - start).reshape(-1, group, horizon)
    scores = session_scores(moves, (targets - start)[::group], kind=reward.kind, **limits)
    apart = session_distances(moves, **limits) if reward.kind == "crps" else None
    financial = FinancialReward(horizon=horizon, unit=unit)
    sign = financial(completions=list(texts), target=targets.tolist(), last_close=start[:, 0].tolist())
    scores[..., -1] += reward.financial_weight * np.reshape(sign, valid.shape)
    invalid = np.where(valid, reward.format_weight, invalid_score(reward.kind, clip=reward.clip))
    return advantages(scores, invalid, scale=scale, apart=apart).reshape(-1, horizon + 1)
