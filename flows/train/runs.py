"""The frame of every run: its folder with `pipeline.log`, its MLflow parent run and its final status."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

from tickerforge.evaluation.comparison.compare import POOL_WINDOWS
from tickerforge.evaluation.core.contracts import SCORED_SPLITS
from tickerforge.features.pooling import POOL
from tickerforge.features.stages import ADAPTERS, COMPARISON, GRPO_1ST, GRPO_2ND, SFT_DATA, stage_named
from tickerforge.flows.remote.here import stage_seed
from tickerforge.flows.server.logs import run_log
from tickerforge.flows.server.outcome import is_stopped
from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.flows.train.steps import Steps
from tickerforge.tasks.base.environment import git_revision
from tickerforge.tasks.base.errors import PublishError
from tickerforge.tasks.base.paths import RUN_TIMESTAMP, RunFolder, Workspace, run_folder
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.tracking.runs import RESULTS_TAG
from tickerforge.tasks.tracking.stage_runs import PipelineLog, finish_pipeline, follow_pipeline
from tickerforge.training.config import GRPOStageConfig

logger = logging.getLogger(__name__)


def new_run_folder(stock: str) -> RunFolder:
    """Make the folder of a run that starts now: `results/{STOCK}_{TIMESTAMP}`, in UTC.

    Two runs in the same second get different folders.

    Raises:
        PublishError: If it cannot be made.
    """
    instant = datetime.now(UTC)
    while True:
        folder = run_folder(stock, instant.strftime(RUN_TIMESTAMP))
        try:
            folder.root.mkdir(parents=True)
        except FileExistsError:
            instant += timedelta(seconds=1)
        except OSError as error:
            raise PublishError(
                f"cannot make {folder.root}: {error.strerror or error}. Work in a folder that you can write to, on a "
                "disk with free space."
            ) from error
        else:
            return folder


@dataclass
class Run:
    """A run in progress."""

    config: PipelineConfig
    folder: RunFolder
    steps: Steps
    started: datetime
    mlflow: PipelineLog | None = None

    def start_tracking(self, name: str, *, windows: ArtifactRef) -> PipelineLog:
        """Open the MLflow parent run, as soon as its data is known; if MLflow is down, the run is logged later."""
        self.mlflow = follow_pipeline(
            Workspace.current(),
            f"{name} {self.folder.root.name}",
            params=self.config.model_dump(mode="json"),
            tags={
                "ticker": self.config.stock,
                "data_sha256": windows.sha256,
                "git_revision": git_revision(),
                "seed": str(self.config.seed),
                RESULTS_TAG: str(self.folder.root),
            }
            | _prefect_tags(),
            started=self.started,
        )
        return self.mlflow

    def finish(self, status: str) -> None:
        """Close the MLflow parent run, if one was opened."""
        if self.mlflow is not None:
            finish_pipeline(self.mlflow, status=status, ended=datetime.now(UTC))


@contextmanager
def recorded_run(config: PipelineConfig, *, folder: RunFolder) -> Iterator[Run]:
    """Log the run to its `pipeline.log`, and close its MLflow run with its final status."""
    started = datetime.now(UTC)
    with run_log(folder.log):
        logger.info("results go to %s", folder.root)
        run: Run | None = None
        try:
            run = Run(config, folder, Steps(config, Store.current()), started)
            yield run
        except BaseException as error:
            _record_failure(error)
            if run is not None:
                run.finish("KILLED" if is_stopped(error) else "FAILED")
            raise
        run.finish("FINISHED")


def stage_settings(config: PipelineConfig, stage: str) -> dict[str, object]:
    """Return the settings that enter a stage's key, for its MLflow run."""
    training = config.training.model_dump(mode="json")
    common = {name: training[name] for name in ("model", "max_seq_length", "lora_rank")}
    return common | {name: training[name] for name in stage_named(stage).settings} | {"seed": stage_seed(config, stage)}


def answers_to_draw(config: PipelineConfig, *, windows: ArtifactRef) -> dict[str, int]:
    """Return how many answers each stage asks the model for, by name: to estimate the time of a run."""
    training, rejection = config.training, config.training.rejection
    counts = {split: cast(int, windows.meta[split]) for split in ("train", *SCORED_SPLITS)}
    drawn = {GRPO_1ST.name: _in_steps(training.grpo_1st)}
    if rejection.rule != "truth":
        drawn[SFT_DATA.name] = min(counts["train"], rejection.max_windows) * rejection.answers
    drawn[GRPO_2ND.name] = _in_steps(training.grpo_2nd)
    limit = config.evaluation.max_windows or (POOL_WINDOWS if config.stock == POOL else None)
    asked = sum(min(counts[split], limit or counts[split]) for split in SCORED_SPLITS)
    # The base model and each adapter.
    drawn[COMPARISON.name] = asked * training.sampling.samples * (1 + len(ADAPTERS))
    return drawn


def _in_steps(stage: GRPOStageConfig) -> int:
    return stage.steps * stage.prompts_per_step * stage.group_size


def _record_failure(error: BaseException) -> None:
    """Write the failure to the log file; the caller of the flow reports it on the terminal."""
    if is_stopped(error):
        logger.warning("stopped by %s", type(error).__name__, extra={"terminal": False})
    else:
        logger.error("failed: %s", error, exc_info=error, extra={"terminal": False})


def _prefect_tags() -> dict[str, str]:
    from prefect.runtime import flow_run

    return {"prefect_flow_run_id": str(flow_run.id)} if flow_run.id else {}
