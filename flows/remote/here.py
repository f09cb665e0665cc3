"""Heavy stages in this process: base model, training, sampling and forecasting."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tickerforge.features.stages import BASE_MODEL, FORECASTS, PRIME, SFT, SFT_DATA, stage_named
from tickerforge.flows.errors import StageFailed, StageRefused
from tickerforge.flows.remote.requests import HeavyStages, StageOutput, StageRequest
from tickerforge.flows.server.slots import gpu_slot
from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.base.retries import is_transient
from tickerforge.tasks.models.adapters import BaseModelRef, read_card
from tickerforge.tasks.models.base_models import base_model_for, prepare_base_model
from tickerforge.tasks.models.prime import prime_base_model
from tickerforge.tasks.models.train import sample_answers, train_grpo, train_sft
from tickerforge.tasks.outputs.evaluate import forecast_model
from tickerforge.tasks.registry.registration import fetch_registered
from tickerforge.tasks.registry.versions import RegisteredAdapter
from tickerforge.tasks.store.artifacts import ArtifactRef, FinishedOnly, NotFinished, Store
from tickerforge.tasks.tracking.stage_runs import connect
from tickerforge.training.config import TINY


def stage_seed(config: PipelineConfig, stage: str) -> int:
    """Return the seed of a stage: the configured one plus the stage's offset."""
    return config.seed + stage_named(stage).seed_offset


def fetch_adapter(adapter: RegisteredAdapter | Path) -> Path:
    """Return the folder of an adapter on this machine; download a registered one if it is not here.

    Raises:
        TrackingError: If MLflow does not answer.
        NotRegistered: If the registry has no such version.
    """
    if isinstance(adapter, Path):
        return adapter
    workspace = Workspace.current()
    return fetch_registered(connect(workspace), adapter, cache=workspace.pulled)


@dataclass(frozen=True)
class Here:
    """Runner of heavy stages in this process; it fetches missing inputs from the shared store."""

    store: Store

    def run(self, requests: Sequence[StageRequest]) -> list[StageOutput]:
        """Find or run stages, one after the other; raise what the tasks of the stages raise.

        A finished stage needs no GPU slot and no task run. Every other one runs as a task that holds a slot.
        """
        made = []
        for request in requests:
            task, arguments = self._call(request)
            try:
                found = self._found(task, arguments)
            except Exception as error:
                if not is_transient(error):
                    raise
                # The task itself retries this error.
                found = None
            if found is None:
                with gpu_slot():
                    found = task(**arguments, store=self.store)
            made.append(found)
        return made

    def find(self, request: StageRequest) -> StageOutput | None:
        """Return the output that a stage already made from the same inputs, or `None` if it is not finished.

        Raises:
            StoreUnreachable: If the shared store does not answer.
        """
        return self._found(*self._call(request))

    def _found(self, task: Any, arguments: Mapping[str, Any]) -> StageOutput | None:
        try:
            found: StageOutput = task.fn(**arguments, store=FinishedOnly(self.store.root, self.store.shared))
        except NotFinished:
            return None
        return found

    def _call(self, request: StageRequest) -> tuple[Any, dict[str, Any]]:
        """Return the task of a stage and its arguments except the store."""
        training, features = request.config.training, request.config.prompts
        if request.stage == BASE_MODEL.name:
            return prepare_base_model, {"config": training, "features": features}
        if request.stage == PRIME.name:
            return prime_base_model, {
                "base_model": self._base_model(request),
                "config": training,
                "features": features,
            }
        common: dict[str, Any] = {
            "base_model": self._base_model(request),
            "adapter": self._adapter(request),
            "config": training,
            "seed": stage_seed(request.config, request.stage),
        }
        if request.stage == SFT.name:
            return train_sft, {"sft_data": self._answers(request), **common}
        common |= {"windows": self._windows(request), "features": features}
        if request.stage == SFT_DATA.name:
            return sample_answers, common
        if request.stage == FORECASTS.name:
            return forecast_model, {"model": request.model, "evaluation": request.config.evaluation, **common}
        return train_grpo, {"stage": request.stage, **common}

    def _windows(self, request: StageRequest) -> ArtifactRef:
        if request.windows is None:
            raise ValueError(f"{request.name} needs windows")
        return self.store.here(request.windows)

    def _base_model(self, request: StageRequest) -> BaseModelRef:
        if request.base_model is not None:
            return request.base_model.here(self.store)
        if request.adapter is None or isinstance(request.adapter, ArtifactRef):
            raise ValueError(f"{request.name} needs a base model, or an adapter whose card names one")
        folder = fetch_adapter(request.adapter)
        card = read_card(folder)
        is_here = card.training.model != TINY or Path(card.base_model_location(folder)).is_dir()
        with nullcontext() if is_here else gpu_slot():
            return base_model_for(card, folder, store=self.store)

    def _adapter(self, request: StageRequest) -> ArtifactRef | Path | None:
        if isinstance(request.adapter, ArtifactRef):
            return self.store.here(request.adapter)
        return None if request.adapter is None else fetch_adapter(request.adapter)

    def _answers(self, request: StageRequest) -> ArtifactRef | Path:
        if request.answers is None:
            raise ValueError(f"{request.name} needs accepted answers")
        return self.store.here(request.answers) if isinstance(request.answers, ArtifactRef) else request.answers


@dataclass(frozen=True)
class Recording:
    """Runner that passes heavy stages to another one and keeps each output under the key of its request."""

    inner: HeavyStages
    results: dict[str, StageOutput]

    def run(self, requests: Sequence[StageRequest]) -> list[StageOutput]:
        """Run stages, and keep each result as soon as it is finished."""
        for request in requests:
            (self.results[request.key],) = self.inner.run([request])
        return [self.results[request.key] for request in requests]


@dataclass(frozen=True)
class Finished:
    """Runner that only returns outputs made before from the same inputs; `error` says why one may be missing."""

    results: Mapping[str, StageOutput]
    error: str = ""

    def run(self, requests: Sequence[StageRequest]) -> list[StageOutput]:
        """Look the results up.

        Raises:
            StageFailed: If a result is missing because something failed.
            StageRefused: If a result is missing although nothing failed.
        """
        for request in requests:
            if request.key not in self.results:
                if self.error:
                    raise StageFailed(self.error)
                raise StageRefused(f"{request.name} of {request.config.stock} was not made before from these inputs")
        return [self.results[request.key] for request in requests]
