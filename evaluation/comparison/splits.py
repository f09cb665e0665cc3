"""The part of a report about one split: figures, tests, calibration, tickers, notes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date

import numpy as np

from tickerforge.evaluation.core.contracts import (
    AFTER,
    CURRENT_CHAMPION,
    DECIDING_METRIC,
    PERSISTENCE,
    POOLED,
    Calibration,
    Floats,
    MetricRow,
    ScoredSplit,
    Significance,
    SplitSummary,
    TickerScore,
)
from tickerforge.evaluation.core.labels import model_label, percent
from tickerforge.evaluation.core.panels import Answers, Truth
from tickerforge.evaluation.evidence.significance import by_session, diebold_mariano, independent_rows
from tickerforge.evaluation.metrics.accuracy import scaled_errors, skill
from tickerforge.evaluation.metrics.scores import score
from tickerforge.features.stages import ADAPTERS


@dataclass(frozen=True)
class SplitScores:
    """The figures of one split; `losses` are the scaled squared errors of every model by window (n,)."""

    summary: SplitSummary
    metrics: list[MetricRow]
    tests: list[Significance]
    calibration: list[Calibration]
    tickers: list[TickerScore]
    notes: list[str]
    losses: dict[str, Floats]


def score_split(
    truth: Truth,
    answers: Sequence[Answers],
    *,
    available: int,
    interval: float,
    naive: Mapping[str, float],
    by_ticker: bool,
    cut_off: date | None = None,
) -> SplitScores:
    """Score every model on one split.

    Args:
        truth: The actual prices.
        answers: Every model's forecasts.
        available: Number of windows before the selection.
        interval: Nominal coverage of the band.
        naive: From `evaluation.metrics.scores.naive_errors`.
        by_ticker: Whether to report every ticker's share.
        cut_off: Last day that the base model may have been trained on.
    """
    models = [each.model for each in answers]
    losses = {each.model: scaled_errors(truth.target, each.median, sigma=truth.sigma).mean(axis=1) for each in answers}
    scored = {each.model: score(truth, each, interval=interval, naive=naive) for each in answers}
    calibration = [
        Calibration(split=truth.split, model=each.model, shares=tuple(scored[each.model][1].pit.tolist()))
        for each in answers
        if each.n_samples.any()
    ]
    tests = [_test(truth, losses, model=model, against=PERSISTENCE) for model in models if model != PERSISTENCE]
    for reference in (CURRENT_CHAMPION, POOLED):
        if reference in models:
            tests += [_test(truth, losses, model=model, against=reference) for model in ADAPTERS if model in models]
    notes = [*_silence(truth, answers), *_untested(truth.split, tests)]
    if truth.split == "test":
        notes += [_tails(each) for each in calibration]
    return SplitScores(
        summary=_summary(truth, available=available, cut_off=cut_off),
        metrics=_metric_rows(truth, answers, scores={model: figures for model, (figures, _) in scored.items()}),
        tests=tests,
        calibration=calibration,
        tickers=_by_ticker(truth, losses) if by_ticker else [],
        # The windows after a cut-off are test windows, so the notes on test already cover them.
        notes=[] if truth.split == AFTER else notes,
        losses=losses,
    )


def _summary(truth: Truth, *, available: int, cut_off: date | None) -> SplitSummary:
    return SplitSummary(
        split=truth.split,
        windows=len(truth.origins),
        available=available,
        before=0 if cut_off is None else int((truth.origins < np.datetime64(cut_off)).sum()),
        independent=len(independent_rows(truth.positions, horizon=truth.horizon)),
        first_origin=truth.origins[0].item(),
        last_origin=truth.origins[-1].item(),
        last_target=truth.target_dates[-1, -1].item(),
    )


def _metric_rows(
    truth: Truth, answers: Sequence[Answers], *, scores: Mapping[str, dict[str, float | None]]
) -> list[MetricRow]:
    for name, loss in (("skill", DECIDING_METRIC), ("skill_published", "mse")):
        reference = scores[PERSISTENCE][loss] or 0.0
        for values in scores.values():
            values[name] = skill(values[loss] or 0.0, reference)
    rows = [
        MetricRow(split=truth.split, metric=metric, horizon=None, values={m: scores[m][metric] for m in scores})
        for metric in scores[PERSISTENCE]
    ]
    ahead = {each.model: scaled_errors(truth.target, each.median, sigma=truth.sigma).mean(axis=0) for each in answers}
    return rows + [
        MetricRow(
            split=truth.split,
            metric=DECIDING_METRIC,
            horizon=step + 1,
            values={model: float(errors[step]) for model, errors in ahead.items()},
        )
        for step in range(truth.horizon)
    ]


def _test(truth: Truth, losses: Mapping[str, Floats], *, model: str, against: str) -> Significance:
    test = diebold_mariano(
        by_session(losses[model], positions=truth.positions),
        by_session(losses[against], positions=truth.positions),
        positions=np.unique(truth.positions),
        horizon=truth.horizon,
    )
    return Significance(split=truth.split, model=model, against=against, **asdict(test))


def _by_ticker(truth: Truth, losses: Mapping[str, Floats]) -> list[TickerScore]:
    rows = []
    for ticker in np.unique(truth.tickers):
        mine = truth.tickers == ticker
        values = {model: float(loss[mine].mean()) for model, loss in losses.items()}
        rows.append(TickerScore(split=truth.split, ticker=str(ticker), windows=int(mine.sum()), values=values))
    return rows


def _untested(split: ScoredSplit, tests: Sequence[Significance]) -> list[str]:
    """Say why some models have no significance test."""
    models: dict[str, list[str]] = {}
    for test in tests:
        if test.split == split and test.against == PERSISTENCE and test.note:
            models.setdefault(test.note, []).append(model_label(test.model))
    return [f"On {split} p is set to 1 for {', '.join(names)}: {note}." for note, names in models.items()]


def _tails(found: Calibration) -> str:
    """Say what the ends of the probability integral transform show about the bands."""
    lowest, highest = found.shares[0], found.shares[-1]
    return (
        f"Of the {found.split} prices, {percent(lowest)} were in the lowest tenth of {model_label(found.model)}'s "
        f"distribution and {percent(highest)} in the highest; 10.0 % each is calibrated, more means too narrow."
    )


def _silence(truth: Truth, answers: Sequence[Answers]) -> list[str]:
    """Say how many windows a model left unanswered."""
    notes = []
    for each in answers:
        silent = int(np.sum((each.n_samples > 0) & (each.n_valid == 0)))
        if silent:
            notes.append(
                f"{model_label(each.model)} gave no valid answer in {silent} of {len(truth.origins)} {truth.split} "
                "windows; they are scored as persistence."
            )
    return notes
