"""An adapter as an MLflow model: its folder with card and base model, code, signature, example and requirements."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any

import pandas as pd

from tickerforge.features.pooling import POOL
from tickerforge.tasks.base.disk import copy_tree
from tickerforge.tasks.base.paths import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FOLDER,
    BASE_MODEL_FOLDER,
    CARD_FILE,
    MANIFEST_FILE,
    METRICS_FILE,
    MODEL_CARD_FILE,
)
from tickerforge.tasks.models.adapters import ADAPTER_FILES, AdapterCard, write_card
from tickerforge.tasks.models.forecasting import known_price
from tickerforge.tasks.registry.integrity import CHECKSUMS_TAG, named_base_model, write_checksums
from tickerforge.tasks.registry.model_code import write_model_code
from tickerforge.tasks.registry.shared_base import BASE_MODEL_FILES, keep_base_model
from tickerforge.tasks.store.artifacts import ArtifactRef, Store, installed_version
from tickerforge.tasks.tracking.client import Tracking
from tickerforge.training.config import SMOLLM2
from tickerforge.training.errors import AdapterError

MODEL_NAME = "model"
RECORDS = frozenset({MANIFEST_FILE, METRICS_FILE, MODEL_CARD_FILE})
EXAMPLE_SESSIONS = 120
REQUIREMENTS = (
    "mlflow",
    "numpy",
    "pandas",
    "pydantic",
    "ta-lib",
    "torch",
    "transformers",
    "peft",
    "exchange-calendars",
)

# File types of a pulled adapter: none is code, or runs code when it is read.
PULLED_SUFFIXES = frozenset({".json", ".safetensors", ".jinja", ".txt", ".model", ".md"})

VLLM_RANKS = (8, 16, 32, 64, 128, 256)


def log_adapter(
    tracking: Tracking, run_id: str, adapter: ArtifactRef, *, card: AdapterCard, bars: pd.DataFrame
) -> tuple[Any, dict[str, str]]:
    """Log an adapter as a pyfunc model of an open MLflow run, and close that run.

    Args:
        tracking: From `tasks.tracking.client.connect`, which also sets MLflow's own tracking address.
        run_id: The run.
        adapter: Artifact of the stage that trained it.
        card: How it must be asked.
        bars: The latest sessions become the input example, and the last price that of the card.

    Returns:
        MLflow's record of the logged model, and the version's tags with which its files are found and verified.
    """
    with tempfile.TemporaryDirectory(prefix="tickerforge-") as staging, _without_its_warnings():
        import mlflow.pyfunc

        if card.ticker != POOL:
            card = card.model_copy(update={"known_price": known_price(bars)})
        artifacts = stage_artifacts(adapter, Path(staging), card=card)
        main, package = write_model_code(Path(staging))
        tags = {CHECKSUMS_TAG: write_checksums(Path(staging))}
        settings = {"ticker": card.ticker, "base_model": card.training.model, "stage": card.stage}
        if base_model := artifacts.pop(BASE_MODEL_FOLDER, None):
            tags[BASE_MODEL_FILES] = settings[BASE_MODEL_FILES] = keep_base_model(tracking, base_model)
        with mlflow.start_run(run_id=run_id):
            logged = mlflow.pyfunc.log_model(
                name=MODEL_NAME,
                python_model=str(main),
                code_paths=[str(package)],
                artifacts={name: str(folder) for name, folder in artifacts.items()},
                model_config=settings,
                signature=signature(),
                input_example=bars.tail(EXAMPLE_SESSIONS).reset_index(drop=True),
                pip_requirements=requirements(card),
            )
            return logged, tags


@contextmanager
def _without_its_warnings() -> Iterator[None]:
    """Silence MLflow's warnings about its own type hints and its own use of pandas."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType", category=UserWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def stage_artifacts(adapter: ArtifactRef, folder: Path, *, card: AdapterCard) -> dict[str, Path]:
    """Lay out the folders of the model: `adapter` with its card and, if the base was built here, `base_model`.

    A base model that others can get is only named: it is fetched when the adapter is loaded.
    """
    staged = {ADAPTER_FOLDER: folder / ADAPTER_FOLDER}
    copy_tree(adapter.path / ADAPTER_FOLDER, staged[ADAPTER_FOLDER], leave_out=frozenset({MODEL_CARD_FILE}))
    if is_built_here(card):
        staged[BASE_MODEL_FOLDER] = folder / BASE_MODEL_FOLDER
        copy_tree(
            Path(card.base_model),
            staged[BASE_MODEL_FOLDER],
            leave_out=RECORDS,
        )
        card = card.model_copy(update={"base_model": BASE_MODEL_FOLDER})
        name_base_model(staged[ADAPTER_FOLDER], f"../{BASE_MODEL_FOLDER}")
    elif card.training.model == SMOLLM2:
        # Its folder is another one on every machine, which makes it from the wheel.
        card = card.model_copy(update={"base_model": SMOLLM2})
        name_base_model(staged[ADAPTER_FOLDER], SMOLLM2)
    write_card(staged[ADAPTER_FOLDER], card)
    return staged


def is_built_here(card: AdapterCard) -> bool:
    """Return whether the base model is the tiny one, which exists nowhere else and is small enough for MLflow."""
    return card.training.model == "tiny"


def name_base_model(adapter: Path, location: str) -> None:
    """Write the place of the base model into a PEFT folder."""
    path = adapter / ADAPTER_CONFIG_FILE
    path.write_text(named_base_model(path.read_text(encoding="utf-8"), location), encoding="utf-8")


def signature() -> Any:
    """Return the model's signature: the sessions that come out, and what to do with jumps in the prices.

    MLflow would refuse every frame whose columns are not named exactly as in a signature. So the bars that go in are
    described by the input example, and checked by the rules of `features.prices.bars.validate_frame`.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    bounds = [ColSpec(DataType.double, name) for name in ("median", "lower", "upper")]
    guessed = ColSpec(DataType.boolean, "provisional")
    counts = [ColSpec(DataType.long, name) for name in ("answers", "valid")]
    return ModelSignature(
        outputs=Schema([ColSpec(DataType.datetime, "date"), *bounds, guessed, *counts]),
        params=ParamSchema([ParamSpec("jumps", DataType.string, "refuse")]),
    )


def requirements(card: AdapterCard) -> list[str]:
    """Return the packages that the model needs, in the installed versions without local labels such as `+cpu`."""
    needed = (*REQUIREMENTS, "gguf") if card.training.model == SMOLLM2 else REQUIREMENTS
    versions = {name: installed_version(name) for name in needed}
    return [f"{name}=={version.split('+')[0]}" for name, version in versions.items() if version]


def unpack(downloaded: Path, folder: Path, *, final: Path, source: str) -> None:
    """Turn a model's downloaded artifacts into a folder for PEFT: weights and card at its top, base model beside them.

    Args:
        downloaded: Holds `adapter` and perhaps `base_model`.
        folder: New folder to fill.
        final: The folder's final name.
        source: The registry's name of the version, for the README.

    Raises:
        AdapterError: If one of the files could be code.
    """
    _refuse_code(downloaded, source=source)
    copy_tree(downloaded / ADAPTER_FOLDER, folder)
    card = AdapterCard.model_validate_json((folder / CARD_FILE).read_bytes())
    base = card.base_model
    if (downloaded / BASE_MODEL_FOLDER).is_dir():
        copy_tree(downloaded / BASE_MODEL_FOLDER, folder / BASE_MODEL_FOLDER)
        base = str(final / BASE_MODEL_FOLDER)
        name_base_model(folder, base)
    elif base == SMOLLM2:
        from tickerforge.tasks.models.base_models import store_smollm2

        base = str(store_smollm2(Store.current()).path)
    (folder / MODEL_CARD_FILE).write_text(_readme(card, final=final, base=base, source=source), encoding="utf-8")


def _refuse_code(downloaded: Path, *, source: str) -> None:
    files = [path for path in sorted(downloaded.rglob("*")) if path.is_symlink() or not path.is_dir()]
    foreign = [path for path in files if path.is_symlink() or path.suffix not in PULLED_SUFFIXES]
    if foreign:
        raise AdapterError(
            f"{source} holds {', '.join(str(path.relative_to(downloaded)) for path in foreign[:5])}: TickerForge "
            "registers only weights as safetensors and settings as text, and accepts nothing else from a registry. "
            "Find out who registered it, and register the adapter again."
        )


def _readme(card: AdapterCard, *, final: Path, base: str, source: str) -> str:
    folder = quote(str(final))
    stock, whose = ("TICKER", "any ticker like its pool's") if card.ticker == POOL else (card.ticker, card.ticker)
    rank = next(size for size in VLLM_RANKS if size >= card.training.lora_rank)
    primed = f" (primed: {card.prime.summary})" if card.prime else ""
    return f"""# {card.ticker}: a TickerForge adapter

LoRA adapter in PEFT format ({", ".join(ADAPTER_FILES)}) of the stage `{card.stage}`, from `{source}`.
It forecasts the next {card.features.horizon} daily closes of {whose}. `{CARD_FILE}` says how it must be asked.

Base model: `{base}`{primed}

The next sessions from a folder of prices:

    tickerforge forecast --stock {quote(stock)} --data FOLDER --adapter {folder}

With PEFT:

    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{final}")

With vLLM:

    vllm serve {quote(base)} --generation-config vllm \\
      --enable-lora --max-lora-rank {rank} --lora-modules {quote(card.ticker)}={folder}
"""
