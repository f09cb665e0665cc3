"""What makes training learn: one changed setting per row, compared with the defaults, on a known market or real prices.

    .venv/bin/python tests/benchmarks/ablations.py --stage grpo_1st --row defaults --row reward-mse
    .venv/bin/python tests/benchmarks/ablations.py --stage sft --data prices/ --row defaults --row rule-truth

Each row runs `tickerforge benchmark markets`, or `tickerforge benchmark stocknet` for a folder of price files, with
some `--set`, until the stage that the row changes; `--list` prints the rows. Models that the same code trained before
come from the store in TICKERFORGE_HOME, so an interrupted table continues. Prints a Markdown table: errors divided by
persistence's (mean over seeds and standard deviation), and the number of seeds in which a row's last stage was better
than that of the defaults.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tickerforge.evaluation.bench.standings import Standings
from tickerforge.evaluation.core.contracts import BASE, FREE
from tickerforge.features.stages import ADAPTERS, AdapterStage
from tickerforge.flows.bench.market_config import SETTINGS, TINY_SETTINGS
from tickerforge.flows.bench.markets import MarketRun, mean_and_spread
from tickerforge.flows.settings.config import PipelineConfig


def default_of(name: str) -> object:
    """Return the default of `tickerforge run` for a setting, given by its path."""
    found: object = PipelineConfig()
    for part in name.split("."):
        found = getattr(found, part)
    return "null" if found is None else found


PIPELINE = [f"{name}={default_of(name)}" for name in SETTINGS | TINY_SETTINGS]
"""The defaults of `tickerforge run`, which replace those of the benchmark."""
FOR_THE_GATE = ["evaluation.max_windows=20"]
"""Few windows for the gate: on a market it does not count, because models are scored on fresh windows."""
OF_EACH_SPLIT = ["evaluation.max_windows=400"]
"""Test windows of real prices that are scored."""


def first(setting: str, value: object) -> list[str]:
    """Return the assignment of a setting of the first stage."""
    return [f"training.grpo_1st.{setting}={value}"]


def third(setting: str, value: object) -> list[str]:
    """Return the assignment of a setting of the third stage."""
    return [f"training.grpo_2nd.{setting}={value}"]


ROWS: dict[AdapterStage, dict[str, list[str]]] = {
    "grpo_1st": {
        "defaults": [],
        "reward-mse": ["training.reward.kind=mse"],
        "reward-huber": ["training.reward.kind=huber"],
        "reward-bounded-skill": ["training.reward.kind=bounded_skill"],
        "reward-published": ["training.reward.kind=published"],
        "credit-answer": ["training.reward.credit=answer"],
        "credit-answer-mse": ["training.reward.kind=mse", "training.reward.credit=answer"],
        "financial-0": ["training.reward.financial_weight=0.0"],
        "scale-none": first("scale_rewards", "none"),
        "scale-group": first("scale_rewards", "group"),
        "loss-dr_grpo": first("loss_type", "dr_grpo"),
        "loss-grpo": first("loss_type", "grpo"),
        "group-4": first("group_size", 4) + first("prompts_per_step", 16),
        "group-16": first("group_size", 16) + first("prompts_per_step", 4),
        "group-32": first("group_size", 32) + first("prompts_per_step", 2),
        "kl-0.1": first("kl", 0.1),
        "lr-1e-3": first("learning_rate", 1e-3),
        "lr-6e-3": first("learning_rate", 6e-3),
        "rank-8": ["training.lora_rank=8"],
        "rank-64": ["training.lora_rank=64"],
        "temperature-0.7": first("temperature", 0.7),
        "temperature-1.3": first("temperature", 1.3),
        "prompt-prices": ["features.prompt_style=prices"],
        "average-0": first("tail_average", 0.0),
        "average-0.5": first("tail_average", 0.5),
        "steps-300": first("steps", 300),
    },
    "sft": {
        "defaults": [],
        "rule-published": ["training.rejection.rule=published"],
        "rule-none": ["training.rejection.rule=none"],
        "rule-truth": ["training.rejection.rule=truth"],
        "answers-4": ["training.rejection.answers=4"],
        "skill-0": ["training.rejection.min_skill=0.0"],
        "lr-1e-3": ["training.sft.learning_rate=1e-3"],
    },
    "grpo_2nd": {
        "defaults": [],
        "lr-2e-4": third("learning_rate", 2e-4),
        "lr-2e-3": third("learning_rate", 2e-3),
        "kl-0.1-lr-2e-3": third("learning_rate", 2e-3) + third("kl", 0.1),
    },
}
"""Rows by the stage that they change, which is also the last stage of their run."""


def measured(*command: str, settings: list[str], output: Path) -> str:
    """Run a benchmark and return the JSON that it writes."""
    overrides = [part for assignment in settings for part in ("--set", assignment)]
    whole = [
        sys.executable,
        "-m",
        "tickerforge.deployments.cli",
        "benchmark",
        *command,
        *overrides,
        "--output",
        str(output),
    ]
    subprocess.run(whole, check=True, stdout=subprocess.DEVNULL)
    return output.read_text()


def on_market(row: str, *, stage: AdapterStage, market: str, seeds: int, folder: Path) -> list[MarketRun]:
    """Return the run of each seed on a market."""
    path = folder / f"{market}-{stage}-{row}-{seeds}.json"
    command = ("markets", "--market", market, "--seeds", str(seeds), "--until", stage)
    text = measured(*command, settings=PIPELINE + FOR_THE_GATE + ROWS[stage][row], output=path)
    return [MarketRun.model_validate(run) for run in json.loads(text)]


def market_cells(runs: Sequence[MarketRun], *, beside: Sequence[MarketRun]) -> list[str]:
    """Return the cells of a row: error of each model; share captured, CRPS, coverage, wins of the last; seconds."""
    last = [run.attained[-1] for run in runs]
    models = [each.model for each in runs[0].attained if each.model not in FREE]
    errors = [mean_and_spread([run.of(model).mse for run in runs]) for model in models]
    captured = mean_and_spread([run.captured(models[-1]) for run in runs])
    bands = [mean_and_spread([each.crps for each in last]), mean_and_spread([each.coverage for each in last])]
    won = wins(*({run.seed: run.attained[-1].mse for run in some} for some in (runs, beside)))
    return [*errors, captured, *bands, won, f"{np.mean([run.seconds for run in runs]):.0f}"]


def on_prices(row: str, *, stage: AdapterStage, data: Path, seeds: int, folder: Path) -> list[Standings]:
    """Return the standings by the published protocol of each seed's adapters, trained on all tickers."""
    found = []
    for seed in range(seeds):
        path = folder / f"{data.name}-{stage}-{row}-{seed}.json"
        command = ("stocknet", "--data", str(data), "--seed", str(seed), "--until", stage)
        text = measured(*command, settings=PIPELINE + OF_EACH_SPLIT + ROWS[stage][row], output=path)
        found.append(Standings.model_validate_json(text))
    return found


def price_cells(found: Sequence[Standings], *, stage: AdapterStage, beside: Sequence[Standings]) -> list[str]:
    """Return the cells of a row: error of each model divided by persistence's on the same windows, and wins."""
    errors = [[each.of(model).against_persistence for each in found] for model in models_until(stage)]
    won = wins(*(dict(enumerate(each.of(stage).against_persistence for each in some)) for some in (found, beside)))
    return [*(mean_and_spread(each) for each in errors), won]


def models_until(stage: AdapterStage) -> list[str]:
    """Return the models that a table shows."""
    return [BASE, *ADAPTERS[: ADAPTERS.index(stage) + 1]]


def wins(errors: Mapping[int, float], others: Mapping[int, float]) -> str:
    """Count, among the seeds that both have, those with a lower error than the defaults."""
    both = errors.keys() & others.keys()
    return f"{sum(errors[seed] < others[seed] for seed in both)} of {len(both)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", default="grpo_1st", choices=ADAPTERS, help="the stage that the rows change")
    parser.add_argument("--market", default="mean-reverting-80")
    parser.add_argument("--data", type=Path, help="folder of price files, instead of a market")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--row", action="append", help="repeatable; the defaults are always first; default: all rows")
    parser.add_argument("--output", type=Path, default=Path("ablations"), help="folder for the figures")
    parser.add_argument("--list", action="store_true", help="print the rows and what they change")
    chosen = parser.parse_args()
    rows = ROWS[chosen.stage]
    if unknown := [row for row in chosen.row or () if row not in rows]:
        parser.error(f"--row {unknown[0]}: {chosen.stage} has {', '.join(rows)}")
    if chosen.list:
        for row, assignments in rows.items():
            print(f"{row:22s} {' '.join(f'--set {each}' for each in assignments)}")
        return
    chosen.output.mkdir(parents=True, exist_ok=True)
    header = ["row", *models_until(chosen.stage)]
    header += ["better in"] if chosen.data else ["captured", "CRPS", "band 80 %", "better in", "training s"]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}", flush=True)
    options = {"stage": chosen.stage, "seeds": chosen.seeds, "folder": chosen.output}
    asked = dict.fromkeys(["defaults", *(chosen.row or rows)])
    measure: Callable[..., Any] = partial(on_market, market=chosen.market)
    cells: Callable[..., list[str]] = market_cells
    if chosen.data:
        measure, cells = partial(on_prices, data=chosen.data), partial(price_cells, stage=chosen.stage)
    defaults, failed = measure("defaults", **options), []
    for row in asked:
        try:
            found = defaults if row == "defaults" else measure(row, **options)
        except subprocess.CalledProcessError:
            failed.append(row)
            continue
        # A seed that the guard stopped is missing; the log above reports it.
        seeds = "" if len(found) == chosen.seeds else f" ({len(found)} of {chosen.seeds} seeds)"
        print(f"| {row}{seeds} | {' | '.join(cells(found, beside=defaults))} |", flush=True)
    if failed:
        sys.exit(f"no figures of {', '.join(failed)}: the errors are above")


if __name__ == "__main__":
    main()
