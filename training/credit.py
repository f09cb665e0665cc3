"""Credit assignment for GRPO: each value's error goes to the tokens of that value, instead of one score to all tokens.

An answer is ten forecasts. One score for the whole answer does not distinguish a value from its neighbours: nine good
values pay for a bad one, and every token gets the noise of all ten. Here a value is compared with the group's values
for the same session, and the difference is credited to the tokens that write it. The other tokens (tags, thoughts,
commas) get the mean over the sessions, because they serve all of them.

The answers to a window come in two independent halves. Within a half, answers come in mirrored pairs and the draws are
spread as evenly as possible (`training.backends.sampling.in_halves`). An answer is compared with the other half only,
because it is independent of that. The gradient is then the gradient of the expected score, however even the draws are,
and sampling noise, which is most of the noise of a policy gradient, largely cancels.

A value also conditions the values after it. It is therefore also credited with the later sessions, discounted by
`DISCOUNT` per session. Without them, a value does not learn that it starts a path; without the discount, it gets the
noise of nine other errors again.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tickerforge.features.prompts import NUMBER, NUMBERED

SMALLEST_SPREAD = 1e-4
"""Added to the spread that divides the advantages."""
DISCOUNT = 0.5


def advantages(
    scores: NDArray[np.float64],
    answer_scores: NDArray[np.float64],
    *,
    scale: str,
    apart: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Compute the advantages of values, and of the tokens around them, against the other half of the group.

    Args:
        scores: Score of each value, shape `(groups, answers, horizon)`; NaN in all sessions of an invalid answer.
        answer_scores: Score of each answer as a whole (format, or the penalty of an invalid answer), on the same scale,
            shape `(groups, answers)`.
        scale: What the advantages are divided by: `none`, `group` (root mean square over the group), or `batch` (over
            all groups).
        apart: Distances that the score rewards, shape `(groups, answers, answers, horizon)`; see
            `training.rewards.session_distances`.

    Returns:
        Shape `(groups, answers, horizon + 1)` with one per session, and last that of all other tokens, the mean over
        sessions. All tokens of an invalid answer get that of the whole answer.
    """
    valid = np.isfinite(scores)
    halves = half_of(scores.shape[1])
    other = (halves[:, None] != halves[None, :])[None, :, :, None] & valid[:, None]
    compared = scores - _mean(scores[:, None], other)
    if apart is not None:
        # Mean distance within the other half: what an answer of that half would have earned.
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
    """Return the half of each answer to a window, 0 or 1; with an odd number, the second half is larger."""
    return (np.arange(answers) >= answers // 2).astype(np.int64)


def _ahead(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average each session with those after it, weighted by powers of `DISCOUNT`."""
    found, total, weight = np.empty_like(centred), np.zeros(centred.shape[:2]), 0.0
    for session in reversed(range(centred.shape[2])):
        total, weight = centred[..., session] + DISCOUNT * total, 1.0 + DISCOUNT * weight
        found[..., session] = total / weight
    return found


def _mean(
    values: NDArray[np.float64], counted: NDArray[np.bool_], *, axis: int | tuple[int, ...] = 2
) -> NDArray[np.float64]:
    """Average the values that count; 0 if none does."""
    total = np.where(counted, values, 0.0).sum(axis=axis)
    return np.asarray(total / np.maximum(counted.sum(axis=axis), 1))


def tokens_of_values(pieces: Sequence[str], *, horizon: int) -> list[list[int]]:
    """Find the tokens that write each value.

    Args:
        pieces: The text of each token of a valid answer, in order.
        horizon: Values per answer.

    Returns:
        For each value, the positions of the tokens that contain part of its number; a token with parts of two numbers
        belongs to the first. In the numbered style the colon before a value and the character after it count too, if
        their token holds no part of a label: there a model that writes single digits chooses the sign and the end of
        the number. Empty if the answer has no such values.
    """
    ends = np.cumsum([len(piece) for piece in pieces])
    text = "".join(pieces)
    numbers, labels = _spans(text)
    if len(numbers) != horizon:
        return []

    def tokens(start: int, end: int) -> range:
        first, last = np.searchsorted(ends, [start, end - 1], side="right")
        return range(int(first), int(last) + 1)

    of_labels = {token for span in labels for token in tokens(*span)}
    owner: dict[int, int] = {}
    for value, span in enumerate(numbers):
        for token in tokens(*span):
            if token not in of_labels:
                owner.setdefault(token, value)
    found: list[list[int]] = [[] for _ in range(horizon)]
    for token, value in owner.items():
        found[value].append(token)
    return found


def value_spans(text: str) -> list[tuple[int, int]]:
    """Return where the values of a valid answer stand in its text."""
    return _spans(text)[0]


def _spans(text: str) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return where the values of a valid answer stand, and where their labels stand (none in a list)."""
    start = text.rfind("<answer>") + len("<answer>")
    end = text.find("</answer>", start)
    if "[" in text[start:end]:
        inside = text.rfind("[") + 1, text.rfind("]")
        return [match.span() for match in NUMBER.finditer(text, *inside)], []
    found = list(NUMBERED.finditer(text, start, end))
    values = [(match.end("label"), match.end() + 1) for match in found]
    return values, [match.span("label") for match in found]
