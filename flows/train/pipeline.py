"""The flow `train-ticker`: from raw prices to a registered adapter, one task per stage."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow
from pydantic import Field

from tickerforge.evaluation.core.contracts import EvalReport, Verdict
from tickerforge.evaluation.core.recalibration import Recalibration
from tickerforge.features.config import FrozenModel
from tickerforge.features.stages import ADAPTERS, COMPARISON, SFT_DATA
from tickerforge.flows.errors import ChampionChanged
from tickerforge.flows.prices.pool import RunData
from tickerforge.flows.prices.price_updates import update_prices
from tickerforge.flows.remote.gpu_pool import GPU_POOL, GpuPool, Where
from tickerforge.flows.remote.requests import HeavyStages
from tickerforge.flows.server.alert import alert_if_scheduled
from tickerforge.flows.server.begin import begin
from tickerforge.flows.server.slots import ticker_slot
from tickerforge.flows.settings import form
from tickerforge.flows.settings.config import PipelineConfig, command_of
from tickerforge.flows.settings.scope import Exchange, skipped
from tickerforge.flows.train.champions import current_champion, warm_start
from tickerforge.flows.train.runs import Run, answers_to_draw, new_run_folder, recorded_run, stage_settings
from tickerforge.flows.train.steps import adapters_of
from tickerforge.tasks.base.paths import REPORT_FILE, RunFolder, model_folder
from tickerforge.tasks.base.prefect_artifacts import publish_comparison
from tickerforge.tasks.models.adapters import BaseModelRef
from tickerforge.tasks.outputs.evaluate import read_expected_error, read_report, read_verdict
from tickerforge.tasks.outputs.live import keep_expected_error
from tickerforge.tasks.outputs.publish import (
    publish_adapter,
    publish_comparison_folder,
    publish_sft_data,
    publish_stage,
)
from tickerforge.tasks.registry.registration import RegisteredModel, register_adapter
from tickerforge.tasks.registry.versions import RegisteredAdapter
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.tracking.stage_runs import log_comparison, log_stage, wait_for_tracking
from tickerforge.training.config import TINY

logger = logging.getLogger(__name__)


class PipelineResult(FrozenModel):
    """The results of a finished run; `left_out` says why tickers are missing in a pool.

    `page` is the address of the report on the tracking server, or of the run that links to it; empty without a server.
    """

    stock: str
    results: Path
    report_path: Path
    adapters: dict[str, Path]
    registered: RegisteredModel | None
    report: EvalReport
    verdict: Verdict
    left_out: dict[str, str] = Field(default={})
    page: str = ""


class PreparedTicker(RunData):
    """A ticker's data, the adapter that its training starts from, and the champion that the result is compared with."""

    start: RegisteredAdapter | None = None
    champion: RegisteredAdapter | None = None


def _run_name() -> str:
    """Name a run of `train-ticker` after its stock."""
    from prefect.runtime import flow_run

    given = flow_run.parameters
    config = given.get("config")
    return str(given["stock"] if config is None else PipelineConfig.model_validate(config).stock)


@flow(
    name="train-ticker",
    flow_run_name=_run_name,
    persist_result=False,
    on_running=[begin],
    on_failure=[alert_if_scheduled],
    on_crashed=[alert_if_scheduled],
)
def train_ticker(
    config: PipelineConfig | None = None,
    stock: str = "",
    recipe: str = form.DEFAULT_RECIPE,
    model: str = "",
    data: str = "",
    warm_start: form.WarmStart = "none",
    overrides: str = "",
    heavy_stages: Where = "here",
    exchange: Exchange = None,
) -> PipelineResult | None:
    """Train, compare and register the adapter of one ticker, or, with the stock `ALL`, of all tickers together.

    A stage whose inputs, settings and code have not changed comes from the store; an interrupted stage resumes.

    The fields of the form are `stock` to `overrides`; with a `config`, they are not used.

    Returns:
        The results of the run; `None` if it had nothing to do.

    Raises:
        ConfigError: If the fields are not a configuration.
    """
    if config is None:
        config = form.config_of_form(
            recipe=recipe, overrides=overrides, stock=stock, model=model, data=data, warm_start=warm_start
        )
    if exchange is not None:
        if (nothing := skipped(exchange, result=None)) is not None:
            return nothing
        update_prices(config, exchange=exchange)
    return train(config, heavy=GpuPool(Store.current()) if heavy_stages == GPU_POOL else None)


def train(
    config: PipelineConfig, *, heavy: HeavyStages | None = None, given: PreparedTicker | None = None
) -> PipelineResult:
    """Run the flow `train-ticker` inside the current flow run.

    Args:
        config: Stock, data and every setting of every stage.
        heavy: Runner of the heavy stages; without it this process runs them.
        given: Data, start and champion that the heavy stages already ran with; without it they are found here.

    Raises:
        ChampionChanged: If another champion has replaced the one that the challenger was compared with.
    """
    folder = new_run_folder(config.stock)
    with recorded_run(config, folder=folder) as run, ticker_slot(config.stock):
        run.steps = steps = replace(run.steps, heavy=heavy)
        data = given or steps.data()
        bars, windows = data.bars, data.windows
        parent = run.start_tracking("train", windows=windows)
        # A night has them drawn elsewhere before.
        if given is None and config.training.model != TINY:
            drawn = answers_to_draw(config, windows=windows)
            by_stage = ", ".join(f"{stage} {count:,}" for stage, count in drawn.items())
            logger.info(
                "answers to draw from %s: at most %s (%s)", config.training.model, f"{sum(drawn.values()):,}", by_stage
            )
        base_model = steps.base_model()
        start = given.start if given else warm_start(config, windows=windows, base_model=base_model)
        stages = steps.trained(
            windows,
            base_model,
            start=start,
            on_stage=lambda stage, artifact: log_stage(
                parent, stage, artifact=steps.store.here(artifact), params=stage_settings(config, stage)
            ),
        )
        stages = {stage: steps.store.here(artifact) for stage, artifact in stages.items()}
        adapters = adapters_of(stages)
        # Without MLflow, a challenger could be promoted without a comparison with the champion.
        tracked = wait_for_tracking(parent)
        champion = given.champion if given else current_champion(config.stock)
        comparison = steps.comparison(
            windows,
            base_model,
            adapters,
            bars=data.all_bars,
            start=start,
            champion=champion,
            command=command_of(config),
        )
        report, verdict = read_report(comparison), read_verdict(comparison)
        log_comparison(parent, comparison)

        base_model = base_model.here(steps.store)
        report_path = publish_results(folder, config, stages=stages, comparison=comparison, windows=windows)
        registered = None
        if report.chosen is not None:
            if verdict.promoted and current_champion(config.stock) != champion:
                raise ChampionChanged(
                    f"the champion of {config.stock} changed while its challenger was trained, so the two were not "
                    "compared: run again; everything that was trained is kept"
                )
            registered = register_adapter(
                wait_for_tracking(parent),
                adapters[report.chosen],
                card=steps.card(
                    report.chosen,
                    windows=windows,
                    base_model=base_model,
                    recalibration=report.recalibrations.get(report.chosen),
                ),
                bars=bars,
                comparison=comparison,
                at=datetime.now(UTC),
                report_path=report_path,
            )
            keep_expected_error(config.stock, version=int(registered.version), expected=read_expected_error(comparison))
        published = publish_adapters(
            run, adapters=adapters, windows=windows, base_model=base_model, recalibrations=report.recalibrations
        )
        # The run of a comparison from the store has no report of its own, but a link to it.
        page = tracked.web_address() if comparison.cached else tracked.report_address
        publish_comparison(report, verdict, address=page or report_path.resolve().as_uri())
        logger.info("%s", verdict.headline, extra={"terminal": False})
        return PipelineResult(
            stock=config.stock,
            results=folder.root,
            report_path=report_path,
            adapters=published,
            registered=registered,
            report=report,
            verdict=verdict,
            left_out=data.left_out,
            page=page,
        )


def publish_results(
    folder: RunFolder,
    config: PipelineConfig,
    *,
    stages: Mapping[str, ArtifactRef],
    comparison: ArtifactRef,
    windows: ArtifactRef,
) -> Path:
    """Copy the records of all stages and the report into the run's folder, all of them or none.

    Returns:
        Path of the HTML report.

    Raises:
        PublishError: If the folder cannot be written; it then holds only `pipeline.log`.
    """
    complete = False
    try:
        for stage in ADAPTERS:
            publish_stage(stages[stage], folder, windows=windows, features=config.prompts, training=config.training)
        publish_sft_data(stages[SFT_DATA.name], folder, stock=config.stock)
        report = publish_comparison_folder(comparison, folder) / REPORT_FILE
        complete = True
    finally:
        if not complete:
            for name in (*ADAPTERS, SFT_DATA.name, COMPARISON.name):
                shutil.rmtree(folder.stage(name), ignore_errors=True)
    return report


def publish_adapters(
    run: Run,
    *,
    adapters: Mapping[str, ArtifactRef],
    windows: ArtifactRef,
    base_model: BaseModelRef,
    recalibrations: Mapping[str, Recalibration],
) -> dict[str, Path]:
    """Copy the adapters to `models/{MODEL}/{STOCK}`; each replaces its predecessor.

    Raises:
        PublishError: If a folder cannot be written.
    """
    target = model_folder(run.config.training.model, run.config.stock)
    return {
        stage: publish_adapter(
            artifact,
            target,
            card=run.steps.card(stage, windows=windows, base_model=base_model, recalibration=recalibrations.get(stage)),
        )
        for stage, artifact in adapters.items()
    }
