"""The current champion of a stock: what a challenger is compared with, and where its training may start."""

import logging

from flows.config import PipelineConfig
from flows.heavy_stages import fetch_adapter
from flows.stage_requests import RegisteredAdapter
from flows.steps import takes_same_windows
from tasks.adapters import AdapterCard, BaseModelRef, read_card
from tasks.errors import NotRegistered, TrackingError
from tasks.paths import Workspace
from tasks.preprocess import train_end
from tasks.promotion import FORMER_CHAMPION
from tasks.registry import CHAMPION, find_version, model_name
from tasks.store import ArtifactRef
from tasks.tracking import connect
from training.errors import AdapterError

logger = logging.getLogger(__name__)


def current_champion(stock: str) -> RegisteredAdapter | None:
    """The stock's champion by its version number, so that everybody means the same; `None` where there is none.

    Raises:
        TrackingError: If MLflow does not answer: a challenger must not pass by a champion that nobody saw.
    """
    try:
        found = find_version(connect(Workspace.current()), model_name(stock), alias=CHAMPION)
    except NotRegistered:
        return None
    return RegisteredAdapter(spec=f"{stock}@{found.version}")


def warm_start(
    config: PipelineConfig, *, windows: ArtifactRef, base_model: BaseModelRef | None = None
) -> RegisteredAdapter | None:
    """Where the first stage starts: the champion where the configuration asks for it and it fits, else nowhere.

    A champion fits that has the same base model and rank, takes the same windows and prompts, and was trained on
    nothing later than this run's train split. One that was trained on these very windows came of this very run, which
    then starts where it started before: from the champion before it.
    """
    if config.warm_start != "champion":
        return None
    try:
        champion = current_champion(config.stock)
        card = _card(champion)
        if champion is not None and card is not None and card.windows_sha256 == windows.sha256:
            champion = _champion_before(champion)
            card = _card(champion)
    except (TrackingError, AdapterError) as error:
        logger.warning("no champion of %s can be had, so training starts from a fresh adapter: %s", config.stock, error)
        return None
    if champion is None or card is None:
        logger.info("%s has no champion to start from: training starts from a fresh adapter", config.stock)
        return None
    border = train_end(windows)
    alike = {
        "base model": _same_base_model(card, config, base_model),
        "LoRA rank": card.training.lora_rank == config.training.lora_rank,
        "kind of windows": takes_same_windows(card, config),
        "kind of prompts": card.features.prompt_style == config.features.prompt_style,
        "end of training, later than this run's": bool(card.trained_until and border and card.trained_until <= border),
    }
    if different := [name for name, same in alike.items() if not same]:
        logger.info(
            "the champion %s has another %s: training starts from a fresh adapter",
            champion.spec,
            " and ".join(different),
        )
        return None
    logger.info("training starts from the champion %s", champion.spec)
    return champion


def _same_base_model(card: AdapterCard, config: PipelineConfig, base_model: BaseModelRef | None) -> bool:
    """By content where the base model is there already, else by name and settings."""
    if base_model is not None:
        return card.base_model_identity == base_model.identity
    return card.training.model == config.training.model and card.training.tiny == config.training.tiny


def _card(champion: RegisteredAdapter | None) -> AdapterCard | None:
    return read_card(fetch_adapter(champion)) if champion is not None else None


def _champion_before(champion: RegisteredAdapter) -> RegisteredAdapter | None:
    stock, version = champion.spec.split("@")
    found = find_version(connect(Workspace.current()), model_name(stock), alias=version)
    former = found.tags.get(FORMER_CHAMPION, "")
    return RegisteredAdapter(spec=f"{stock}@{former}") if former.isdigit() else None
