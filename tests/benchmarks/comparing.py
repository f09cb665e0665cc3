"""CPU time of a comparison with backtest: 88 tickers, 240 test origins, 6 forecasters of 32 samples, 5 free ones.

python tests/benchmarks/comparing.py
python tests/benchmarks/comparing.py --tickers 20
"""

import argparse
import time

import numpy as np
import pandas as pd

from tickerforge.evaluation.baselines.simple import baseline_forecasts
from tickerforge.evaluation.comparison.compare import compare
from tickerforge.evaluation.core.config import EvaluationConfig

HORIZON, CONTEXT = 10, 10
SAMPLED = ("base", "pooled", "grpo_1st", "sft", "grpo_2nd", "champion")


def windows_of(tickers: int, *, origins: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Build windows of random walks and opens; `origins` per ticker in test, and a tenth of that in other splits."""
    rng = np.random.default_rng(0)
    frames, opens = [], []
    sizes = {"train": origins // 10, "validation": origins // 10, "test": origins}
    total = sum(sizes.values()) + (len(sizes) + 1) * HORIZON
    days = pd.bdate_range("2012-01-02", periods=total + CONTEXT + HORIZON).as_unit("s").to_numpy()
    for ticker in range(tickers):
        prices = 50 * np.exp(np.cumsum(0.015 * rng.standard_normal(len(days))))
        opens.append(pd.DataFrame({"ticker": f"T{ticker:02d}", "date": days, "open": prices}))
        first = CONTEXT
        for split, count in sizes.items():
            rows = first + np.arange(count)
            ahead = rows[:, None] + np.arange(1, HORIZON + 1)
            frames.append(
                pd.DataFrame(
                    {
                        "ticker": f"T{ticker:02d}",
                        "origin": days[rows],
                        "split": split,
                        "history": list(prices[rows[:, None] - np.arange(CONTEXT)[::-1]]),
                        "target": list(prices[ahead]),
                        "target_dates": list(days[ahead]),
                        "sigma": 0.015,
                        "train_mean": prices.mean(),
                        "train_std": prices.std(),
                    }
                )
            )
            first += count + HORIZON
    return pd.concat(frames, ignore_index=True), pd.concat(opens, ignore_index=True)


def forecasts_of(windows: pd.DataFrame, *, samples: int) -> pd.DataFrame:
    """Build forecasts of every model as they are stored: medians and samples as nested lists of prices."""
    rng = np.random.default_rng(1)
    scored = windows[windows["split"] != "train"]
    origin = np.stack(scored["history"].to_list())[:, -1]
    frames = []
    for name in SAMPLED:
        steps = 0.015 * rng.standard_normal((len(scored), samples, HORIZON)).cumsum(axis=2)
        prices = origin[:, None, None] * np.exp(steps)
        drawn = [list(each) for each in prices]
        frame = scored[["ticker", "origin", "split"]].assign(model=name, n_samples=samples, n_valid=samples)
        frame["median"] = pd.Series(list(np.median(prices, axis=1)), index=scored.index, dtype=object)
        frame["samples"] = pd.Series(drawn, index=scored.index, dtype=object)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def main() -> None:
    """Print the CPU seconds of one comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tickers", type=int, default=88)
    parser.add_argument("--origins", type=int, default=240)
    parser.add_argument("--samples", type=int, default=32)
    options = parser.parse_args()
    windows, opens = windows_of(options.tickers, origins=options.origins)
    sampled = forecasts_of(windows, samples=options.samples)
    began = time.process_time()
    asked = windows[windows["split"] != "train"]
    free = baseline_forecasts(asked, windows=windows, train=opens.rename(columns={"open": "adj_close"}))
    forecasts = pd.concat([free, sampled], ignore_index=True)
    report = compare(windows, forecasts, config=EvaluationConfig(max_windows=len(windows)), pool="ALL", opens=opens)
    spent = time.process_time() - began
    counted = report.summary("test").windows
    print(f"{counted} test windows, {len(SAMPLED)} forecasters of {options.samples} samples: {spent:.1f} s of CPU")


if __name__ == "__main__":
    main()
