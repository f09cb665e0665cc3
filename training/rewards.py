"""The rewards of GRPO: accuracy, a small financial term, and a valid format.

GRPO centres rewards within each group of answers to one window, so anything constant within a window (such as the
score of persistence in a skill) would cancel. The accuracy term is therefore the loss itself. An invalid answer scores
below every valid one; otherwise a policy learns to give no answer.

All losses are multiples of persistence's expected loss on a random walk, so rewards of different windows compare. In
model units (10 = one daily standard deviation σ), persistence's expected squared error at session h is 100·h. Its mean
over a horizon of H sessions is 50·(H + 1), which is 550 for H = 10.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from tickerforge.features.prompts import Fault, fault_of, parse
from tickerforge.features.units import UNITS_PER_SIGMA
from tickerforge.training.config import RewardConfig

Completion = str | list[dict[str, str]]
INVALID_MARGIN = 1.0
HUBER_DELTA = 1.0
LARGEST_MOVE = 2.0
"""Clip of the move in the financial term, in standard deviations of a move over the horizon."""


class RewardTerm(Protocol):
    """One term of the reward, which TRL calls with the dataset's columns as keywords."""

    def __call__(
        self,
        *,
        completions: Sequence[Completion],
        target: Sequence[Sequence[float]],
        last_close: Sequence[float],
        **_: Any,
    ) -> list[float]:
        """Score each completion against the target and the last close of its window."""
        ...


def completion_text(completion: Completion) -> str:
    """Return the text of an answer from TRL, which is a string or a chat of one message."""
    return completion if isinstance(completion, str) else completion[0]["content"]


def expected_square(horizon: int, *, unit: float = UNITS_PER_SIGMA) -> float:
    """Return persistence's expected MSE on a random walk: ``unit² · (horizon + 1) / 2`` (model units²)."""
    return unit**2 * (horizon + 1) / 2


def accuracy(
    forecast: NDArray[np.float64], target: NDArray[np.float64], *, kind: str, clip: float, unit: float
) -> float:
    """Compute the accuracy of one valid answer; higher is better, and a perfect forecast gets the highest value.

    * ``mse``: ``-min(MSE / E, clip)`` with E = `expected_square`; range [-clip, 0]. Elicits the conditional mean,
      except for the clipped tail. Example: target all 10, forecast all 0, H = 10: -100/550 = -0.18.
    * ``bounded_skill``: ``(MSE₀ - MSE) / (MSE₀ + MSE)`` with MSE₀ that of persistence in this window; range [-1, 1].
      Not a proper score: its optimum is closer to persistence than the conditional mean is.
    * ``huber``: mean over sessions of ``-min(ρ(e / √E), clip)`` with ρ quadratic up to δ = 1, linear beyond;
      range [-clip, 0]. Elicits something between mean and median.
    * ``crps``: ``-mean(min(|e| / (unit √h), clip))``, the part of the score that does not depend on the group. Only
      for the log: training uses `session_scores`.
    * ``published``: ``5 / (1 + 10 · MSE / E)``; range (0, 5]. Elicits near-certain hits: it is flat for large errors.

    Args:
        forecast: Forecast values minus the last close, shape `(horizon,)`.
        target: Actual values minus the last close, same units and shape.
        kind: The formula.
        clip: Largest loss.
        unit: Size of one daily standard deviation in these units.
    """
    error = forecast - target
    scale = expected_square(len(target), unit=unit)
    mse = float(np.mean(error**2))
    match kind:
        case "mse":
            return -min(mse / scale, clip)
        case "bounded_skill":
            naive = float(np.mean(target**2))
            return (naive - mse) / (naive + mse) if naive + mse > 0 else 1.0
        case "huber":
            return -float(np.mean(np.minimum(_huber(np.abs(error) / np.sqrt(scale)), clip)))
        case "crps":
            return -float(np.mean(np.minimum(np.abs(error) / _session_scale(len(target), unit=unit), clip)))
        case "published":
            return 5.0 / (1.0 + 10.0 * mse / scale)
    raise ValueError(f"unknown reward kind {kind!r}")


def session_scores(
    values: NDArray[np.float64], targets: NDArray[np.float64], *, kind: str, clip: float, unit: float
) -> NDArray[np.float64]:
    """Compute the accuracy of each single value of some answers; higher is better.

    Errors e are divided by the standard deviation of the move at that session, ``unit · √h``, so that every session
    counts the same.

    * ``mse``: ``-min(e², clip)``. Elicits the conditional mean in every answer, without spread.
    * ``huber``: ``-min(ρ(e), clip)`` as in `accuracy`.
    * ``crps``: ``-min(|e|, clip)``; the value of the answers' spread comes from `session_distances`.

    Args:
        values: Forecasts minus the last close, shape `(groups, answers, horizon)`; NaN in all sessions of an invalid
            answer.
        targets: Actual values minus the last close, same units, shape `(groups, horizon)`.
        kind: The formula.
        clip: Largest loss of one session.
        unit: Size of one daily standard deviation in these units.

    Returns:
        Same shape as `values`, with NaN for NaN.
    """
    errors = np.abs(values - targets[:, None, :]) / _session_scale(values.shape[-1], unit=unit)
    match kind:
        case "mse":
            return -np.minimum(errors**2, clip)
        case "huber":
            return -np.minimum(_huber(errors), clip)
        case "crps":
            return -np.minimum(errors, clip)
    raise ValueError(f"no score of single sessions for reward kind {kind!r}")


def session_distances(values: NDArray[np.float64], *, clip: float, unit: float) -> NDArray[np.float64]:
    """Compute the distances between the values of a group's answers, ``min(|x - x'| / (unit √h), clip)``.

    The continuous ranked probability score (CRPS) ``E|X - y| - ½ E|X - X'|`` is proper: it elicits the whole predictive
    distribution, medians and bands, and does not reward answers for agreeing. X and X' have the same distribution, so
    its policy gradient is that of ``|x - y| - E|x - X'|`` with X' fixed: an answer's error minus its mean distance from
    answers that are independent of it. (Gneiting and Raftery 2007, "Strictly Proper Scoring Rules, Prediction, and
    Estimation", eq. 21.)

    Args:
        values: As in `session_scores`.
        clip: Largest distance.
        unit: As in `session_scores`.

    Returns:
        Shape `(groups, answers, answers, horizon)`; NaN if either answer is invalid.
    """
    apart = np.abs(values[:, :, None, :] - values[:, None, :, :])
    return np.asarray(np.minimum(apart / _session_scale(values.shape[-1], unit=unit), clip))


def _session_scale(horizon: int, *, unit: float) -> NDArray[np.float64]:
    return np.asarray(unit * np.sqrt(np.arange(1, horizon + 1)))


def _huber(ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(ratio <= HUBER_DELTA, ratio**2, HUBER_DELTA * (2 * ratio - HUBER_DELTA))


def worst_accuracy(kind: str, *, clip: float) -> float:
    """Return the lowest value that `accuracy` can give for a valid answer."""
    return {"mse": -clip, "huber": -clip, "crps": -clip, "bounded_skill": -1.0, "published": 0.0}[kind]


def invalid_score(kind: str, *, clip: float) -> float:
    """Return the accuracy of an invalid answer: one margin below the worst of a valid one."""
    return worst_accuracy(kind, clip=clip) - INVALID_MARGIN


@dataclass(frozen=True)
class AccuracyReward:
    """Accuracy of a valid answer; an invalid one gets one margin below the worst valid score."""

    kind: str
    clip: float
    horizon: int
    unit: float

    def __call__(
        self,
        *,
        completions: Sequence[Completion],
        target: Sequence[Sequence[float]],
        last_close: Sequence[float],
        **_: Any,
    ) -> list[float]:
        """Score each completion; see `accuracy` for formula and range."""
        invalid = invalid_score(self.kind, clip=self.clip)
        scores = []
        for completion, truth, start in zip(completions, target, last_close, strict=True):
            values = parse(completion_text(completion), horizon=self.horizon)
            scores.append(
                invalid
                if values is None
                else accuracy(
                    np.array(values) - start, np.array(truth) - start, kind=self.kind, clip=self.clip, unit=self.unit
                )
            )
        return scores


@dataclass(frozen=True)
class FinancialReward:
    """``sign(forecast move) · actual move / (σ √H)``, clipped to ±2 and halved: range [-1, 1]; -1 if invalid.

    The moves are those at the last session of the horizon. A flat forecast scores 0. Example: forecast up, and the
    price rises by two standard deviations of an H-session move: +1.
    """

    horizon: int
    unit: float

    def __call__(
        self,
        *,
        completions: Sequence[Completion],
        target: Sequence[Sequence[float]],
        last_close: Sequence[float],
        **_: Any,
    ) -> list[float]:
        """Score each completion against the actual move."""
        scores = []
        for completion, truth, start in zip(completions, target, last_close, strict=True):
            values = parse(completion_text(completion), horizon=self.horizon)
            move = (truth[-1] - start) / (self.unit * np.sqrt(self.horizon))
            scores.append(
                -1.0
                if values is None
                else float(np.sign(values[-1] - start) * np.clip(move, -LARGEST_MOVE, LARGEST_MOVE) / 2)
            )
        return scores


@dataclass(frozen=True)
class FormatReward:
    """1 for a valid answer, 0 for an invalid one; its mean is the valid rate."""

    horizon: int

    def __call__(
        self,
        *,
        completions: Sequence[Completion],
        window_id: Sequence[str] = (),
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[str]], None] | None = None,
        **_: Any,
    ) -> list[float]:
        """Score each completion by whether `parse` accepts it.

        TRL logs the share of each fault with `log_metric`, and the window of each answer with `log_extra`.
        """
        if log_extra is not None:
            log_extra("window_id", list(window_id))
        texts = [completion_text(completion) for completion in completions]
        if log_metric is not None:
            for name, share in fault_shares(texts, horizon=self.horizon).items():
                log_metric(name, share)
        return [float(parse(text, horizon=self.horizon) is not None) for text in texts]


def fault_shares(texts: Sequence[str], *, horizon: int) -> dict[str, float]:
    """Return the share of the answers with each fault, as `fault_tag` and others; the rest of them is valid."""
    faults = [fault_of(text, horizon=horizon) for text in texts]
    return {f"fault_{fault}": faults.count(fault) / max(len(faults), 1) for fault in get_args(Fault)}


def reward_terms(config: RewardConfig, *, horizon: int, unit: float) -> tuple[list[RewardTerm], list[float]]:
    """Return the terms of the reward and their weights; the reward is the weighted sum.

    Args:
        config: Kind, clip and weights.
        horizon: Values per answer.
        unit: Size of one daily standard deviation in the units of answers and targets (10 in model units).
    """
    terms: list[RewardTerm] = [
        AccuracyReward(kind=config.kind, clip=config.clip, horizon=horizon, unit=unit),
        FinancialReward(horizon=horizon, unit=unit),
        FormatReward(horizon=horizon),
    ]
    return terms, [1.0, config.financial_weight, config.format_weight]
