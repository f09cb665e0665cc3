"""Which token is credited with what: each value's own error on its own tokens, instead of one score on all of them.

A GRPO answer is ten forecasts. One score for the whole answer tells no value from its neighbours: nine good ones pay
for a bad one, and the noise of all ten lies on every token. Here a value is compared with the group's values of the
same session and the difference is credited to the tokens that write it. The other tokens (tags, thoughts, commas) get
the mean over the sessions, since they serve all of them.

The answers to a window come in two halves, each drawn as evenly as an answer distributed by the model allows
(`training.backends.sampling.in_halves`). What an answer is compared with is the other half, on which it does not
depend: the gradient is then that of the expected score, however even the draws within a half are, and their chance,
which is most of the noise of a policy gradient, largely cancels.

A value also conditions the values after it. Each is therefore credited with the sessions that follow too, discounted
by `DISCOUNT` a session: without that, a value is not told that it starts a path; with all of it, the noise of nine
other errors lies on it again.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?")
SMALLEST_SPREAD = 1e-4
DISCOUNT = 0.5


def advantages(scores: Floats, answer_scores: Floats, *, scale: str, apart: Floats | None = None) -> Floats:
    """Advantages of values and of the tokens around them, each against the other half of the group.

    Args:
        scores: Score of each value, shape `(groups, answers, horizon)`; NaN throughout an invalid answer.
        answer_scores: What an answer is worth as a whole (format, or the penalty of an invalid one), in the same scale,
            shape `(groups, answers)`.
        scale: What the advantages are divided by: `none`, `group` (the root mean square of the group's), or `batch` (of
            all).
        apart: Distances that the score rewards, shape `(groups, answers, answers, horizon)`, see
            `training.rewards.session_distances`.

    Returns:
        Shape `(groups, answers, horizon + 1)`: the sessions', then that of all other tokens, which is the mean over
        sessions. All tokens of an invalid answer get the whole answer's.
    """
    valid = np.isfinite(scores)
    halves = half_of(scores.shape[1])
    other = (halves[:, None] != halves[None, :])[None, :, :, None] & valid[:, None]
    compared = scores - _mean(scores[:, None], other)
    if apart is not None:
        # Of the other half's answers among themselves: what one of them would have been worth.
        pairs = other[:, :, :, None] & other[:, :, None] & ~np.eye(len(halves), dtype=bool)[None, None, :, :, None]
        compared = compared + _mean(apart, other) - _mean(apart[:, None], pairs, axis=(2, 3))
    centred = _ahead(np.where(valid & other.any(axis=2), compared, 0.0))
    whole = (answer_scores - answer_scores.mean(axis=1, keepdims=True))[..., None]
    values = np.concatenate([centred, centred.mean(axis=2, keepdims=True)], axis=2) + whole
    if scale == "none":
        return values
    axis = (1, 2) if scale == "group" else None
    both = np.where(valid, centred + whole, whole)
    spread = np.sqrt(np.mean(both**2, axis=axis, keepdims=True))
    return np.asarray(values / (spread + SMALLEST_SPREAD))


def half_of(answers: int) -> NDArray[np.int64]:
    """Which half each of the answers to a window belongs to, 0 or 1; the second one is the larger of an odd number."""
    return (np.arange(answers) >= answers // 2).astype(np.int64)


def _ahead(centred: Floats) -> Floats:
    """Means over each session and those after it, weighted by powers of `DISCOUNT`."""
    found, total, weight = np.empty_like(centred), np.zeros(centred.shape[:2]), 0.0
    for session in reversed(range(centred.shape[2])):
        total, weight = centred[..., session] + DISCOUNT * total, 1.0 + DISCOUNT * weight
        found[..., session] = total / weight
    return found


def _mean(values: Floats, counted: NDArray[np.bool_], *, axis: int | tuple[int, ...] = 2) -> Floats:
    """Mean of the values that count; 0 where none does."""
    total = np.where(counted, values, 0.0).sum(axis=axis)
    return np.asarray(total / np.maximum(counted.sum(axis=axis), 1))


def tokens_of_values(pieces: Sequence[str], *, horizon: int) -> list[list[int]]:
    """Which tokens write which value.

    Args:
        pieces: The text of each token of a valid answer, in order.
        horizon: Values in an answer.

    Returns:
        For each value the positions of the tokens that hold a part of its number; a token that holds parts of two
        numbers counts for the first. Empty where the answer has no such list of numbers.
    """
    ends = np.cumsum([len(piece) for piece in pieces])
    text = "".join(pieces)
    start = text.rfind("[") + 1
    numbers = list(_NUMBER.finditer(text, start, max(text.rfind("]"), start)))
    if start == 0 or len(numbers) != horizon:
        return []
    owner: dict[int, int] = {}
    for value, number in enumerate(numbers):
        first, last = np.searchsorted(ends, [number.start(), number.end() - 1], side="right")
        for token in range(int(first), int(last) + 1):
            owner.setdefault(token, value)
    found: list[list[int]] = [[] for _ in range(horizon)]
    for token, value in owner.items():
        found[value].append(token)
    return found
