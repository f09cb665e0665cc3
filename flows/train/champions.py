"""The current champion of a stock, with which challengers are compared, and the adapter that training starts from."""

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
    """Return the stock's champion by its version number, which cannot move like an alias; `None` if there is none.

    Raises:
        TrackingError: If MLflow does not answer: a challenger must not be promoted without a look at the champion.
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
    """Return the registered adapter that the first stage starts from, or `None` for a fresh one.

    With `warm_start="champion"` the candidates are the champion, then the pooled adapter; with `"pooled"` only the
    latter. The pooled adapter is the champion of `ALL`, else its challenger. The first candidate that fits is taken.

    An adapter fits if it has the same base model and LoRA rank, uses the same windows and prompts, and was trained on
    nothing later than this run's train split. If the champion was trained on exactly these windows, this same run
    made it: the run then starts from the champion before it, as it did the first time.
    """
    for adapter in _candidates(config, windows=windows):
        try:
            card = read_card(fetch_adapter(adapter))
        except (TrackingError, AdapterError) as error:
            logger.warning("training does not start from %s, which is not available: %s", adapter, error)
            continue
        if different := _differences(card, config, windows=windows, base_model=base_model):
            logger.info("training does not start from %s, which has another %s", adapter, " and ".join(different))
            continue
        logger.info("training starts from %s", adapter)
        return adapter
    if config.warm_start != "none":
        logger.info("no registered adapter fits this run of %s: training starts from a fresh one", config.stock)
    return None


def _candidates(config: PipelineConfig, *, windows: ArtifactRef) -> Iterator[RegisteredAdapter]:
    """Yield the adapters that training may start from, the preferred one first; skip those that are not available."""
    if config.warm_start == "champion":
        try:
            if (champion := _champion_before_this_run(config.stock, windows=windows)) is not None:
                yield champion
        except (TrackingError, AdapterError) as error:
            logger.warning("training cannot start from the champion of %s: %s", config.stock, error)
        if config.stock == POOL:
            return
    if config.warm_start != "none":
        found = (pooled_adapter(alias) for alias in (CHAMPION, CHALLENGER))
        yield from dict.fromkeys(adapter for adapter in found if adapter is not None)


def pooled_adapter(alias: str) -> RegisteredAdapter | None:
    """Return the adapter of all tickers under an alias, by its version number; `None` if it is not available."""
    try:
        return _registered(POOL, alias)
    except TrackingError as error:
        logger.warning("training cannot start from the adapter %s@%s: %s", POOL, alias, error)
        return None


def _champion_before_this_run(stock: str, *, windows: ArtifactRef) -> RegisteredAdapter | None:
    champion = current_champion(stock)
    if champion is None or read_card(fetch_adapter(champion)).windows_sha256 != windows.sha256:
        return champion
    return _champion_before(champion)


def _differences(
    card: AdapterCard, config: PipelineConfig, *, windows: ArtifactRef, base_model: BaseModelRef | None
) -> list[str]:
    """Return why an adapter does not fit; each reason completes the phrase "has another"."""
    border = train_end(windows)
    alike = {
        "base model": _same_base_model(card, config, base_model),
        "LoRA rank": card.training.lora_rank == config.training.lora_rank,
        "kind of windows": takes_same_windows(card, config),
        "kind of prompts": card.features.prompt_style == config.features.prompt_style,
        "style of answers": card.features.answer_style == config.prompts.answer_style,
        "end of training, later than this run's": bool(card.trained_until and border and card.trained_until <= border),
    }
    return [name for name, same in alike.items() if not same]


def _same_base_model(card: AdapterCard, config: PipelineConfig, base_model: BaseModelRef | None) -> bool:
    """Compare by content if the base model has been built or downloaded, else by name and settings."""
    if base_model is not None:
        return card.base_model_identity == base_model.identity
    return card.training.model == config.training.model and card.training.tiny == config.training.tiny


def _champion_before(champion: RegisteredAdapter) -> RegisteredAdapter | None:
    found = find_version(connect(Workspace.current()), champion.name, alias=str(champion.version))
    former = found.tags.get(FORMER_CHAMPION, "")
    return RegisteredAdapter(ticker=champion.ticker, version=int(former)) if former.isdigit() else None
