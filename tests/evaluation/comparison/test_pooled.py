"""The comparison of a pool: every window counts, windows of a date are one observation, each ticker has a row."""

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evaluation_frames import market_windows, noisy_forecasts
from pooled_frames import LIVES, ticker_windows
from tickerforge.evaluation.baselines.simple import baseline_forecasts
from tickerforge.evaluation.comparison.compare import POOL_WINDOWS, compare, select_windows
from tickerforge.evaluation.comparison.gate import decide
from tickerforge.evaluation.core.config import EvaluationConfig, GateConfig
from tickerforge.evaluation.core.contracts import EvalReport
from tickerforge.evaluation.core.panels import answers_of, session_calendar, truth_of
from tickerforge.evaluation.report.forecast_plots import forecast_panels
from tickerforge.evaluation.report.report import write_figures, write_report
from tickerforge.evaluation.report.tables import ticker_rows, ticker_skills
from tickerforge.evaluation.report.wording import pooling
from tickerforge.features.pooling import pool_windows
from tickerforge.features.prices.quality import QualityReport

CONFIG = EvaluationConfig()
Frames = tuple[pd.DataFrame, pd.DataFrame]


def answered(windows: pd.DataFrame, trains: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Baselines and two adapters for all selected windows."""
    selected = select_windows(windows, config=CONFIG)
    frames = [baseline_forecasts(selected, windows=windows, train=pd.concat(trains.values()))]
    for seed, (model, knowledge) in enumerate({"sft": 0.1, "grpo_2nd": 0.0}.items()):
        frames.append(noisy_forecasts(selected, model=model, knowledge=knowledge, seed=seed))
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module")
def frames() -> Frames:
    made = {ticker: ticker_windows(ticker) for ticker in LIVES}
    windows, _ = pool_windows([frame for frame, _ in made.values()])
    return windows, answered(windows, {ticker: train for ticker, (_, train) in made.items()})


@pytest.fixture(scope="module")
def report(frames: Frames) -> EvalReport:
    return compare(*frames, config=CONFIG, pool="ALL")


def test_the_rows_of_the_tickers_add_up_to_that_of_the_pool(report: EvalReport) -> None:
    for split in ("validation", "test"):
        rows = [row for row in report.tickers if row.split == split]
        assert sum(row.windows for row in rows) == report.summary(split).windows
        weights = [row.windows for row in rows]
        for model in report.models:
            mean = np.average([row.values[model] for row in rows], weights=weights)
            assert mean == pytest.approx(report.value(model, split=split, metric="scaled_mse"))
    assert [row.ticker for row in report.tickers if row.split == "test"] == ["EARLY", "LATE", "LONG"]
    assert ticker_rows(report, "test")[-1][0] == "ALL (pool)"
    assert set(report.metrics_frame()["ticker"]) == {"ALL", *LIVES}


def test_mse_and_mae_of_the_published_protocol_are_means_over_the_tickers(frames: Frames, report: EvalReport) -> None:
    windows, forecasts = frames
    for metric in ("mse", "mae"):
        alone = []
        for ticker in LIVES:
            mine = windows[(windows["ticker"] == ticker) & (windows["split"] == "test")]
            both = pd.concat([mine, mine.assign(split="validation")])
            theirs = forecasts[(forecasts["ticker"] == ticker) & (forecasts["split"] == "test")]
            single = compare(both, pd.concat([theirs, theirs.assign(split="validation")]), config=CONFIG)
            alone.append(single.value("sft", split="test", metric=metric))
        assert np.mean(alone) == pytest.approx(report.value("sft", split="test", metric=metric))


def test_a_test_of_a_pool_counts_sessions_and_agrees_with_the_table(report: EvalReport) -> None:
    test = report.test_of("sft", split="test")
    assert test is not None
    assert test.windows < report.summary("test").windows
    errors = [report.value(model, split="test", metric="scaled_mse") or 0.0 for model in ("sft", "persistence")]
    assert test.mean_difference == pytest.approx(errors[0] - errors[1])


def test_a_ticker_and_its_copy_are_no_more_evidence_than_the_ticker_alone() -> None:
    windows, train = market_windows()
    twin = pd.concat([windows, windows.assign(ticker="TWIN")], ignore_index=True)
    alone = answered(windows, {"DEMO": train})
    both = pd.concat([alone, alone.assign(ticker="TWIN")], ignore_index=True)
    single, pooled = compare(windows, alone, config=CONFIG), compare(twin, both, config=CONFIG, pool="ALL")
    assert pooled.summary("test").independent == single.summary("test").independent
    assert pooled.summary("test").windows == 2 * single.summary("test").windows
    for model in ("drift", "sft"):
        one, two = single.test_of(model, split="test"), pooled.test_of(model, split="test")
        assert one is not None
        assert two is not None
        assert two.p_value == pytest.approx(one.p_value)


def test_a_ticker_with_enough_windows_has_an_interval_of_its_skill(report: EvalReport) -> None:
    assert report.chosen is not None
    skills = ticker_skills(report, model=report.chosen, split="test")
    assert list(skills.values()) == sorted(skills.values())
    found = {each.ticker: each for each in report.intervals if each.ticker is not None}
    assert found
    for ticker, each in found.items():
        assert each.low < skills[ticker] < each.high


def test_a_large_pool_is_scored_on_a_limited_number_of_windows_of_all_tickers() -> None:
    windows, _ = market_windows()
    large = pd.concat([windows.assign(ticker=f"T{number}") for number in range(20)], ignore_index=True)
    chosen = select_windows(large, config=CONFIG)
    test = chosen[chosen["split"] == "test"]
    assert len(test) == POOL_WINDOWS
    assert test["ticker"].value_counts().to_list() == [POOL_WINDOWS // 20] * 20
    assert (select_windows(large, config=EvaluationConfig(max_windows=50))["split"] == "test").sum() == 50


def test_a_pool_with_too_few_windows_per_date_says_why_its_daily_rank_ic_is_missing() -> None:
    windows, train = market_windows()
    names = [f"T{number}" for number in range(12)]
    pool, trains = (
        pd.concat([frame.assign(ticker=name) for name in names], ignore_index=True) for frame in (windows, train)
    )
    notes = {}
    for limit in (100, 10_000):
        config = EvaluationConfig(max_windows=limit)
        selected = select_windows(pool, config=config)
        free = baseline_forecasts(selected, windows=pool, train=trains)
        ours = noisy_forecasts(selected, model="sft", knowledge=0.1)
        found = compare(pool, pd.concat([free, ours], ignore_index=True), config=config, pool="ALL")
        notes[limit] = [note for note in found.notes if "daily rank IC" in note]
    assert [note[:7] for note in notes[100]] == ["On vali", "On test"]
    assert "evaluation.max_windows raises the number of windows" in notes[100][1]
    assert notes[10_000] == []


def test_the_report_of_a_pool_shows_the_tickers_and_no_single_price_series(
    frames: Frames, report: EvalReport, tmp_path: Path
) -> None:
    windows, forecasts = frames
    paths = write_report(
        report,
        decide(report, GateConfig()),
        windows=windows,
        forecasts=forecasts,
        training_metrics=None,
        out_dir=tmp_path,
        config=CONFIG,
        quality=[looked_over(ticker, odd=odd) for odd, ticker in enumerate(LIVES)],
    )
    assert [path.stem for path in write_figures(tmp_path)] == [
        "forecasts",
        "skill",
        "horizon",
        "tickers",
        "calibration",
    ]
    for text in (paths.markdown.read_text(), paths.html.read_text()):
        assert all(ticker in text for ticker in LIVES)
        assert "(tickers: 3)" in text
        assert "windows of one date count as one" in text
        assert "What pooling gained" not in text
        assert "Data quality: 1,500 sessions of prices, 3 missing sessions and 3 odd rows" in text
    assert "| LATE | 500 | 2015-01-02 | 2016-12-30 | 1 | 0 | none |" in paths.markdown.read_text()


def looked_over(ticker: str, *, odd: int) -> QualityReport:
    """A ticker that lacks a session and has some odd rows."""
    first, last, gone = date(2015, 1, 2), date(2016, 12, 30), (date(2015, 5, 5),)
    return QualityReport(
        ticker=ticker, rows=500, first=first, last=last, oddities={"standstill": odd}, exchange="XNYS", missing=gone
    )


def test_the_panels_of_a_pool_show_each_window_with_the_prices_of_its_own_ticker(frames: Frames) -> None:
    windows, forecasts = frames
    truth = truth_of(select_windows(windows, config=CONFIG), split="test", calendar=session_calendar(windows))
    answers = answers_of(forecasts, model="sft", truth=truth)
    figure = forecast_panels(windows, truth, answers, free=None, interval=0.8, count=5)
    panels = [axes for axes in figure.axes if axes.lines]
    titles = [axes.get_title(loc="left").split(", ") for axes in panels]
    assert {ticker for ticker, _ in titles} == set(LIVES)
    for axes, (ticker, origin) in zip(panels, titles, strict=True):
        closes = np.asarray(axes.lines[0].get_ydata(), dtype=float)
        own = windows[(windows["ticker"] == ticker) & (windows["origin"] == pd.Timestamp(origin))].iloc[0]
        np.testing.assert_allclose(closes, [*own["history"], *own["target"]])


def test_a_ticker_that_started_from_the_pool_reports_what_that_gained() -> None:
    windows, train = market_windows()
    selected = select_windows(windows, config=CONFIG)
    pooled = noisy_forecasts(selected, model="pooled", knowledge=0.05, seed=5)
    forecasts = pd.concat([answered(windows, {"DEMO": train}), pooled], ignore_index=True)
    report = compare(windows, forecasts, config=CONFIG)
    assert report.chosen == "sft"
    errors = {name: report.value(name, split="test", metric="crps") or 0.0 for name in report.models}
    text = pooling(report)
    for model, reference, whose in (
        ("pooled", "random_walk", "the random walk's"),
        ("sft", "pooled", "the pooled adapter"),
    ):
        gain = 1 - errors[model] / errors[reference]
        assert f"{100 * abs(gain):.1f} % {'below' if gain > 0 else 'above'} {whose}" in text
    test = report.test_of("sft", split="test", against="pooled", loss="crps")
    assert test is not None
    assert f"(p = {test.p_value:.3f})" in text
    assert pooling(compare(windows, answered(windows, {"DEMO": train}), config=CONFIG)) == ""
