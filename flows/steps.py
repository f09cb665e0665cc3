"""The stages of one configuration, called here by every flow, so that the same one finds the same artifacts."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evaluation.contracts import CHAMPION
from features.config import FeatureConfig
from flows.config import PipelineConfig, check_source
from tasks.adapters import AdapterCard, BaseModelRef, adapter_identity, base_model_identity, read_card
from tasks.environment import git_revision
from tasks.evaluate import compare_models, forecast_model
from tasks.market_data import FolderSource, MarketSource, SyntheticSource, fetch_bars
from tasks.preprocess import build_windows
from tasks.store import ArtifactRef, Store
from tasks.train import base_model_for, prepare_base_model, sample_answers, train_grpo, train_sft
from training.config import TrainingConfig
from training.errors import AdapterError, BackendUnavailable, BaseModelError

logger = logging.getLogger(__name__)

ADAPTER_STAGES = ("grpo_1st", "sft", "grpo_2nd")

Adapter = ArtifactRef | Path

# Added to the configured seed, so that no two stages draw the same random numbers.
_SEED_OFFSETS = {"grpo_1st": 0, "sft_data": 1, "sft": 2, "grpo_2nd": 3, "forecasts": 4}


def market_source(config: PipelineConfig) -> MarketSource:
    """Where the bars come from.

    Raises:
        ConfigError: If the stock has no prices.
    """
    check_source(config)
    return SyntheticSource(config=config.synthetic) if config.data is None else FolderSource(folder=config.data)


@dataclass(frozen=True)
class Steps:
    """Calls each stage's task with what the configuration says; to be used inside a flow."""

    config: PipelineConfig
    store: Store

    def bars(self) -> ArtifactRef:
        """Validated bars of the stock."""
        return fetch_bars(market_source(self.config), self.config.stock, store=self.store)

    def windows(self, bars: ArtifactRef) -> ArtifactRef:
        """Windows with features and splits."""
        return build_windows(bars, config=self.config.features, store=self.store)

    def base_model(self) -> BaseModelRef:
        """The base model, built where it is the tiny one."""
        return prepare_base_model(self.config.training, features=self.config.features, store=self.store)

    def grpo_1st(self, windows: ArtifactRef, base_model: BaseModelRef) -> ArtifactRef:
        """First GRPO, from a fresh adapter."""
        return train_grpo(
            windows,
            base_model,
            stage="grpo_1st",
            adapter=None,
            config=self.config.training,
            features=self.config.features,
            seed=self._seed("grpo_1st"),
            store=self.store,
        )

    def sft_data(self, windows: ArtifactRef, base_model: BaseModelRef, adapter: Adapter) -> ArtifactRef:
        """The best answers of the first adapter."""
        return sample_answers(
            windows,
            base_model,
            adapter=adapter,
            config=self.config.training,
            features=self.config.features,
            seed=self._seed("sft_data"),
            store=self.store,
        )

    def sft(self, sft_data: Adapter, base_model: BaseModelRef) -> ArtifactRef:
        """A fresh adapter, fine-tuned on those answers."""
        return train_sft(
            sft_data,
            base_model,
            adapter=None,
            config=self.config.training,
            seed=self._seed("sft"),
            store=self.store,
        )

    def grpo_2nd(self, windows: ArtifactRef, base_model: BaseModelRef, adapter: Adapter) -> ArtifactRef:
        """Second GRPO, going on from the fine-tuned adapter."""
        return train_grpo(
            windows,
            base_model,
            stage="grpo_2nd",
            adapter=adapter,
            config=self.config.training,
            features=self.config.features,
            seed=self._seed("grpo_2nd"),
            store=self.store,
        )

    def forecasts(
        self, windows: ArtifactRef, base_model: BaseModelRef, *, model: str, adapter: Adapter | None
    ) -> ArtifactRef:
        """One model's forecasts of the validation and test windows."""
        return forecast_model(
            windows,
            base_model,
            model=model,
            adapter=adapter,
            config=self.config.training,
            features=self.config.features,
            evaluation=self.config.evaluation,
            seed=self._seed("forecasts"),
            store=self.store,
        )

    def comparison(
        self,
        windows: ArtifactRef,
        base_model: BaseModelRef,
        adapters: Mapping[str, Adapter],
        *,
        champion: Path | None = None,
    ) -> ArtifactRef:
        """Forecasts of the base model and of every adapter, scored, judged and reported.

        The champion, given as its folder, stands beside them, unless it is the very adapter that validation chooses.
        """
        models: dict[str, Adapter | None] = {"base": None, **adapters}
        forecasts = {
            model: self.forecasts(windows, base_model, model=model, adapter=adapter)
            for model, adapter in models.items()
        }

        def compared(standing: ArtifactRef | None) -> ArtifactRef:
            return compare_models(
                windows,
                list(forecasts.values()),
                stages={stage: ref for stage, ref in adapters.items() if isinstance(ref, ArtifactRef)},
                champion=standing,
                evaluation=self.config.evaluation,
                gate=self.config.gate,
                store=self.store,
            )

        if champion is None:
            return compared(None)
        same = _stages_of(champion, adapters)
        if not same:
            return compared(self._champion_forecasts(windows, champion))
        alone = compared(None)
        return alone if alone.meta["chosen"] in same else compared(forecasts[same[0]])

    def _champion_forecasts(self, windows: ArtifactRef, folder: Path) -> ArtifactRef | None:
        """The champion asked for these windows in its own way, or `None`, said in the log, where it cannot be."""
        try:
            card = read_card(folder)
            if _window_settings(card.features) != _window_settings(self.config.features):
                logger.warning(
                    "the current champion of %s takes other windows than this run's (context, horizon, units, "
                    "volatility or indicators differ), so nothing here is compared with it",
                    self.config.stock,
                )
                return None
            location = base_model_for(card, folder, store=self.store)
            training = training_here(card.training, config=self.config.training)
            return forecast_model(
                windows,
                BaseModelRef(model=training.model, location=location, identity=base_model_identity(location)),
                model=CHAMPION,
                adapter=folder,
                config=training,
                features=card.features,
                evaluation=self.config.evaluation,
                seed=self._seed("forecasts"),
                store=self.store,
            )
        except (AdapterError, BackendUnavailable, BaseModelError) as error:
            logger.warning(
                "the current champion of %s cannot be used, so nothing here is compared with it: %s",
                self.config.stock,
                error,
            )
            return None

    def card(self, stage: str, *, windows: ArtifactRef, base_model: BaseModelRef) -> AdapterCard:
        """What must be known to use the adapter of a stage."""
        return AdapterCard(
            ticker=self.config.stock,
            stage=stage,
            base_model=base_model.location,
            base_model_identity=base_model.identity,
            features=self.config.features,
            training=self.config.training,
            seed=self.config.seed,
            windows_sha256=windows.sha256,
            git_revision=git_revision(),
        )

    def _seed(self, stage: str) -> int:
        return self.config.seed + _SEED_OFFSETS[stage]


def _stages_of(champion: Path, adapters: Mapping[str, Adapter]) -> list[str]:
    """The stages whose adapter has the champion's content; none where the champion cannot be read."""
    try:
        identity = adapter_identity(champion)
    except AdapterError:
        return []
    return [stage for stage, adapter in adapters.items() if adapter_identity(adapter) == identity]


def _window_settings(features: FeatureConfig) -> dict[str, object]:
    """What a model must have been trained with to understand the windows of a configuration."""
    return features.model_dump(exclude={"prompt_style", "train_fraction", "test_fraction"})


def training_here(recorded: TrainingConfig, *, config: TrainingConfig) -> TrainingConfig:
    """The settings recorded with an adapter, but with the user's own say on this machine and on foreign code."""
    own = ("backend", "gpu_memory_utilization", "trust_remote_code")
    return recorded.model_copy(update={name: getattr(config, name) for name in own})
