"""What a single stage starts from and leaves behind: artifacts of earlier stages, or explicit files."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tickerforge.evaluation.core.contracts import EvalReport, Verdict
from tickerforge.features.config import FrozenModel
from tickerforge.flows.errors import MissingArtifactError
from tickerforge.flows.prices.published import full_windows, windows_from_files, write_full_forecasts
from tickerforge.flows.server.slots import ticker_slot
from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.flows.settings.files import StageFiles, as_published
from tickerforge.flows.train.runs import Run, new_run_folder, recorded_run, stage_settings
from tickerforge.flows.train.steps import Steps
from tickerforge.tasks.base.disk import os_errors_as_publish_error, rename_durably
from tickerforge.tasks.base.paths import RunFolder, model_folder
from tickerforge.tasks.models.adapters import BaseModelRef
from tickerforge.tasks.models.sft_data import store_sft_data
from tickerforge.tasks.outputs.publish import publish_adapter
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.tracking.stage_runs import log_stage

logger = logging.getLogger(__name__)

StageName = Literal["grpo1", "sft-data", "sft", "grpo2", "compare"]

COMMANDS: dict[str, StageName] = {"grpo_1st": "grpo1", "sft_data": "sft-data", "sft": "sft", "grpo_2nd": "grpo2"}
FULL_FORECASTS = {"grpo_1st": "grpo1_full_dataset_results.csv", "grpo_2nd": "grpo2_full_dataset_results.csv"}


class StageOutcome(FrozenModel):
    """What a single stage left behind; `report` and `verdict` are there after a comparison only."""

    stage: StageName
    stock: str
    results: Path
    written: tuple[Path, ...]
    report: EvalReport | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True)
class FinishedOnly(Store):
    """A store that finds artifacts and builds none."""

    def build(
        self, stage: str, inputs: Any, builder: Any, *, code: str, seed: int | None = None, resumable: bool = False
    ) -> ArtifactRef:
        """The finished artifact made from `inputs`.

        Raises:
            MissingArtifactError: If there is none; names the command that makes it.
        """

        def refuse(folder: Path) -> None:
            raise MissingArtifactError(
                f"the stage {stage} has not been run with this configuration: run `tickerforge stage "
                f"{COMMANDS.get(stage, stage)}` with the same options first, or `tickerforge run` for all stages"
            )

        # "Resumable" keeps what an interrupted build of that stage left to go on from.
        return super().build(stage, inputs, refuse, code=code, seed=seed, resumable=True)


@dataclass(frozen=True)
class StageInputs:
    """One stage under way: its run, files, windows and base model, and the bars of windows that are from no file."""

    run: Run
    files: StageFiles
    windows: ArtifactRef
    base_model: BaseModelRef
    bars: tuple[ArtifactRef, ...] = ()

    @property
    def _finished(self) -> Steps:
        store = self.run.steps.store
        return Steps(self.run.config, FinishedOnly(store.root, store.shared))

    def adapter(self, stage: str) -> ArtifactRef | Path:
        """The adapter of the earlier stage `grpo_1st`, `sft` or `grpo_2nd`: the folder given for it, else its artifact.

        Raises:
            MissingArtifactError: If neither is there.
        """
        given = self.files.saved_adapter(stage)
        if given is not None:
            return given
        match stage:
            case "grpo_1st":
                return self._finished.grpo_1st(self.windows, self.base_model)
            case "sft":
                return self._finished.sft(self.sft_data(), self.base_model)
        return self._finished.grpo_2nd(self.windows, self.base_model, self.adapter("sft"))

    def sft_data(self) -> ArtifactRef | Path:
        """The accepted answers: the file given for them, else their artifact.

        Raises:
            MissingArtifactError: If neither is there.
        """
        if self.files.sft_data_path is not None:
            return self.files.sft_data_path
        return self._finished.sft_data(self.windows, self.base_model, self.adapter("grpo_1st"))

    def save_adapter(self, stage: str, artifact: ArtifactRef) -> Path:
        """Put an adapter where it was asked for, or into `models/{MODEL}/{STOCK}`."""
        given, config = self.files.saved_adapter(stage), self.run.config
        target = given or model_folder(config.training.model, config.stock)
        card = self.run.steps.card(stage, windows=self.windows, base_model=self.base_model)
        return publish_adapter(artifact, target, card=card)

    def save_full_forecasts(self, stage: str, artifact: ArtifactRef) -> list[Path]:
        """Forecast every window of the full files, where they were given, into the results folder."""
        config, steps = self.run.config, self.run.steps
        windows = full_windows(self.files, config=config, store=steps.store)
        if windows is None:
            return []
        every = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"max_windows": None})})
        forecasts = Steps(every, steps.store).forecasts(windows, self.base_model, model=stage, adapter=artifact)
        return [write_full_forecasts(forecasts, windows, self.run.folder.root / FULL_FORECASTS[stage])]

    def outcome(self, name: StageName, stage: str, artifact: ArtifactRef, written: Sequence[Path]) -> StageOutcome:
        """Log the stage, and say what it left behind."""
        run = self.run
        if run.mlflow is not None:
            log_stage(run.mlflow, stage, artifact=artifact, params=stage_settings(run.config, stage))
        return StageOutcome(stage=name, stock=run.config.stock, results=run.folder.root, written=tuple(written))


@contextmanager
def single_stage(name: StageName, config: PipelineConfig, files: StageFiles) -> Iterator[StageInputs]:
    """The run around one stage, with its windows and its base model ready."""
    config = as_published(config, files)
    folder = RunFolder(files.results_dir) if files.results_dir else new_run_folder(config.stock)
    with recorded_run(config, folder=folder) as run, ticker_slot(config.stock):
        windows = windows_from_files(files, config=config, store=run.steps.store)
        if windows is None and name == "sft" and files.sft_data_path is not None:
            # The answers are all that it learns from: no prices are needed, and their hash stands for the data.
            windows = store_sft_data(files.sft_data_path, store=run.steps.store)
        bars: tuple[ArtifactRef, ...] = ()
        if windows is None:
            data = run.steps.data()
            windows, bars = data.windows, data.all_bars
        run.start_tracking(name, windows=windows)
        yield StageInputs(run, files, windows, run.steps.base_model(), bars)


def copy_file(source: Path, target: Path) -> Path:
    """Copy a file; it appears under its name when it is complete.

    Raises:
        PublishError: If it cannot be written.
    """
    with os_errors_as_publish_error(target.parent, doing=f"writing {target.name}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        shutil.copyfile(source, partial)
        rename_durably(partial, target)
    return target
