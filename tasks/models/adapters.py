"""Adapters and base models: references, identities in keys, and the card in an adapter's folder."""

import hashlib
import json
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from tickerforge.evaluation.core.recalibration import Recalibration
from tickerforge.features.atomic import write_atomically
from tickerforge.features.config import FeatureConfig, FrozenModel
from tickerforge.tasks.base.disk import combined_sha256, file_sha256
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.base.paths import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FOLDER,
    ADAPTER_WEIGHTS_FILE,
    BASE_MODEL_FOLDER,
    BASE_PATH_SETTING,
    CARD_FILE,
    MANIFEST_FILE,
)
from tickerforge.tasks.models.forecasting import KnownPrice
from tickerforge.tasks.store.artifacts import ArtifactRef, Store, code_version
from tickerforge.training.config import TrainingConfig
from tickerforge.training.errors import AdapterError

ADAPTER_FILES = (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE)
MODEL_SUFFIXES = frozenset({".json", ".jinja", ".txt", ".model", ".safetensors", ".bin"})
HASHED_BYTES = 64 * 1024 * 1024
_UNREADABLE_CURE = "Copy the folder again, or train the adapter again."


class BaseModelRef(FrozenModel):
    """A base model ready to load.

    `model` is the name that the user gave, `location` the Hugging Face name or folder to load, `identity` its content
    in artifact keys, `artifact` the artifact if TickerForge built it. `cached` is false only if this call built it.
    """

    model: str
    location: str
    identity: str
    artifact: ArtifactRef | None = None
    cached: bool = True

    def here(self, store: Store) -> "BaseModelRef":
        """Return the same base model in this store; fetch one that was built elsewhere.

        Raises:
            StoreError: If neither this store nor the shared one holds it.
        """
        if self.artifact is None:
            return self
        artifact = store.here(self.artifact)
        return self.model_copy(update={"artifact": artifact, "location": str(artifact.path)})


def base_model_identity(model: str) -> str:
    """Return the identity of a base model in artifact keys: its Hugging Face name, or the hash of a local folder.

    The hash covers configuration, tokenizer and small weights by content. It covers weights of more than 64 MB by
    name, size and time of change, because hashing tens of gigabytes would take longer than a stage.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return model
    hashes = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in MODEL_SUFFIXES and path.name != MANIFEST_FILE:
            status = path.stat()
            large = status.st_size > HASHED_BYTES
            hashes[path.name] = f"{status.st_size} bytes, {status.st_mtime_ns}" if large else file_sha256(path)
    return combined_sha256(hashes)


def adapter_folder(adapter: ArtifactRef | Path | None) -> Path | None:
    """Return the PEFT folder of an adapter that is given as an artifact or as a folder; `None` for no adapter.

    Raises:
        AdapterError: If the folder is not an adapter.
    """
    if adapter is None:
        return None
    folder = adapter.path / ADAPTER_FOLDER if isinstance(adapter, ArtifactRef) else adapter.expanduser()
    missing = [name for name in ADAPTER_FILES if not (folder / name).is_file()]
    if missing:
        raise AdapterError(
            f"{folder} is not an adapter folder: {' and '.join(missing)} missing. Give a PEFT folder such as "
            "models/{MODEL}/{STOCK}/grpo_lora_2nd."
        )
    return folder


def check_adapter(adapter: Path | None) -> None:
    """Read an adapter's configuration and the header of its weights, so that a broken folder fails early.

    Raises:
        AdapterError: If the folder is not an adapter, or one of its files cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    folder = adapter_folder(adapter)
    if folder is None:
        return
    _adapter_settings(folder)
    weights = folder / ADAPTER_WEIGHTS_FILE
    try:
        with safe_open(weights, framework="numpy") as tensors:
            names = list(tensors.keys())
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{weights} cannot be read as weights ({error}). {_UNREADABLE_CURE}") from error
    if not names:
        raise AdapterError(f"{weights} holds no weights. {_UNREADABLE_CURE}")


def _adapter_settings(folder: Path) -> dict[str, Any]:
    path = folder / ADAPTER_CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(
            f"{path} cannot be read as an adapter's configuration ({error}). {_UNREADABLE_CURE}"
        ) from error
    if not isinstance(config, dict):
        raise AdapterError(
            f"{path} cannot be read as an adapter's configuration: it is not a JSON object. {_UNREADABLE_CURE}"
        )
    return config


def adapter_identity(adapter: ArtifactRef | Path | None) -> str | None:
    """Return the identity of an adapter in artifact keys: a hash of its weights and configuration.

    The path of the base model does not count: it differs between machines, and keys hold the identity of the base
    model.

    Raises:
        AdapterError: If a folder is not an adapter.
    """
    folder = adapter_folder(adapter)
    if folder is None:
        return None
    settings = {name: value for name, value in _adapter_settings(folder).items() if name != BASE_PATH_SETTING}
    content = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    weights = folder / ADAPTER_WEIGHTS_FILE
    return combined_sha256({ADAPTER_CONFIG_FILE: content, ADAPTER_WEIGHTS_FILE: file_sha256(weights)})


def prompt_version() -> str:
    """Return the version of the code that writes prompts and reads answers."""
    return code_version("tickerforge.features.prompts", "tickerforge.features.units")


class PrimeRecord(FrozenModel):
    """What priming did: shares of valid answers before and after, and the CRPS after, per free random walk's."""

    valid_before: float
    valid_after: float
    crps: float | None = None

    @property
    def summary(self) -> str:
        """One line such as `valid 0 % → 97 %, CRPS against the free random walk 1.01`."""
        crps = "" if self.crps is None else f", CRPS against the free random walk {self.crps:.2f}"
        return f"valid {self.valid_before:.0%} → {self.valid_after:.0%}{crps}".replace("%", " %")


class AdapterCard(FrozenModel):
    """How an adapter was trained and how to ask it; stored as `tickerforge.json` in its folder.

    `prompt_code` is the version of the code that wrote its training prompts. `trained_until` is the last session of
    its training targets, `known_price` the last price when it was registered; older cards have neither. `prime` says
    what priming did to the base model, if it was primed. `recalibration` changes its answers;
    older cards have none.
    """

    ticker: str
    stage: str
    base_model: str
    base_model_identity: str
    features: FeatureConfig
    training: TrainingConfig
    seed: int
    windows_sha256: str
    git_revision: str
    trained_until: date | None = None
    known_price: KnownPrice | None = None
    prime: PrimeRecord | None = None
    recalibration: Recalibration = Recalibration()
    prompt_code: str = Field(default_factory=prompt_version)

    @model_validator(mode="before")
    @classmethod
    def _without_factors_of_older_cards(cls, card: Any) -> Any:
        return {name: each for name, each in card.items() if name != "factors"} if isinstance(card, dict) else card

    @field_validator("features")
    @classmethod
    def _a_list_if_it_says_nothing(cls, features: FeatureConfig) -> FeatureConfig:
        return features.model_copy(update={"answer_style": features.answer_style or "list"})

    def base_model_location(self, folder: Path) -> str:
        """Return the base model to load: the one in the adapter's folder, else the recorded name or path."""
        inside = folder / BASE_MODEL_FOLDER
        return str(inside) if inside.is_dir() else self.base_model


def write_card(folder: Path, card: AdapterCard) -> None:
    """Write the card into an adapter's folder; a card that is there is replaced in one step."""
    write_atomically(folder / CARD_FILE, (card.model_dump_json(indent=2) + "\n").encode())


def read_card(folder: Path) -> AdapterCard:
    """Read the card in an adapter's folder.

    Raises:
        AdapterError: If there is none, or if another version of TickerForge wrote it.
    """
    path = folder / CARD_FILE
    try:
        card = AdapterCard.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise AdapterError(
            f"{folder} holds no {CARD_FILE}, so the base model and the prompts of the adapter are unknown. Use a "
            "folder that `tickerforge run` or `tickerforge pull` wrote."
        ) from error
    except ValidationError as error:
        raise AdapterError(
            f"{path} cannot be read; another version of TickerForge may have written it: {error}"
        ) from error
    if card.prompt_code != prompt_version():
        run_logger(__name__).warning(
            "the adapter %s was trained with prompts of another version of TickerForge and may not understand those of "
            "this version: train %s again, or use the version %s",
            folder,
            card.ticker,
            card.git_revision,
        )
    return card
