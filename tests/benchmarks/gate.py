"""False promotions and power of the gate, by simulation, on CRPS and on squared errors.

Each market is a random walk with GARCH volatility, heavy tails and an honest daily range. Three adapters are compared;
validation chooses one. In the worst cases without an advantage they are the best free forecast itself with a little
noise in median and spread, or the plain random walk with that noise. With an advantage they know a share of each coming
move, or the true volatility. As in a run, each adapter is recalibrated on validation first.

python tests/benchmarks/gate.py
python tests/benchmarks/gate.py --markets 40 --sessions 1500
"""

import argparse
from collections.abc import Mapping

import numpy as np
import pandas as pd

from tickerforge.evaluation.baselines.simple import baseline_forecasts
from tickerforge.evaluation.comparison.compare import choose, select_windows
from tickerforge.evaluation.comparison.gate import decide
from tickerforge.evaluation.comparison.recalibrate import fit_recalibration, recalibrated_frame
from tickerforge.evaluation.comparison.splits import score_split
from tickerforge.evaluation.core.config import EvaluationConfig, GateConfig
from tickerforge.evaluation.core.contracts import FREE, SCORED_SPLITS, EvalReport, in_display_order
from tickerforge.evaluation.core.panels import answers_of, session_calendar, truth_of
from tickerforge.evaluation.metrics.scores import scales_of
from tickerforge.features.config import FeatureConfig
from tickerforge.features.splits import split_borders
from tickerforge.features.stages import ADAPTERS
from tickerforge.features.windows import build_windows

FEATURES, CONFIG = FeatureConfig(), EvaluationConfig(pictures=False)
INSIDE = 78
"""Moves inside a session, from which high and low are taken."""
CASES: Mapping[str, tuple[str, float, float]] = {
    "random walk with noise": ("random_walk", 0.0, 0.1),
    "random walk without noise": ("random_walk", 0.0, 0.0),
    "best free with noise": ("random_walk_har", 0.0, 0.1),
    "best free with little noise": ("random_walk_har", 0.0, 0.02),
    "knows 5 % of each move": ("random_walk_har", 0.05, 0.1),
    "knows 10 % of each move": ("random_walk_har", 0.1, 0.1),
    "knows 20 % of each move": ("random_walk_har", 0.2, 0.1),
    "knows the volatility": ("true", 0.0, 0.02),
}
"""Name, forecaster that the adapters start from, share of the moves that they know, and noise in σ."""


def garch_bars(sessions: int, *, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Simulate bars of a GARCH(1, 1) random walk with Student-t shocks (6 degrees), and each session's volatility."""
    rng = np.random.default_rng(seed)
    variance, shocks = np.empty(sessions), rng.standard_t(6, sessions) / np.sqrt(1.5)
    variance[0] = 1.0
    for day in range(1, sessions):
        variance[day] = 0.04 + (0.08 * shocks[day - 1] ** 2 + 0.88) * variance[day - 1]
    volatility = 0.015 * np.sqrt(variance)
    bridge = rng.standard_normal((sessions, INSIDE)).cumsum(axis=1) / np.sqrt(INSIDE)
    share = np.arange(1, INSIDE + 1) / INSIDE
    moves = volatility[:, None] * (bridge + share * (shocks - bridge[:, -1])[:, None])
    closes = np.cumsum(moves[:, -1])
    before = np.concatenate([[0.0], closes[:-1]])
    high, low = before + np.maximum(moves.max(axis=1), 0), before + np.minimum(moves.min(axis=1), 0)
    prices = {"open": before, "high": high, "low": low, "close": closes, "adj_close": closes}
    frame = pd.DataFrame({name: 100 * np.exp(value) for name, value in prices.items()})
    days = pd.bdate_range("2015-01-02", periods=sessions).as_unit("s")
    return frame.assign(date=days, volume=1e6), volatility


def forecasts_of(
    windows: pd.DataFrame, free: pd.DataFrame, volatility: pd.Series, *, case: tuple[str, float, float], seed: int
) -> pd.DataFrame:
    """Build the forecasts of three adapters; noise is persistent from window to window, as that of a model is."""
    start, knowledge, noise = case
    base = free[free["model"] == ("random_walk" if start == "true" else start)]
    origin = np.stack(windows["history"].to_list())[:, -1]
    moved = np.log(np.stack(windows["target"].to_list()) / origin[:, None])
    paths = np.log(np.stack(base["samples"].to_list()) / origin[:, None, None])
    sigma = windows["sigma"].to_numpy(float)
    if start == "true":
        paths = paths * (volatility.loc[windows["origin"]].to_numpy(float) / sigma)[:, None, None]
    frames = []
    for place, model in enumerate(ADAPTERS):
        rng = np.random.default_rng((seed, place))
        drawn = rng.standard_normal((2, len(windows)))
        wave = np.stack([pd.Series(each).ewm(halflife=10).mean().to_numpy() for each in drawn])
        wave /= wave.std(axis=1, keepdims=True)
        steps = sigma[:, None] * np.sqrt(np.arange(1, paths.shape[2] + 1))
        shift = knowledge * moved + noise * wave[0][:, None] * steps
        own = paths * (np.sqrt(1 - knowledge) * np.exp(noise * wave[1]))[:, None, None] + shift[:, None]
        prices = origin[:, None, None] * np.exp(own)
        count = prices.shape[1]
        frame = base[["ticker", "origin", "split"]].assign(model=model, n_samples=count, n_valid=count)
        frame["median"] = pd.Series(list(np.median(prices, axis=1)), index=base.index, dtype=object)
        frame["samples"] = pd.Series(list(prices), index=base.index, dtype=object)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def report_of(windows: pd.DataFrame, forecasts: pd.DataFrame) -> EvalReport:
    """Build the parts of a comparison that the gate reads, without the bootstraps, which take most of its time."""
    calendar, scales = session_calendar(windows), scales_of(windows)
    models = in_display_order(forecasts["model"].unique())
    parts = []
    for split in SCORED_SPLITS:
        truth = truth_of(windows, split=split, calendar=calendar)
        answers = [answers_of(forecasts, model=model, truth=truth) for model in models]
        available = len(truth.origins)
        parts.append(score_split(truth, answers, available=available, interval=0.8, scales=scales, by_ticker=False))
    means = {model: float(loss.mean()) for model, loss in parts[0].losses["crps"].items()}
    return EvalReport(
        ticker="GARCH",
        horizon=FEATURES.horizon,
        interval=0.8,
        models=models,
        chosen=choose(means, among=ADAPTERS),
        free=choose(means, among=FREE),
        n_candidates=len(ADAPTERS),
        splits=tuple(part.summary for part in parts),
        metrics=tuple(row for part in parts for row in part.metrics),
        significance=tuple(test for part in parts for test in part.tests),
        notes=(),
    )


def on_squared_errors(report: EvalReport) -> bool:
    """Judge as a gate on squared errors does: below persistence and drift on both splits, p at most 5 % on test."""
    model = min(ADAPTERS, key=lambda name: report.value(name, split="validation", metric="scaled_mse") or 0.0)
    test = report.test_of(model, split="test")
    return (test.p_value if test else 1.0) <= GateConfig().max_p_value and all(
        (report.value(model, split=split, metric="scaled_mse") or 0.0)
        < (report.value(free, split=split, metric="scaled_mse") or 0.0)
        for split in ("validation", "test")
        for free in ("persistence", "drift")
    )


def promoted(case: tuple[str, float, float], *, sessions: int, seed: int) -> tuple[bool, bool, bool]:
    """Return whether the gate, a gate that tests against the random walk alone, and one on squared errors promote."""
    bars, volatility = garch_bars(sessions, seed=seed)
    windows = build_windows(bars, ticker="GARCH", config=FEATURES)
    asked = select_windows(windows, config=CONFIG)
    train = bars.iloc[: split_borders(sessions, FEATURES).train_end]
    free = baseline_forecasts(asked, windows=windows, train=train)
    ahead = pd.Series(volatility, index=bars["date"]).shift(-1)
    sampled = forecasts_of(asked, free, ahead, case=case, seed=seed)
    frames, calendar, trained = [free], session_calendar(windows), windows[windows["split"] == "train"]
    for model, frame in sampled.groupby("model"):
        found = fit_recalibration(asked, frame, train=trained, model=str(model), calendar=calendar)
        frames.append(recalibrated_frame(asked, frame, recalibration=found))
    report = report_of(windows, pd.concat(frames, ignore_index=True))
    verdict = decide(report, GateConfig())
    test = report.test_of(verdict.model or "", split="test", against="random_walk", loss="crps")
    others = all(reason.name == "significance_test" for reason in verdict.failures)
    return verdict.promoted, others and (test.p_value if test else 1.0) <= 0.05, on_squared_errors(report)


def main() -> None:
    """Print the share of the markets on which each rule promotes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markets", type=int, default=200)
    parser.add_argument("--sessions", type=int, default=1500)
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    options = parser.parse_args()
    print(
        f"{options.markets} markets of {options.sessions} sessions: the gate, against the random walk, squared errors"
    )
    for name in options.cases:
        found = [promoted(CASES[name], sessions=options.sessions, seed=seed) for seed in range(options.markets)]
        print(f"{name:28s}", "  ".join(f"{rate:.3f}" for rate in np.mean(found, axis=0)), flush=True)


if __name__ == "__main__":
    main()
