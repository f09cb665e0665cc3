"""The flow `benchmark-markets`: training, stage by stage, on markets whose best attainable error is known."""

import logging
import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from prefect import flow
from pydantic import Field

from tickerforge.evaluation.bench.known_markets import KNOWN, SHOWN, Attained, captured_share, process_optimum
from tickerforge.evaluation.core.contracts import BASE, FREE, RANDOM_WALK
from tickerforge.evaluation.core.labels import model_label
from tickerforge.features.config import FrozenModel
from tickerforge.features.stages import LAST_STAGE, AdapterStage
from tickerforge.flows.bench.market_config import (
    FRESH_HORIZON,
    FRESH_SEED,
    FRESH_SESSIONS,
    FRESH_WINDOWS,
    MARKETS,
    TRAIN_SESSIONS,
    market_config,
)
from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.flows.train.steps import Steps, adapters_of
from tickerforge.tasks.base.prefect_artifacts import publish_table
from tickerforge.tasks.outputs.benchmark import Attainable, attainable, score_forecasts
from tickerforge.tasks.outputs.evaluate import read_report, read_verdict
from tickerforge.tasks.store.artifacts import Store
from tickerforge.training.errors import TrainingDiverged

logger = logging.getLogger(__name__)

Seeds = Annotated[int, Field(ge=1, le=20, description="Number of seeds, each for the market and all stages.")]
Until = Annotated[AdapterStage, Field(description="Last stage to train.")]
Markets = Annotated[tuple[str, ...], Field(description="Names of markets; empty means all.")]


NAMES = {KNOWN: "process known", SHOWN: "best from a prompt"}


class MarketRun(FrozenModel):
    """One market, one seed: the errors of each model on fresh windows, and the gate's verdict on its own test split."""

    market: str
    seed: int
    optimum: float
    attainable: Attainable
    attained: tuple[Attained, ...]
    seconds: float
    promoted: bool
    headline: str

    def of(self, model: str) -> Attained:
        """Return the errors of one model."""
        return next(each for each in self.attained if each.model == model)

    def captured(self, model: str) -> float:
        """Return the captured share of the attainable gain; NaN if there is none, as any gain is then luck."""
        best = self.attainable.asked if self.optimum < 1 else 1.0
        return captured_share(self.of(model).mse, optimum=best)

    def captured_crps(self, model: str) -> float:
        """Return the captured share of what the best forecast from a prompt gains over the random walk's CRPS."""
        return captured_share(self.of(model).crps, optimum=self.of(SHOWN).crps, free=self.of(RANDOM_WALK).crps)


@flow(name="benchmark-markets", persist_result=False)
def benchmark_markets(
    config: PipelineConfig = PipelineConfig(), markets: Markets = (), seeds: Seeds = 3, until: Until = LAST_STAGE
) -> tuple[MarketRun, ...]:
    """Train on synthetic markets whose best attainable error is known, and show how much of it each stage captures.

    Args:
        config: Settings of all stages; the benchmark sets stock, data and market.
        markets: Names of markets; empty means all.
        seeds: Number of seeds.
        until: Last stage to train.

    Raises:
        ValueError: If a market is unknown.
        TrainingDiverged: If every seed of a market collapses; a single collapse is logged and left out.
    """
    unknown = [name for name in markets if name not in MARKETS]
    if unknown:
        raise ValueError(f"no market {unknown[0]!r}: there are {', '.join(MARKETS)}")
    runs = []
    for market in markets or MARKETS:
        mine: list[MarketRun] = []
        stopped: TrainingDiverged | None = None
        for seed in range(seeds):
            try:
                mine.append(run_market(config, market=market, seed=seed, until=until))
            except TrainingDiverged as error:
                stopped = error
                logger.error("%s, seed %d is left out: %s", market, seed, error)
                continue
            errors = ", ".join(f"{each.model} {each.mse:.3f}" for each in mine[-1].attained)
            logger.info("%s, seed %d: MSE over persistence's: %s. %s", market, seed, errors, mine[-1].headline)
        if stopped is not None and not mine:
            raise stopped
        runs += mine
    publish_table(
        "benchmark-markets",
        [row for rows in summarise(runs).values() for row in rows],
        description="Mean squared error divided by persistence's: mean and standard deviation over seeds.",
    )
    return tuple(runs)


def run_market(config: PipelineConfig, *, market: str, seed: int, until: AdapterStage = LAST_STAGE) -> MarketRun:
    """Run the stages on one market with one seed, inside a flow run; finished stages are taken from the store."""
    store = Store.current()
    judged = config.evaluation.max_windows or FRESH_WINDOWS
    config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"max_windows": judged})})
    own = market_config(config, market=market, seed=seed, sessions=TRAIN_SESSIONS)
    steps = Steps(own, store)
    bars, base_model = steps.bars(), steps.base_model()
    windows = steps.windows(bars)
    stages = steps.trained(windows, base_model, until=until)
    adapters = adapters_of(stages)

    # The same stretch for every seed, so that seeds differ in training and not in windows.
    # It is longer for a longer horizon, so that targets do not overlap.
    stretch = FRESH_SESSIONS * math.ceil(config.features.horizon / FRESH_HORIZON)
    fresh = market_config(config, market=market, seed=0, sessions=stretch, shift=FRESH_SEED)
    asked = fresh.model_copy(
        update={
            "evaluation": fresh.evaluation.model_copy(update={"max_windows": min(judged, FRESH_WINDOWS)}),
            "seed": seed,
        }
    )
    unseen = Steps(asked, store)
    fresh_windows = unseen.windows(unseen.bars())
    answers = unseen.forecasts_of_all(fresh_windows, base_model, adapters)
    comparison = steps.comparison(windows, base_model, adapters, bars=[bars])
    found = score_forecasts(
        fresh_windows,
        {model: answers[model] for model in (BASE, *adapters)},
        process=asked.synthetic,
        evaluation=asked.evaluation,
        recalibrations=read_report(comparison).recalibrations,
    )
    best = attainable(
        asked.synthetic, asked=fresh_windows, features=own.features, evaluation=asked.evaluation, store=store
    )
    verdict = read_verdict(comparison)
    process, phi = MARKETS[market]
    return MarketRun(
        market=market,
        seed=seed,
        optimum=process_optimum(process, phi=phi, horizon=config.features.horizon),
        attainable=best,
        attained=(*found[:1], best.attained, *found[1:]),
        seconds=sum(float(str(ref.meta.get("seconds") or 0)) for ref in stages.values()),
        promoted=verdict.promoted,
        headline=verdict.headline,
    )


def summarise(runs: Sequence[MarketRun]) -> dict[str, list[dict[str, str]]]:
    """Make the table of each market, one row per model: means over seeds with standard deviations, as text."""
    tables: dict[str, list[dict[str, str]]] = {}
    for market in dict.fromkeys(run.market for run in runs):
        mine = [run for run in runs if run.market == market]
        tables[market] = [_row(each.model, mine) for each in mine[0].attained]
    return tables


def _row(model: str, runs: Sequence[MarketRun]) -> dict[str, str]:
    found = [run.of(model) for run in runs]
    captured = [run.captured(model) for run in runs]
    whole = [run.captured_crps(model) for run in runs]
    return {
        "Market": runs[0].market,
        "Seeds": ", ".join(str(run.seed) for run in runs),
        "Model": NAMES.get(model) or (model_label(model) if model in FREE else model),
        "MSE, median": mean_and_spread([each.mse for each in found]),
        "MSE, single": mean_and_spread([each.single for each in found]),
        "Captured": "" if math.isnan(captured[0]) else mean_and_spread(captured),
        "CRPS": mean_and_spread([each.crps for each in found]),
        "of CRPS": "" if math.isnan(sum(whole)) else mean_and_spread(whole),
        "Band 80 %": mean_and_spread([each.coverage for each in found]),
        "Valid": f"{np.mean([each.valid_rate for each in found]):.1%}",
    }


def mean_and_spread(values: Sequence[float]) -> str:
    """Write the mean, with the standard deviation if there is more than one value."""
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ±{np.std(values, ddof=1):.3f}"
