"""CPU time of a report with all its pictures, medians of 5: one synthetic ticker, 1,200 sessions, nine forecasters.

The reference is the same pictures drawn twice, once for a light and once for a dark page.

    PYTHONPATH=tests/support python tests/benchmarks/report.py
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from evaluation_frames import forecasts_of, market_windows
from tickerforge.evaluation.comparison.compare import compare
from tickerforge.evaluation.comparison.gate import decide
from tickerforge.evaluation.core.config import EvaluationConfig, GateConfig
from tickerforge.evaluation.report.report import draw_pictures, pictures_of, write_report
from tickerforge.features.config import SyntheticConfig
from tickerforge.features.prices.bars import adjust
from tickerforge.features.synthetic import market

SESSIONS, SEED, REPEATS = 1200, 3, 5
KNOWLEDGE = {"base": -0.1, "pooled": 0.01, "grpo_1st": 0.0, "sft": 0.06, "grpo_2nd": 0.03, "champion": 0.02}


def training_metrics() -> pd.DataFrame:
    """Log rewards and losses of the three training stages, as random walks."""
    rng = np.random.default_rng(0)
    rewards = {"reward": rng.normal(size=60).cumsum(), "valid_rate": rng.uniform(0.9, 1, 60)}
    stages = {"grpo_1st": rewards, "sft": {"loss": rng.random(60)}, "grpo_2nd": rewards}
    frames = [pd.DataFrame({"stage": stage, "step": range(1, 61), **logged}) for stage, logged in stages.items()]
    return pd.concat(frames, ignore_index=True)


def cpu_seconds(work: Callable[[], object]) -> float:
    """Measure the median CPU time of some work in this process."""
    spent = []
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return median(spent)


def main() -> None:
    """Print the CPU seconds of a report, of its pictures, and their ratio to the reference."""
    windows, train = market_windows(sessions=SESSIONS, seed=SEED)
    forecasts = forecasts_of(windows, train, knowledge=KNOWLEDGE)
    bars = adjust(market(SyntheticConfig(process="random_walk", sessions=SESSIONS, seed=SEED)))
    config, metrics = EvaluationConfig(), training_metrics()
    report = compare(windows, forecasts, config=config, opens=bars[["date", "open"]].assign(ticker="DEMO"))
    verdict = decide(report, GateConfig())
    pictures = pictures_of(report, windows, forecasts, training_metrics=metrics, config=config)

    with tempfile.TemporaryDirectory() as folder:

        def write(given: EvaluationConfig) -> None:
            write_report(
                report,
                verdict,
                windows=windows,
                forecasts=forecasts,
                training_metrics=metrics,
                out_dir=Path(folder),
                config=given,
            )

        draw_pictures(pictures)
        whole = cpu_seconds(lambda: write(config))
        plain = cpu_seconds(lambda: write(config.model_copy(update={"pictures": False})))
    once = cpu_seconds(lambda: draw_pictures(pictures))
    twice = cpu_seconds(lambda: (draw_pictures(pictures), draw_pictures(pictures)))
    print(f"report with {len(pictures)} pictures: {whole:.2f} s of CPU; without pictures: {plain:.2f} s")
    print(f"pictures: {once:.2f} s; drawn twice: {twice:.2f} s; report / pictures drawn twice: {whole / twice:.2f}")


if __name__ == "__main__":
    main()
