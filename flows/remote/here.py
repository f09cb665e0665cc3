"""The heavy stages in this process: base model, training, sampling and forecasting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tickerforge.flows.errors import StageFailed, StageRefused
from tickerforge.flows.remote.requests import HeavyStages, RegisteredAdapter, StageRequest, StageResult
from tickerforge.flows.server.slots import gpu_slot
from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.models.adapters import BaseModelRef, base_model_identity, read_card
from tickerforge.tasks.models.train import base_model_for, prepare_base_model, sample_answers, train_grpo, train_sft
from tickerforge.tasks.outputs.evaluate import forecast_model
from tickerforge.tasks.registry.registration import fetch_registered
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.tracking.stage_runs import connect

# Added to the configured seed, so that no two stages draw the same random numbers.
_SEED_OFFSETS = {"grpo_1st": 0, "sft_data": 1, "sft": 2, "grpo_2nd": 3, "forecasts": 4}


def stage_seed(config: PipelineConfig, stage: str) -> int:
    """Seed of a stage."""
    return config.seed + _SEED_OFFSETS[stage]


def fetch_adapter(adapter: RegisteredAdapter | Path) -> Path:
    """Folder of an adapter on this machine.

    Raises:
        TrackingError: If MLflow does not answer.
        NotRegistered: If the registry has no such version.
    """
    if isinstance(adapter, Path):
        return adapter
    workspace = Workspace.current()
    return fetch_registered(connect(workspace), adapter.spec, cache=workspace.pulled)


@dataclass(frozen=True)
class Here:
    """Runs heavy stages in this process, on inputs that are fetched from the shared store where they are not here."""

    store: Store

    def run(self, requests: Sequence[StageRequest]) -> list[StageResult]:
        """Run stages one after the other, each with a GPU's slot; errors as the tasks of the stages raise them."""
        results = []
        for request in requests:
            with gpu_slot():
                results.append(self._run(request))
        return results

    def _run(self, request: StageRequest) -> StageResult:
        config, store = request.config, self.store
        training, features = config.training, config.features
        if request.stage == "base_model":
            return prepare_base_model(training, features=features, store=store)
        base_model = self._base_model(request)
        adapter, seed = self._adapter(request), stage_seed(config, request.stage)
        if request.stage == "sft":
            return train_sft(
                self._answers(request), base_model, adapter=adapter, config=training, seed=seed, store=store
            )
        windows = self._windows(request)
        if request.stage == "sft_data":
            return sample_answers(
                windows, base_model, adapter=adapter, config=training, features=features, seed=seed, store=store
            )
        if request.stage == "forecasts":
            return forecast_model(
                windows,
                base_model,
                model=request.model,
                adapter=adapter,
                config=training,
                features=features,
                evaluation=config.evaluation,
                seed=seed,
                store=store,
            )
        return train_grpo(
            windows,
            base_model,
            stage=request.stage,
            adapter=adapter,
            config=training,
            features=features,
            seed=seed,
            store=store,
        )

    def _windows(self, request: StageRequest) -> ArtifactRef:
        if request.windows is None:
            raise ValueError(f"{request.name} needs windows")
        return self.store.here(request.windows)

    def _base_model(self, request: StageRequest) -> BaseModelRef:
        if request.base_model is not None:
            return request.base_model.here(self.store)
        if request.adapter is None or isinstance(request.adapter, ArtifactRef):
            raise ValueError(f"{request.name} needs a base model, or an adapter that says which is its own")
        folder = fetch_adapter(request.adapter)
        location = base_model_for(read_card(folder), folder, store=self.store)
        model = request.config.training.model
        return BaseModelRef(model=model, location=location, identity=base_model_identity(location))

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
    """Runs heavy stages through another and keeps what each made under the request's key."""

    inner: HeavyStages
    results: dict[str, StageResult]

    def run(self, requests: Sequence[StageRequest]) -> list[StageResult]:
        """Run stages, and remember the result of each as soon as it is there."""
        for request in requests:
            (self.results[request.key],) = self.inner.run([request])
        return [self.results[request.key] for request in requests]


@dataclass(frozen=True)
class Finished:
    """Hands out what was made before from the very same inputs; `error` says why something may be missing."""

    results: Mapping[str, StageResult]
    error: str = ""

    def run(self, requests: Sequence[StageRequest]) -> list[StageResult]:
        """Find stages done.

        Raises:
            StageFailed: If one was not done because something failed.
            StageRefused: If one was not done although nothing failed.
        """
        for request in requests:
            if request.key not in self.results:
                if self.error:
                    raise StageFailed(self.error)
                raise StageRefused(f"{request.name} of {request.config.stock} was not made before from these inputs")
        return [self.results[request.key] for request in requests]
