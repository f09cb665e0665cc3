"""The part of a report about one split: figures, tests, calibration, tickers, notes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date

import numpy as np

from tickerforge.evaluation.core.contracts import (
    AFTER,
    CURRENT_CHAMPION,
    DRIFT,
    PERSISTENCE,
    POOLED,
    RANDOM_WALK,
    RANDOM_WALK_HAR,
    Calibration,
    Floats,
    Loss,
    MetricRow,
    ScoredSplit,
    Significance,
    SplitSummary,
    TickerScore,
)
from tickerforge.evaluation.core.labels import model_label, percent
from tickerforge.evaluation.core.panels import Answers, Truth
from tickerforge.evaluation.evidence.cross_section import MIN_TICKERS, cross_section
from tickerforge.evaluation.evidence.significance import by_session, diebold_mariano, independent_rows
from tickerforge.evaluation.metrics.accuracy import scaled_errors, skill
from tickerforge.evaluation.metrics.scores import Scales, score
from tickerforge.features.stages import ADAPTERS


@dataclass(frozen=True)
class SplitScores:
    """The figures of one split; `losses` (n, h) are those of every model, by the name of the loss."""

    summary: SplitSummary
    metrics: list[MetricRow]
    tests: list[Significance]
    calibration: list[Calibration]
    tickers: list[TickerScore]
    notes: list[str]
    losses: dict[Loss, dict[str, Floats]]


def score_split(
    truth: Truth,
    answers: Sequence[Answers],
    *,
    available: int,
    interval: float,
    scales: Scales,
    by_ticker: bool,
    cut_off: date | None = None,
    cost: float = 0.0,
) -> SplitScores:
    """Score every model on one split.

    Args:
        truth: The actual prices.
        answers: Every model's forecasts, the random walk's among them.
        available: Number of windows before the selection.
        interval: Nominal coverage of the band.
        scales: From `evaluation.metrics.scores.scales_of`.
        by_ticker: Whether to report every ticker's share.
        cut_off: Last day that the base model may have been trained on.
        cost: Share of the value traded, per purchase and per sale, for the decile spread of a pool.
    """
    models = [each.model for each in answers]
    walk = next(each for each in answers if each.model == RANDOM_WALK)
    scored = {each.model: score(truth, each, interval=interval, scales=scales, walk=walk) for each in answers}
    squared = {each.model: scaled_errors(truth.target, each.median, sigma=truth.sigma) for each in answers}
    ranked = {model: fit.crps for model, (_, fit) in scored.items()}
    losses: dict[Loss, dict[str, Floats]] = {"scaled_mse": squared, "crps": ranked}
    means = {name: {model: loss.mean(axis=1) for model, loss in each.items()} for name, each in losses.items()}
    sampled = [each.model for each in answers if each.n_samples.any()]
    calibration = [
        Calibration(split=truth.split, model=model, shares=tuple(scored[model][1].pit.tolist())) for model in sampled
    ]
    pairs: list[tuple[Loss, str, str]] = [("scaled_mse", model, PERSISTENCE) for model in models]
    pairs += [("crps", model, RANDOM_WALK) for model in sampled]
    for reference in (CURRENT_CHAMPION, POOLED):
        if reference in models:
            pairs += [("scaled_mse", model, reference) for model in ADAPTERS if model in models]
    pairs += [
        ("crps", model, reference)
        for reference in (RANDOM_WALK_HAR, DRIFT, CURRENT_CHAMPION, POOLED)
        for model in (*ADAPTERS, CURRENT_CHAMPION)
        if model in sampled and reference in models
    ]
    tests = [
        _test(truth, means[loss], model=model, against=reference, loss=loss)
        for loss, model, reference in pairs
        if model != reference
    ]
    notes = [*_silence(truth, answers), *_untested(truth.split, tests)]
    if truth.split == "test":
        notes += [_tails(each) for each in calibration]
    figures = {model: values for model, (values, _) in scored.items()}
    if by_ticker:
        notes += _unranked(truth, available=available)
        figures = {each.model: figures[each.model] | _ranking(truth, each, cost=cost) for each in answers}
    return SplitScores(
        summary=_summary(truth, available=available, cut_off=cut_off),
        metrics=_metric_rows(truth, figures, ahead=losses),
        tests=tests,
        calibration=calibration,
        tickers=_by_ticker(truth, means) if by_ticker else [],
        # The windows after a cut-off are test windows, so the notes on test already cover them.
        notes=[] if truth.split == AFTER else notes,
        losses=losses,
    )


def _ranking(truth: Truth, answers: Answers, *, cost: float) -> dict[str, float | None]:
    """Compute a pool's daily cross-sections (`evaluation.evidence.cross_section`) of the moves to the last session."""
    expected, moved = (np.log(prices[:, -1] / truth.origin_price) for prices in (answers.median, truth.target))
    found = cross_section(expected, moved, positions=truth.positions, lag=2 * (truth.horizon - 1), cost=cost)
    return {
        "daily_rank_ic": found.rank_ic if found else None,
        "daily_ic": found.ic if found else None,
        "daily_rank_ic_t": found.t if found else None,
        "icir": found.icir if found else None,
        "decile_spread": found.spread if found else None,
    }


def _unranked(truth: Truth, *, available: int) -> list[str]:
    """Say why a pool with enough tickers has no daily cross-sections, if its windows are a selection."""
    dates, counts = np.unique(truth.positions, return_counts=True)
    too_thin = (counts >= MIN_TICKERS).sum() < 2
    if not too_thin or len(truth.origins) >= available or len(np.unique(truth.tickers)) < MIN_TICKERS:
        return []
    return [
        f"On {truth.split} the daily rank IC and the decile spread are missing: the {len(truth.origins)} of "
        f"{available} windows that were scored are spread over {len(dates)} dates, and fewer than two of them have "
        f"{MIN_TICKERS} tickers. evaluation.max_windows raises the number of windows."
    ]


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
    truth: Truth, scores: Mapping[str, dict[str, float | None]], *, ahead: Mapping[Loss, Mapping[str, Floats]]
) -> list[MetricRow]:
    """Make the rows of all metrics, and those of the losses (n, h) for each session ahead."""
    skills = (("skill", "scaled_mse", PERSISTENCE), ("skill_published", "mse", PERSISTENCE))
    for name, loss, standard in (*skills, ("crps_skill", "crps", RANDOM_WALK)):
        reference = scores[standard][loss] or 0.0
        for values in scores.values():
            values[name] = skill(values[loss] or 0.0, reference)
    rows = [
        MetricRow(split=truth.split, metric=metric, horizon=None, values={m: scores[m][metric] for m in scores})
        for metric in scores[PERSISTENCE]
    ]
    for metric, losses in ahead.items():
        means = {model: loss.mean(axis=0) for model, loss in losses.items()}
        rows += [
            MetricRow(
                split=truth.split,
                metric=metric,
                horizon=step + 1,
                values={model: float(values[step]) for model, values in means.items()},
            )
            for step in range(truth.horizon)
        ]
    return rows


def _test(truth: Truth, losses: Mapping[str, Floats], *, model: str, against: str, loss: Loss) -> Significance:
    test = diebold_mariano(
        by_session(losses[model], positions=truth.positions),
        by_session(losses[against], positions=truth.positions),
        positions=np.unique(truth.positions),
        horizon=truth.horizon,
    )
    return Significance(split=truth.split, model=model, against=against, loss=loss, **asdict(test))


def _by_ticker(truth: Truth, losses: Mapping[Loss, Mapping[str, Floats]]) -> list[TickerScore]:
    rows = []
    for ticker in np.unique(truth.tickers):
        mine = truth.tickers == ticker
        squared, ranked = (
            {model: float(loss[mine].mean()) for model, loss in losses[name].items()} for name in ("scaled_mse", "crps")
        )
        rows.append(
            TickerScore(split=truth.split, ticker=str(ticker), windows=int(mine.sum()), values=squared, crps=ranked)
        )
    return rows


def _untested(split: ScoredSplit, tests: Sequence[Significance]) -> list[str]:
    """Say why some models have no significance test."""
    models: dict[str, list[str]] = {}
    for test in tests:
        if test.split == split and test.against == PERSISTENCE and test.loss == "scaled_mse" and test.note:
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
                "windows; they are scored as the random walk."
            )
    return notes
