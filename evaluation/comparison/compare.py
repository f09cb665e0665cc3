"""The comparison: all models scored on the same windows, and the adapter chosen on validation alone."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from tickerforge.evaluation.backtest.simulation import backtest
from tickerforge.evaluation.baselines.simple import baseline_forecasts
from tickerforge.evaluation.comparison.splits import SplitScores, score_split
from tickerforge.evaluation.core.config import EvaluationConfig
from tickerforge.evaluation.core.contracts import (
    AFTER,
    BASELINES,
    CURRENT_CHAMPION,
    DECIDING_METRIC,
    FREE,
    MODELS,
    PERSISTENCE,
    RANDOM_WALK,
    SCORED_SPLITS,
    EvalReport,
    Floats,
    SkillInterval,
    Superiority,
    in_display_order,
)
from tickerforge.evaluation.core.errors import EvaluationError, ForecastsError
from tickerforge.evaluation.core.panels import (
    Answers,
    Truth,
    answers_of,
    judged_part,
    session_calendar,
    session_dates,
    truth_of,
)
from tickerforge.evaluation.evidence.intervals import detailed_intervals
from tickerforge.evaluation.evidence.significance import by_session
from tickerforge.evaluation.evidence.superiority import superiority
from tickerforge.evaluation.metrics.calibration import distribution
from tickerforge.evaluation.metrics.scores import scales_of
from tickerforge.features.pooling import spread
from tickerforge.features.stages import ADAPTERS

POOL_WINDOWS = 1000


def select_windows(windows: pd.DataFrame, *, config: EvaluationConfig) -> pd.DataFrame:
    """Select the validation and test windows to score: all, or `max_windows` per split evenly spaced in time.

    For several tickers the default is `POOL_WINDOWS` per split, spread evenly over the tickers, so that a pool costs no
    more than a few tickers.

    Returns:
        Rows of `windows`, sorted by origin within each split. Selecting from the result again changes nothing.
    """
    limit = config.max_windows or (POOL_WINDOWS if windows["ticker"].nunique() > 1 else len(windows))
    chosen = [spread(windows[windows["split"] == split], at_most=limit) for split in SCORED_SPLITS]
    return pd.concat(chosen, ignore_index=True)


def choose(losses: Mapping[str, float], *, among: Sequence[str]) -> str | None:
    """Return the model with the smallest validation loss; in a tie the first of `among`; `None` without any."""
    known = [model for model in among if model in losses]
    return min(known, key=lambda model: losses[model]) if known else None


def best_free(windows: pd.DataFrame, *, train: pd.DataFrame) -> dict[str, float]:
    """Return the mean CRPS (daily σ) of the free forecasters on the validation windows, the lowest first.

    Args:
        windows: Windows frame with the train and validation splits.
        train: As for `evaluation.baselines.simple.baseline_forecasts`.
    """
    asked = windows[windows["split"] == "validation"]
    forecasts = baseline_forecasts(asked, windows=windows, train=train)
    truth = truth_of(asked, split="validation", calendar=session_calendar(asked))
    answers = [answers_of(forecasts, model=model, truth=truth) for model in FREE]
    losses = {each.model: float(distribution(truth, each, interval=0.8).crps.mean()) for each in answers}
    return dict(sorted(losses.items(), key=lambda item: item[1]))


def compare(
    windows: pd.DataFrame,
    forecasts: pd.DataFrame,
    *,
    config: EvaluationConfig,
    n_candidates: int | None = None,
    pool: str | None = None,
    opens: pd.DataFrame | None = None,
) -> EvalReport:
    """Score every model on the same validation and test windows, and choose an adapter on validation alone.

    If `config.test_after` lies within the test split, the windows after it are also scored as a split of their own. The
    test of all forecasters together and the backtest then use only that split.

    Args:
        windows: Windows frame of one ticker, or of the tickers of a pool; it may contain the train split, which is not
            scored.
        forecasts: Forecasts frame with persistence, drift and any of the other models; every model must have forecast
            every selected window of both splits.
        config: The selection of windows, the band, the backtest.
        n_candidates: Number of variants in the choice, if more than the adapters in `forecasts`.
        pool: Name of the pool of the windows. Every window then counts once, except in MSE and MAE of the published
            protocol, which are means over tickers. The tests use the series of `significance.by_session`.
        opens: Columns `ticker date open`, adjusted opens in USD, for a backtest on the test split; `None`: no backtest.

    Raises:
        EvaluationError: More than one ticker and no pool, a split without windows, or a session without an open.
        ForecastsError: A model is unknown, a baseline is missing, or forecasts do not match the windows.
    """
    ticker = pool or _only_ticker(windows)
    models = _models(forecasts, ticker=ticker)
    selected = select_windows(windows, config=config)
    calendar = session_calendar(windows)
    scales = scales_of(windows)
    cut_off = config.test_after

    def scored(truth: Truth, answers: Sequence[Answers], available: int) -> SplitScores:
        return score_split(
            truth,
            answers,
            available=available,
            interval=config.interval,
            scales=scales,
            by_ticker=pool is not None,
            cut_off=cut_off,
            cost=config.backtest.cost_bps / 1e4,
        )

    parts: list[SplitScores] = []
    chosen = free = None
    for split in SCORED_SPLITS:
        if not (selected["split"] == split).any():
            raise EvaluationError(f"{ticker}: no {split} windows to score; the price history is too short")
        truth = truth_of(selected, split=split, calendar=calendar)
        answers = [answers_of(forecasts, model=model, truth=truth) for model in models]
        parts.append(scored(truth, answers, int((windows["split"] == split).sum())))
        if split == "validation":
            means = {model: float(loss.mean()) for model, loss in parts[0].losses[DECIDING_METRIC].items()}
            chosen, free = choose(means, among=ADAPTERS), choose(means, among=FREE)
    truth, answers = judged_part(truth, answers, cut_off=cut_off)
    if truth.split == AFTER:
        kept = (windows["split"] == "test") & (session_dates(windows["origin"]) >= np.datetime64(cut_off))
        parts.append(scored(truth, answers, int(kept.sum())))
    tried = tuple(model for model in models if model not in (*BASELINES, CURRENT_CHAMPION))
    # An account of a single date says nothing, and may not have a session in which to earn.
    tradable = opens is not None and len(np.unique(truth.origins)) > 1
    return EvalReport(
        ticker=ticker,
        horizon=truth.horizon,
        interval=config.interval,
        models=models,
        chosen=chosen,
        n_candidates=n_candidates or sum(model in ADAPTERS for model in models),
        splits=tuple(part.summary for part in parts),
        metrics=tuple(row for part in parts for row in part.metrics),
        significance=tuple(test for part in parts for test in part.tests),
        notes=tuple(note for part in parts for note in part.notes),
        tickers=tuple(row for part in parts for row in part.tickers),
        calibration=tuple(each for part in parts for each in part.calibration),
        whole_superiority=_together(truth, parts[-1].losses[DECIDING_METRIC], candidates=tried),
        free=free,
        intervals=_intervals(truth, parts[-1].losses[DECIDING_METRIC], model=chosen, by_ticker=pool is not None),
        test_after=cut_off,
        backtest=backtest(
            truth, answers, opens=opens, config=config.backtest, tried=tried, variants=config.variants_tried
        )
        if tradable and opens is not None
        else None,
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
    if missing := {PERSISTENCE, *FREE} - found:
        raise ForecastsError(
            f"{ticker}: every comparison needs the free forecasters; {', '.join(sorted(missing))} is missing"
        )
    return in_display_order(found)


def _intervals(
    truth: Truth, losses: Mapping[str, Floats], *, model: str | None, by_ticker: bool
) -> tuple[SkillInterval, ...]:
    """Compute the intervals of the chosen adapter's skill against the random walk."""
    if model is None:
        return ()
    found = detailed_intervals(truth, losses[model], losses[RANDOM_WALK], by_ticker=by_ticker)
    return tuple(SkillInterval(model=model, loss=DECIDING_METRIC, **each) for each in found)


def _together(truth: Truth, losses: Mapping[str, Floats], *, candidates: tuple[str, ...]) -> Superiority:
    """Test all forecasters together against the random walk."""
    return superiority(
        {model: by_session(loss.mean(axis=1), positions=truth.positions) for model, loss in losses.items()},
        reference=RANDOM_WALK,
        candidates=candidates,
        positions=np.unique(truth.positions),
        horizon=truth.horizon,
    )
