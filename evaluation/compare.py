"""Scores all models on the same windows, and chooses the adapter on validation alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from evaluation.config import EvaluationConfig
from evaluation.contracts import (
    ADAPTERS,
    BASELINES,
    CHAMPION,
    DECIDING_METRIC,
    DRIFT,
    MODELS,
    PERSISTENCE,
    POOLED,
    SPLITS,
    Calibration,
    EvalReport,
    Floats,
    MetricRow,
    Significance,
    Split,
    SplitSummary,
    Superiority,
    TickerScore,
    in_display_order,
)
from evaluation.errors import EvaluationError, ForecastsError
from evaluation.labels import model_label, percent
from evaluation.metrics import scaled_errors, skill
from evaluation.panels import Answers, Truth, answers_of, session_calendar, truth_of
from evaluation.scores import naive_errors, score
from evaluation.significance import by_session, diebold_mariano, independent_rows
from evaluation.superiority import superiority
from features.pooling import spread

POOL_WINDOWS = 1000


def select_windows(windows: pd.DataFrame, *, config: EvaluationConfig) -> pd.DataFrame:
    """The validation and test windows that are scored: all, or `max_windows` per split evenly spaced in time.

    Of the windows of several tickers `POOL_WINDOWS` per split are scored where `max_windows` does not say otherwise, so
    that a pool costs no more than some tickers do; they are spread evenly over the tickers, too.

    Returns:
        Rows of `windows`, sorted by origin within each split; selecting from the result again changes nothing.
    """
    limit = config.max_windows or (POOL_WINDOWS if windows["ticker"].nunique() > 1 else len(windows))
    chosen = [spread(windows[windows["split"] == split], at_most=limit) for split in SPLITS]
    return pd.concat(chosen, ignore_index=True)


def choose(losses: Mapping[str, float]) -> str | None:
    """The adapter with the smallest validation loss; the earlier stage where two are equal; `None` without any."""
    adapters = [model for model in ADAPTERS if model in losses]
    return min(adapters, key=lambda model: losses[model]) if adapters else None


def compare(
    windows: pd.DataFrame,
    forecasts: pd.DataFrame,
    *,
    config: EvaluationConfig,
    n_candidates: int | None = None,
    pool: str | None = None,
) -> EvalReport:
    """Score every model on the same validation and test windows, and choose an adapter on validation alone.

    Args:
        windows: Windows frame of one ticker, or of the tickers of a pool; the train split may be in it and is not
            scored.
        forecasts: Forecasts frame with persistence, drift and any of the other models; every model must answer every
            selected window of both splits.
        config: Which windows are selected, and the band.
        n_candidates: Variants among which the choice was made, where they are more than the adapters in `forecasts`.
        pool: Name of the pool that the windows are of. Every window then counts once, but MSE and MAE of the published
            protocol, which are means over tickers; the tests are made on the series of `significance.by_session`.

    Raises:
        EvaluationError: More than one ticker and no pool, or a split without windows.
        ForecastsError: A model is unknown, a baseline is missing, or forecasts do not fit the windows.
    """
    ticker = pool or _only_ticker(windows)
    models = _models(forecasts, ticker=ticker)
    selected = select_windows(windows, config=config)
    calendar = session_calendar(windows)
    naive = naive_errors(windows)
    calibration: list[Calibration] = []
    summaries: list[SplitSummary] = []
    rows: list[MetricRow] = []
    tests: list[Significance] = []
    notes: list[str] = []
    by_ticker: list[TickerScore] = []
    chosen, together = None, None
    for split in SPLITS:
        if not (selected["split"] == split).any():
            raise EvaluationError(f"{ticker}: no {split} windows to score; the price history is too short")
        truth = truth_of(selected, split=split, calendar=calendar)
        answers = [answers_of(forecasts, model=model, truth=truth) for model in models]
        losses = {
            each.model: scaled_errors(truth.target, each.median, sigma=truth.sigma).mean(axis=1) for each in answers
        }
        summaries.append(_summary(truth, available=int((windows["split"] == split).sum())))
        scored = {each.model: score(truth, each, interval=config.interval, naive=naive) for each in answers}
        rows += _metric_rows(truth, answers, scores={model: figures for model, (figures, _) in scored.items()})
        calibration += [
            Calibration(split=split, model=each.model, shares=tuple(scored[each.model][1].pit.tolist()))
            for each in answers
            if each.n_samples.any()
        ]
        tests += [_test(truth, losses, model=model, against=PERSISTENCE) for model in models if model != PERSISTENCE]
        if CHAMPION in models:
            tests += [_test(truth, losses, model=model, against=CHAMPION) for model in ADAPTERS if model in models]
        if POOLED in models:
            tests += [_test(truth, losses, model=model, against=POOLED) for model in ADAPTERS if model in models]
        if pool is not None:
            by_ticker += _by_ticker(truth, losses)
        notes += [*_silence(truth, answers), *_untested(split, tests)]
        notes += [_tails(each) for each in calibration if each.split == split == "test"]
        if split == "test":
            together = _together(truth, losses)
        else:
            chosen = choose({model: float(loss.mean()) for model, loss in losses.items()})
    return EvalReport(
        ticker=ticker,
        horizon=truth.horizon,
        interval=config.interval,
        models=models,
        chosen=chosen,
        n_candidates=n_candidates or sum(model in ADAPTERS for model in models),
        splits=tuple(summaries),
        metrics=tuple(rows),
        significance=tuple(tests),
        notes=tuple(notes),
        tickers=tuple(by_ticker),
        calibration=tuple(calibration),
        superiority=together,
    )


def _only_ticker(windows: pd.DataFrame) -> str:
    tickers = list(windows["ticker"].unique())
    if len(tickers) != 1:
        raise EvaluationError(f"a comparison takes the windows of one ticker, not of {len(tickers)}: {tickers[:5]}")
    return str(tickers[0])


def _models(forecasts: pd.DataFrame, *, ticker: str) -> tuple[str, ...]:
    found = set(forecasts["model"])
    if unknown := found - set(MODELS):
        raise ForecastsError(f"{ticker}: unknown models {sorted(unknown)}; known are {', '.join(MODELS)}")
    if missing := {PERSISTENCE, DRIFT} - found:
        raise ForecastsError(f"{ticker}: every comparison holds persistence and drift; {sorted(missing)} is missing")
    return in_display_order(found)


def _summary(truth: Truth, *, available: int) -> SplitSummary:
    return SplitSummary(
        split=truth.split,
        windows=len(truth.origins),
        available=available,
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


def _together(truth: Truth, losses: Mapping[str, Floats]) -> Superiority:
    """All forecasters at once against persistence."""
    return superiority(
        {model: by_session(loss, positions=truth.positions) for model, loss in losses.items()},
        reference=PERSISTENCE,
        candidates=tuple(model for model in losses if model not in (*BASELINES, CHAMPION)),
        positions=np.unique(truth.positions),
        horizon=truth.horizon,
    )


def _by_ticker(truth: Truth, losses: Mapping[str, Floats]) -> list[TickerScore]:
    rows = []
    for ticker in np.unique(truth.tickers):
        mine = truth.tickers == ticker
        values = {model: float(loss[mine].mean()) for model, loss in losses.items()}
        rows.append(TickerScore(split=truth.split, ticker=str(ticker), windows=int(mine.sum()), values=values))
    return rows


def _untested(split: Split, tests: Sequence[Significance]) -> list[str]:
    """Why some models have no significance test."""
    models: dict[str, list[str]] = {}
    for test in tests:
        if test.split == split and test.against == PERSISTENCE and test.note:
            models.setdefault(test.note, []).append(model_label(test.model))
    return [f"On {split} p is set to 1 for {', '.join(names)}: {note}." for note, names in models.items()]


def _tails(found: Calibration) -> str:
    """What the ends of the probability integral transform say of the bands."""
    lowest, highest = found.shares[0], found.shares[-1]
    return (
        f"Of the {found.split} prices {percent(lowest)} fell into the lowest tenth of {model_label(found.model)}'s "
        f"distribution and {percent(highest)} into the highest; 10.0 % each is calibrated, more is too narrow."
    )


def _silence(truth: Truth, answers: Sequence[Answers]) -> list[str]:
    """What a reader should know about windows that a model left unanswered."""
    notes = []
    for each in answers:
        silent = int(np.sum((each.n_samples > 0) & (each.n_valid == 0)))
        if silent:
            notes.append(
                f"{model_label(each.model)} gave no valid answer in {silent} of {len(truth.origins)} {truth.split} "
                "windows; they are scored as persistence."
            )
    return notes
