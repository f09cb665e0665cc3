"""The training stages as stored artifacts: each is built once, and resumes after an interruption."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from prefect import task

from tickerforge.features.config import FeatureConfig
from tickerforge.features.pooling import POOL, spread
from tickerforge.features.prompts import answer_format
from tickerforge.features.stages import SFT, SFT_DATA, STAGES, AdapterStage, LearningStage, Stage, stage_named
from tickerforge.tasks.base.paths import SFT_DATA_FILE
from tickerforge.tasks.base.progress import progress_reporter
from tickerforge.tasks.base.retries import TASK_OPTIONS
from tickerforge.tasks.models.adapters import BaseModelRef, adapter_folder, adapter_identity
from tickerforge.tasks.models.base_models import MODEL_LIBRARIES as MODEL_LIBRARIES
from tickerforge.tasks.models.sft_data import store_sft_data
from tickerforge.tasks.store.artifacts import ArtifactRef, Scalar, Store, code_version, part_sha256
from tickerforge.tasks.windows.preprocess import read_windows
from tickerforge.training.config import TrainingConfig
from tickerforge.training.contracts import StageResult

MODEL_MODULES = (
    "tickerforge.features.pooling",
    "tickerforge.features.prompts",
    "tickerforge.features.units",
    "tickerforge.training",
)

# These change how safely and how fast a stage runs, but not its result; the model itself counts by content.
_WITHOUT_EFFECT = {
    "model",
    "model_cutoff",
    "model_wheel",
    "backend",
    "checkpoint_every",
    "gpu_memory_utilization",
    "guard",
    "launch",
    "trust_remote_code",
}
_STAGE_GROUPS = {group for stage in STAGES for group in stage.settings}


@task(name="train-grpo", task_run_name="{stage}", **TASK_OPTIONS)
def train_grpo(
    windows: ArtifactRef,
    base_model: BaseModelRef,
    *,
    stage: AdapterStage,
    adapter: ArtifactRef | Path | None,
    config: TrainingConfig,
    features: FeatureConfig,
    seed: int,
    store: Store,
) -> ArtifactRef:
    """Train an adapter by GRPO on the train windows.

    Args:
        windows: Artifact of `store_windows`.
        base_model: Result of `prepare_base_model`.
        stage: `grpo_1st` or `grpo_2nd`.
        adapter: Adapter to continue from: an artifact, or a PEFT folder; `None` starts a fresh one.
        config: Settings of the stages.
        features: How windows become prompts.
        seed: Seed of the stage.
        store: Store of the artifact.

    Returns:
        Artifact of that stage with `adapter/` and `metrics.jsonl`; its meta holds the summary and `seconds`.

    Raises:
        TrainingError: See `training.stages.run_grpo`.
    """
    from tickerforge.training.examples import build_examples, unit_of_sigma
    from tickerforge.training.stages import run_grpo

    def build(folder: Path) -> Mapping[str, Scalar]:
        train = read_windows(windows, splits=("train",))
        if windows.meta.get("ticker") == POOL:
            settings = getattr(config, stage)
            # With more windows than the stage visits, prompts would be built for nothing, and the tickers that it
            # visits would be random.
            train = spread(train, at_most=settings.steps * settings.prompts_per_step)
        with progress_reporter() as report:
            result = run_grpo(
                build_examples(train, config=features),
                stage=stage,
                base_model=base_model.location,
                adapter=adapter_folder(adapter),
                config=config,
                out_dir=folder,
                seed=seed,
                unit=unit_of_sigma(train, config=features),
                on_progress=report,
            )
        return _meta(result)

    inputs = stage_inputs(stage_named(stage), base_model, adapter, config) | {"windows": windows, "features": features}
    return store.build(stage, inputs, build, code=_code(), seed=seed, resumable=True)


@task(name="sample-answers", **TASK_OPTIONS)
def sample_answers(
    windows: ArtifactRef,
    base_model: BaseModelRef,
    *,
    adapter: ArtifactRef | Path | None,
    config: TrainingConfig,
    features: FeatureConfig,
    seed: int,
    store: Store,
) -> ArtifactRef:
    """Draw answers to the train windows and keep the best (rejection sampling); arguments as in `train_grpo`.

    Returns:
        Artifact of the stage `sft_data` with `sft_data.parquet`; its meta holds the summary and `seconds`.

    Raises:
        TrainingError: See `training.stages.run_rejection`.
    """
    from tickerforge.training.examples import build_examples
    from tickerforge.training.stages import run_rejection

    def build(folder: Path) -> Mapping[str, Scalar]:
        train = spread(read_windows(windows, splits=("train",)), at_most=config.rejection.max_windows)
        with progress_reporter() as report:
            result = run_rejection(
                build_examples(train, config=features),
                base_model=base_model.location,
                adapter=adapter_folder(adapter),
                config=config,
                out_dir=folder,
                seed=seed,
                written=answer_format(features),
                on_progress=report,
            )
        return _meta(result)

    inputs = stage_inputs(SFT_DATA, base_model, adapter, config) | {
        "windows": windows,
        "features": features,
    }
    return store.build(SFT_DATA.name, inputs, build, code=_code(), seed=seed, resumable=True)


@task(name="train-sft", **TASK_OPTIONS)
def train_sft(
    sft_data: ArtifactRef | Path,
    base_model: BaseModelRef,
    *,
    adapter: ArtifactRef | Path | None,
    config: TrainingConfig,
    seed: int,
    store: Store,
) -> ArtifactRef:
    """Fine-tune an adapter on accepted answers.

    Args:
        sft_data: Artifact of `sample_answers`, or a Parquet or CSV file with its columns.
        base_model: Result of `prepare_base_model`.
        adapter: Adapter to continue from, as in `train_grpo`.
        config: Settings of the stages.
        seed: Seed of the stage.
        store: Store of the artifact.

    Returns:
        Artifact of the stage `sft` with `adapter/` and `metrics.jsonl`; its meta holds the summary and `seconds`.

    Raises:
        TrainingError: See `training.stages.run_sft`.
    """
    from tickerforge.training.stages import run_sft

    def build(folder: Path) -> Mapping[str, Scalar]:
        with progress_reporter() as report:
            result = run_sft(
                data,
                base_model=base_model.location,
                adapter=adapter_folder(adapter),
                config=config,
                out_dir=folder,
                seed=seed,
                on_progress=report,
            )
        return _meta(result)

    accepted = sft_data if isinstance(sft_data, ArtifactRef) else store_sft_data(sft_data, store=store)
    data = accepted.path / SFT_DATA_FILE
    inputs = stage_inputs(SFT, base_model, adapter, config) | {"sft_data": part_sha256(accepted, SFT_DATA_FILE)}
    return store.build(SFT.name, inputs, build, code=_code(), seed=seed, resumable=True)


def stage_inputs(
    stage: Stage, base_model: BaseModelRef, adapter: ArtifactRef | Path | None, config: TrainingConfig
) -> dict[str, Any]:
    """Return the inputs of a stage's artifact, except its data."""
    from tickerforge.training.backends import select

    return {
        "base_model": base_model.identity,
        "adapter": adapter_identity(adapter),
        "config": config.model_dump(mode="json", exclude=_WITHOUT_EFFECT | _STAGE_GROUPS.difference(stage.settings)),
        "max_tokens": config.sampling.max_tokens,
        "learning_rates": {
            each: config.learning_rate(each, warm=adapter is not None)
            for each in get_args(LearningStage)
            if each == stage.name
        },
        # Two processes round differently from one, and vLLM from transformers; the address of its server has no effect.
        "launch": [config.launch.processes, config.launch.vllm_server is not None],
        "backend": select(config.backend, model=config.model).backend.name,
    }


def _code() -> str:
    return code_version(*MODEL_MODULES, libraries=MODEL_LIBRARIES)


def _meta(result: StageResult) -> dict[str, Scalar]:
    return {**result.summary, "steps": result.steps, "seconds": round(result.seconds, 3)}
