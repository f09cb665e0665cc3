"""What makes training learn: one change a row, beside the defaults, on a known market or on real tickers.

    .venv/bin/python tests/benchmarks/ablations.py --market mean-reverting-80 --seeds 3 --row defaults --row reward-mse
    .venv/bin/python tests/benchmarks/ablations.py --data prices/ --seeds 3 --row defaults --row reward-mse

Each row is `tickerforge benchmark markets`, or `tickerforge benchmark stocknet` for a folder of price files, with some
`--set`; `--list` prints them. What the same code has trained before comes from the store of TICKERFORGE_HOME, so that
an interrupted table goes on. Prints a Markdown table: errors over persistence's, mean over seeds and deviation.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from evaluation.standings import Standings
from flows.benchmark import MODELS, MarketRun, spread

GRPO = ("training.grpo_1st", "training.grpo_2nd")


def both(setting: str, value: object) -> list[str]:
    """A setting of both GRPO stages."""
    return [f"{stage}.{setting}={value}" for stage in GRPO]


ROWS: dict[str, list[str]] = {
    "defaults": [],
    "reward-mse": ["training.reward.kind=mse"],
    "reward-huber": ["training.reward.kind=huber"],
    "reward-bounded-skill": ["training.reward.kind=bounded_skill"],
    "reward-published": ["training.reward.kind=published"],
    "credit-answer": ["training.reward.credit=answer"],
    "credit-answer-mse": ["training.reward.kind=mse", "training.reward.credit=answer"],
    "financial-0": ["training.reward.financial_weight=0.0"],
    "scale-none": both("scale_rewards", "none"),
    "scale-group": both("scale_rewards", "group"),
    "loss-dr_grpo": both("loss_type", "dr_grpo"),
    "loss-grpo": both("loss_type", "grpo"),
    "group-4": both("group_size", 4) + both("prompts_per_step", 16),
    "group-16": both("group_size", 16) + both("prompts_per_step", 4),
    "group-32": both("group_size", 32) + both("prompts_per_step", 2),
    "kl-0.01": both("kl", 0.01),
    "kl-0.1": both("kl", 0.1),
    "lr-1st-1e-3": ["training.grpo_1st.learning_rate=1e-3"],
    "lr-1st-6e-3": ["training.grpo_1st.learning_rate=6e-3"],
    "lr-3rd-5e-4": ["training.grpo_2nd.learning_rate=5e-4"],
    "lr-3rd-2e-3": ["training.grpo_2nd.learning_rate=2e-3"],
    "rank-8": ["training.lora_rank=8"],
    "rank-64": ["training.lora_rank=64"],
    "temperature-0.7": both("temperature", 0.7),
    "temperature-1.3": both("temperature", 1.3),
    "prompt-prices": ["features.prompt_style=prices"],
    "rule-published": ["training.rejection.rule=published"],
    "rule-none": ["training.rejection.rule=none"],
    "rule-truth": ["training.rejection.rule=truth"],
    "answers-4": ["training.rejection.answers=4"],
    "skill-0": ["training.rejection.min_skill=0.0"],
    "grpo-alone": ["training.grpo_1st.steps=300"],
    "average-0": [f"training.{stage}.tail_average=0.0" for stage in ("grpo_1st", "sft", "grpo_2nd")],
    "average-0.5": [f"training.{stage}.tail_average=0.5" for stage in ("grpo_1st", "sft", "grpo_2nd")],
}


def measured(*command: str, settings: list[str], output: Path) -> str:
    """What a benchmark writes as JSON."""
    overrides = [part for assignment in settings for part in ("--set", assignment)]
    whole = [sys.executable, "-m", "deployments.cli", "benchmark", *command, *overrides, "--output", str(output)]
    subprocess.run(whole, check=True, stdout=subprocess.DEVNULL)
    return output.read_text()


def on_market(row: str, *, market: str, seeds: int, folder: Path) -> list[str]:
    """Error of each model; of the last: share captured, CRPS, coverage; seconds of training."""
    path = folder / f"{market}-{row}-{seeds}.json"
    text = measured("markets", "--market", market, "--seeds", str(seeds), settings=ROWS[row], output=path)
    runs = [MarketRun.model_validate(run) for run in json.loads(text)]
    last = [run.of(MODELS[-1]) for run in runs]
    shown = [spread([run.of(model).mse for run in runs]) for model in MODELS]
    shown.append(spread([run.captured(MODELS[-1]) for run in runs]))
    shown += [spread([each.crps for each in last]), spread([each.coverage for each in last])]
    return [*shown, f"{np.mean([run.seconds for run in runs]):.0f}"]


def on_prices(row: str, *, data: Path, seeds: int, folder: Path) -> list[str]:
    """Error of each model over persistence's on the same windows, by the published protocol, trained on all tickers."""
    found = []
    for seed in range(seeds):
        path = folder / f"{data.name}-{row}-{seed}.json"
        text = measured("stocknet", "--data", str(data), "--seed", str(seed), settings=ROWS[row], output=path)
        found.append(Standings.model_validate_json(text))
    return [spread([each.of(model).against_persistence for each in found]) for model in MODELS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--market", default="mean-reverting-80")
    parser.add_argument("--data", type=Path, help="folder of price files, in the place of a market")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--row", action="append", choices=list(ROWS), help="repeatable; all without it")
    parser.add_argument("--output", type=Path, default=Path("ablations"), help="folder of the figures")
    parser.add_argument("--list", action="store_true", help="print the rows and what they change")
    chosen = parser.parse_args()
    if chosen.list:
        for row, assignments in ROWS.items():
            print(f"{row:22s} {' '.join(f'--set {each}' for each in assignments)}")
        return
    chosen.output.mkdir(parents=True, exist_ok=True)
    header = ["row", *MODELS] + ([] if chosen.data else ["captured", "CRPS", "band 80 %", "training s"])
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}", flush=True)
    for row in chosen.row or ROWS:
        if chosen.data:
            cells = on_prices(row, data=chosen.data, seeds=chosen.seeds, folder=chosen.output)
        else:
            cells = on_market(row, market=chosen.market, seeds=chosen.seeds, folder=chosen.output)
        print(f"| {row} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
