"""The flow `train-ticker`: from raw prices to a registered adapter, one task a stage."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from prefect import flow

from evaluation.contracts import EvalReport, Verdict
from features.config import FrozenModel
from flows.config import PipelineConfig
from flows.runs import Run, new_run_folder, recorded_run, stage_settings
from flows.steps import ADAPTER_STAGES
from tasks.adapters import BaseModelRef
from tasks.artifacts import publish_comparison
from tasks.errors import TrackingError
from tasks.evaluate import read_report, read_verdict
from tasks.paths import RunFolder, Workspace, model_folder
from tasks.publish import publish_adapter, publish_comparison_folder, publish_sft_data, publish_stage
from tasks.registry import RegisteredModel, fetch_champion, register_adapter
from tasks.store import ArtifactRef
from tasks.tracking import Tracking, log_comparison, log_stage

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"


class PipelineResult(FrozenModel):
    """What a finished run leaves behind."""

    stock: str
    results: Path
    report_path: Path
    adapters: dict[str, Path]
    registered: RegisteredModel | None
    report: EvalReport
    verdict: Verdict


@flow(name="train-ticker", flow_run_name="{config.stock}", persist_result=False)
def train_ticker(config: PipelineConfig = PipelineConfig()) -> PipelineResult:
    """Train, compare and register one ticker's adapter.

    Every stage whose inputs, settings and code have not changed is taken from the store; an interrupted one resumes.

    Args:
        config: Stock, data and every setting of every stage.
    """
    folder = new_run_folder(config.stock)
    with recorded_run(config, folder=folder) as run:
        steps = run.steps
        bars = steps.bars()
        windows = steps.windows(bars)
        parent = run.start_tracking("train", windows=windows)
        base_model = steps.base_model()

        def logged(stage: str, artifact: ArtifactRef) -> ArtifactRef:
            log_stage(parent, stage, artifact=artifact, params=stage_settings(config, stage))
            return artifact

        grpo_1st = logged("grpo_1st", steps.grpo_1st(windows, base_model))
        sft_data = logged("sft_data", steps.sft_data(windows, base_model, grpo_1st))
        sft = logged("sft", steps.sft(sft_data, base_model))
        grpo_2nd = logged("grpo_2nd", steps.grpo_2nd(windows, base_model, sft))

        adapters = {"grpo_1st": grpo_1st, "sft": sft, "grpo_2nd": grpo_2nd}
        champion = current_champion(parent.tracking, config.stock)
        comparison = steps.comparison(windows, base_model, adapters, champion=champion)
        report, verdict = read_report(comparison), read_verdict(comparison)
        log_comparison(parent, comparison)

        report_path = publish_results(
            folder, stages=adapters | {"sft_data": sft_data}, comparison=comparison, stock=config.stock
        )
        registered = None
        if report.chosen is not None:
            registered = register_adapter(
                parent,
                adapters[report.chosen],
                card=steps.card(report.chosen, windows=windows, base_model=base_model),
                bars=bars,
                comparison=comparison,
                report_path=report_path,
            )
        published = publish_adapters(run, adapters=adapters, windows=windows, base_model=base_model)
        publish_comparison(report, verdict, report_path=report_path)
        logger.info("%s", verdict.headline, extra={"terminal": False})
        return PipelineResult(
            stock=config.stock,
            results=folder.root,
            report_path=report_path,
            adapters=published,
            registered=registered,
            report=report,
            verdict=verdict,
        )


def current_champion(tracking: Tracking, stock: str) -> Path | None:
    """Folder of the stock's champion, or `None` where there is none or, said in the log, MLflow does not answer."""
    try:
        return fetch_champion(tracking, stock, cache=Workspace.current().pulled)
    except TrackingError as error:
        logger.warning("the current champion of %s cannot be fetched, so nothing is compared with it: %s", stock, error)
        return None


def publish_results(
    folder: RunFolder, *, stages: Mapping[str, ArtifactRef], comparison: ArtifactRef, stock: str
) -> Path:
    """Put the records of all stages and the report into the run's folder, all of them or none.

    Returns:
        The HTML report.

    Raises:
        PublishError: If the folder cannot be written; `pipeline.log` is then the only thing in it.
    """
    complete = False
    try:
        for stage in ADAPTER_STAGES:
            publish_stage(stages[stage], folder)
        publish_sft_data(stages["sft_data"], folder, stock=stock)
        report = publish_comparison_folder(comparison, folder) / REPORT_FILE
        complete = True
    finally:
        if not complete:
            for name in (*ADAPTER_STAGES, "sft_data", "comparison"):
                shutil.rmtree(folder.stage(name), ignore_errors=True)
    return report


def publish_adapters(
    run: Run, *, adapters: Mapping[str, ArtifactRef], windows: ArtifactRef, base_model: BaseModelRef
) -> dict[str, Path]:
    """Put the adapters into `models/{MODEL}/{STOCK}`, each in the place of its predecessor.

    Raises:
        PublishError: If a folder cannot be written.
    """
    target = model_folder(run.config.training.model, run.config.stock)
    return {
        stage: publish_adapter(artifact, target, card=run.steps.card(stage, windows=windows, base_model=base_model))
        for stage, artifact in adapters.items()
    }
