"""The current champion of a stock, which its challengers are compared with, and where their training may start."""

import logging
from collections.abc import Iterator

from tickerforge.features.pooling import POOL
from tickerforge.flows.remote.here import fetch_adapter
from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.flows.train.steps import takes_same_windows
from tickerforge.tasks.base.errors import NotRegistered, TrackingError
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.models.adapters import AdapterCard, BaseModelRef, read_card
from tickerforge.tasks.registry.promotion import FORMER_CHAMPION
from tickerforge.tasks.registry.registration import CHALLENGER, CHAMPION, find_version
from tickerforge.tasks.registry.versions import RegisteredAdapter
from tickerforge.tasks.store.artifacts import ArtifactRef
from tickerforge.tasks.tracking.stage_runs import connect
from tickerforge.tasks.windows.preprocess import train_end
from tickerforge.training.errors import AdapterError

logger = logging.getLogger(__name__)


def current_champion(stock: str) -> RegisteredAdapter | None:
    """The stock's champion by its version number, so that everybody means the same; `None` where there is none.

    Raises:
        TrackingError: If MLflow does not answer: a challenger must not pass by a champion that nobody saw.
    """
    return _registered(stock, CHAMPION)


def _registered(stock: str, alias: str) -> RegisteredAdapter | None:
    try:
        return RegisteredAdapter.find(connect(Workspace.current()), stock, alias=alias)
    except NotRegistered:
        return None


def warm_start(
    config: PipelineConfig, *, windows: ArtifactRef, base_model: BaseModelRef | None = None
) -> RegisteredAdapter | None:
    """Where the first stage starts: from the first registered adapter that the configuration asks for and that fits.

    With `warm_start="champion"` that is the champion, else the pooled adapter; with `"pooled"` only the latter. The
    pooled adapter is the champion of `ALL`, else its challenger.

    An adapter fits that has the same base model and rank, takes the same windows and prompts, and was trained on
    nothing later than this run's train split. A champion that was trained on these very windows came of this very run,
    which then starts where it started before: from the champion before it.
    """
    for adapter in _candidates(config, windows=windows):
        try:
            card = read_card(fetch_adapter(adapter))
        except (TrackingError, AdapterError) as error:
            logger.warning("training does not start from %s, which cannot be had: %s", adapter, error)
            continue
        if different := _differences(card, config, windows=windows, base_model=base_model):
            logger.info("training does not start from %s, which has another %s", adapter, " and ".join(different))
            continue
        logger.info("training starts from %s", adapter)
        return adapter
    if config.warm_start != "none":
        logger.info("%s has no adapter to start from that fits: training starts from a fresh one", config.stock)
    return None


def _candidates(config: PipelineConfig, *, windows: ArtifactRef) -> Iterator[RegisteredAdapter]:
    """The adapters that training may start from, the preferred one first; those that cannot be had are passed over."""
    if config.warm_start == "champion":
        try:
            if (champion := _champion_before_this_run(config.stock, windows=windows)) is not None:
                yield champion
        except (TrackingError, AdapterError) as error:
            logger.warning("no champion of %s can be had to start from: %s", config.stock, error)
        if config.stock == POOL:
            return
    if config.warm_start != "none":
        found = (pooled_adapter(alias) for alias in (CHAMPION, CHALLENGER))
        yield from dict.fromkeys(adapter for adapter in found if adapter is not None)


def pooled_adapter(alias: str) -> RegisteredAdapter | None:
    """The adapter of all tickers under an alias, by its version number; `None` where none can be had."""
    try:
        return _registered(POOL, alias)
    except TrackingError as error:
        logger.warning("no adapter %s@%s can be had to start from: %s", POOL, alias, error)
        return None


def _champion_before_this_run(stock: str, *, windows: ArtifactRef) -> RegisteredAdapter | None:
    champion = current_champion(stock)
    if champion is None or read_card(fetch_adapter(champion)).windows_sha256 != windows.sha256:
        return champion
    return _champion_before(champion)


def _differences(
    card: AdapterCard, config: PipelineConfig, *, windows: ArtifactRef, base_model: BaseModelRef | None
) -> list[str]:
    """Why an adapter does not fit, each to be read after "has another"."""
    border = train_end(windows)
    alike = {
        "base model": _same_base_model(card, config, base_model),
        "LoRA rank": card.training.lora_rank == config.training.lora_rank,
        "kind of windows": takes_same_windows(card, config),
        "kind of prompts": card.features.prompt_style == config.features.prompt_style,
        "end of training, later than this run's": bool(card.trained_until and border and card.trained_until <= border),
    }
    return [name for name, same in alike.items() if not same]


def _same_base_model(card: AdapterCard, config: PipelineConfig, base_model: BaseModelRef | None) -> bool:
    """By content where the base model is there already, else by name and settings."""
    if base_model is not None:
        return card.base_model_identity == base_model.identity
    return card.training.model == config.training.model and card.training.tiny == config.training.tiny


def _champion_before(champion: RegisteredAdapter) -> RegisteredAdapter | None:
    found = find_version(connect(Workspace.current()), champion.name, alias=str(champion.version))
    former = found.tags.get(FORMER_CHAMPION, "")
    return RegisteredAdapter(ticker=champion.ticker, version=int(former)) if former.isdigit() else None
