"""The flow `stage`: one stage from the artifacts of earlier stages or from explicit files."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prefect import flow

from tickerforge.evaluation.core.contracts import EvalReport, Verdict
from tickerforge.evaluation.core.recalibration import Recalibration
from tickerforge.features.atomic import atomic_path
from tickerforge.features.config import FrozenModel
from tickerforge.features.stages import (
    ADAPTERS,
    COMPARISON,
    SFT,
    SFT_DATA,
    Stage,
    StageCommand,
    stage_named,
)
from tickerforge.flows.errors import MissingArtifactError
from tickerforge.flows.prices.published import full_windows, windows_from_files, write_full_forecasts
from tickerforge.flows.remote.here import Here
from tickerforge.flows.server.begin import begin
from tickerforge.flows.server.slots import ticker_slot
from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.flows.settings.files import StageFiles, as_published
from tickerforge.flows.train.runs import Run, new_run_folder, recorded_run, stage_settings
from tickerforge.flows.train.steps import Steps, as_artifact
from tickerforge.tasks.base.disk import os_errors_as_publish_error
from tickerforge.tasks.base.paths import RunFolder, model_folder
from tickerforge.tasks.models.adapters import BaseModelRef
from tickerforge.tasks.models.sft_data import store_sft_data
from tickerforge.tasks.outputs.evaluate import read_report, read_verdict
from tickerforge.tasks.outputs.publish import (
    publish_adapter,
    publish_comparison_folder,
    publish_recalibration,
    publish_sft_data,
    publish_stage,
)
from tickerforge.tasks.store.artifacts import ArtifactRef
from tickerforge.tasks.tracking.stage_runs import log_comparison, log_stage

logger = logging.getLogger(__name__)


class StageOutcome(FrozenModel):
    """The results of a single stage; only a comparison has `report` and `verdict`."""

    stage: StageCommand
    stock: str
    results: Path
    written: tuple[Path, ...]
    report: EvalReport | None = None
    verdict: Verdict | None = None


@flow(name="stage", flow_run_name="{config.stock} {stage}", persist_result=False, on_running=[begin])
def run_stage(stage: StageCommand, config: PipelineConfig, files: StageFiles = StageFiles()) -> StageOutcome:
    """Run one stage of one ticker. The stages before it must have run with the same configuration.

    Args:
        stage: grpo1, sft-data, sft, grpo2 or compare.
        config: Stock, data and settings, as for the whole pipeline.
        files: Explicit files, in place of artifacts and of the usual folders.

    Raises:
        MissingArtifactError: If an earlier stage has not run; the message names the command that runs it.
    """
    with started_stage(stage_named(stage), config, files) as started:
        return started.compare() if stage == COMPARISON.command else started.train()


@dataclass(frozen=True)
class StartedStage:
    """One stage with its run, files, windows and base model; `bars` only if the windows do not come from files."""

    stage: Stage
    run: Run
    files: StageFiles
    windows: ArtifactRef
    base_model: BaseModelRef
    bars: tuple[ArtifactRef, ...] = ()

    def train(self) -> StageOutcome:
        """Run a training stage, and copy its results to the folders of results and models."""
        run, stage = self.run, self.stage
        adapter = self.start(stage)
        answers = self.answers() if stage is SFT else None
        request = run.steps.training_request(stage, self.windows, self.base_model, adapter=adapter, answers=answers)
        (result,) = run.steps.runner.run([request])
        artifact = as_artifact(result)
        if stage is SFT_DATA:
            written = [publish_sft_data(artifact, run.folder, stock=run.config.stock)]
            if self.files.sft_data_path is not None:
                written.append(copy_file(written[0], self.files.sft_data_path))
        else:
            written = [publish_stage(artifact, run.folder), self.save_adapter(artifact)]
            if stage is not SFT:
                written += self.save_full_forecasts(artifact)
        if run.mlflow is not None:
            log_stage(run.mlflow, stage.name, artifact=artifact, params=stage_settings(run.config, stage.name))
        return self.outcome(*written)

    def compare(self) -> StageOutcome:
        """Compare the adapters and free forecasters, and write the recalibration into the cards; register nothing."""
        run = self.run
        adapters = {name: self.adapter(name) for name in ADAPTERS}
        comparison = run.steps.comparison(self.windows, self.base_model, adapters, bars=self.bars)
        report = read_report(comparison)
        for name, adapter in adapters.items():
            publish_recalibration(
                self.published(name), adapter, recalibration=report.recalibrations.get(name, Recalibration())
            )
        written = publish_comparison_folder(comparison, run.folder)
        if run.mlflow is not None:
            log_comparison(run.mlflow, comparison)
        return self.outcome(written, report=report, verdict=read_verdict(comparison))

    def adapter(self, name: str) -> ArtifactRef | Path:
        """Return the adapter of an earlier stage: the given folder, else its artifact.

        Raises:
            MissingArtifactError: If there is neither.
        """
        given = self.files.saved_adapter(name)
        if given is not None:
            return given
        stage = stage_named(name)
        return self._finished(stage, adapter=self.start(stage), answers=self.answers() if stage is SFT else None)

    def start(self, stage: Stage) -> ArtifactRef | Path | None:
        """Return the adapter that a stage continues from or samples; `None` for a fresh one."""
        return self.adapter(stage.reads[0]) if stage.reads else self.run.steps.prime(self.base_model)

    def answers(self) -> ArtifactRef | Path:
        """Return the accepted answers: the given file, else their artifact.

        Raises:
            MissingArtifactError: If there is neither.
        """
        if self.files.sft_data_path is not None:
            return self.files.sft_data_path
        return self._finished(SFT_DATA, adapter=self.adapter(SFT_DATA.reads[0]), answers=None)

    def _finished(
        self, stage: Stage, *, adapter: ArtifactRef | Path | None, answers: ArtifactRef | Path | None
    ) -> ArtifactRef:
        steps = self.run.steps
        request = steps.training_request(stage, self.windows, self.base_model, adapter=adapter, answers=answers)
        found = Here(steps.store).find(request)
        if found is None:
            raise MissingArtifactError(
                f"the stage {stage.name} has not been run with this configuration: run `tickerforge stage "
                f"{stage.command}` with the same options first, or `tickerforge run` for all stages"
            )
        return as_artifact(found)

    def save_adapter(self, artifact: ArtifactRef) -> Path:
        """Copy an adapter to the given folder, or into `models/{MODEL}/{STOCK}`."""
        name = self.stage.name
        card = self.run.steps.card(name, windows=self.windows, base_model=self.base_model)
        return publish_adapter(artifact, self.published(name), card=card)

    def published(self, name: str) -> Path:
        """Return the folder of a stage's adapter: the given one, or that in `models/{MODEL}/{STOCK}`."""
        config = self.run.config
        return self.files.saved_adapter(name) or model_folder(config.training.model, config.stock).adapter(name)

    def save_full_forecasts(self, artifact: ArtifactRef) -> list[Path]:
        """Forecast every window of the full files, if they are given; write the forecasts to the results folder."""
        config, store = self.run.config, self.run.steps.store
        windows = full_windows(self.files, config=config, store=store)
        if windows is None:
            return []
        every = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"max_windows": None})})
        forecasts = Steps(every, store).forecasts(windows, self.base_model, model=self.stage.name, adapter=artifact)
        path = self.run.folder.root / f"{self.stage.command}_full_dataset_results.csv"
        return [write_full_forecasts(forecasts, windows, path)]

    def outcome(self, *written: Path, report: EvalReport | None = None, verdict: Verdict | None = None) -> StageOutcome:
        """Return the results of the stage."""
        return StageOutcome.model_validate(
            {
                "stage": self.stage.command,
                "stock": self.run.config.stock,
                "results": self.run.folder.root,
                "written": written,
                "report": report,
                "verdict": verdict,
            }
        )


@contextmanager
def started_stage(stage: Stage, config: PipelineConfig, files: StageFiles) -> Iterator[StartedStage]:
    """Open the run of one stage, with its windows and its base model ready."""
    config = as_published(config, files)
    folder = RunFolder(files.results_dir) if files.results_dir else new_run_folder(config.stock)
    with recorded_run(config, folder=folder) as run, ticker_slot(config.stock):
        windows = windows_from_files(files, config=config, store=run.steps.store)
        if windows is None and stage is SFT and files.sft_data_path is not None:
            # SFT learns only from the answers. It needs no prices, and the hash of the answers identifies the data.
            windows = store_sft_data(files.sft_data_path, store=run.steps.store)
        bars: tuple[ArtifactRef, ...] = ()
        if windows is None:
            data = run.steps.data()
            windows, bars = data.windows, data.all_bars
        run.start_tracking(stage.command, windows=windows)
        yield StartedStage(stage, run, files, windows, run.steps.base_model(), bars)


def copy_file(source: Path, target: Path) -> Path:
    """Copy a file; it gets its name only when it is complete.

    Raises:
        PublishError: If it cannot be written.
    """
    with os_errors_as_publish_error(target.parent, doing=f"writing {target.name}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as partial:
            shutil.copyfile(source, partial)
    return target
