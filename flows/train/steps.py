"""All stages of one configuration, called in this one place, so that every flow finds the same artifacts."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tickerforge.evaluation.core.contracts import CURRENT_CHAMPION, POOLED
from tickerforge.evaluation.core.recalibration import Recalibration
from tickerforge.features.pooling import POOL
from tickerforge.features.stages import (
    ADAPTERS,
    BASE_MODEL,
    FORECASTS,
    LAST_STAGE,
    PRIME,
    SFT,
    SFT_DATA,
    TRAINING_STAGES,
    AdapterStage,
    Stage,
)
from tickerforge.flows.errors import StageRefused
from tickerforge.flows.prices.pool import RunData, pooled_data
from tickerforge.flows.remote.here import Here, fetch_adapter, stage_seed
from tickerforge.flows.remote.requests import Adapter, HeavyStages, StageOutput, StageRequest
from tickerforge.flows.settings.config import PipelineConfig, check_source, evaluation_of
from tickerforge.tasks.base.environment import git_revision
from tickerforge.tasks.models.adapters import AdapterCard, BaseModelRef, adapter_identity, read_card
from tickerforge.tasks.models.prime import prime_record
from tickerforge.tasks.outputs.evaluate import compare_models
from tickerforge.tasks.prices.freshness import LONG_AGO, stale_end
from tickerforge.tasks.prices.market_data import FolderSource, MarketSource, SyntheticSource, fetch_bars
from tickerforge.tasks.prices.sessions import calendar_of
from tickerforge.tasks.registry.versions import RegisteredAdapter
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.windows.preprocess import read_bars, store_windows, train_end
from tickerforge.training.config import TrainingConfig
from tickerforge.training.errors import AdapterError, BackendUnavailable, BaseModelError

logger = logging.getLogger(__name__)


def adapters_of(stages: Mapping[str, ArtifactRef]) -> dict[str, ArtifactRef]:
    """Return the adapters among the artifacts of `Steps.trained`, by stage."""
    return {stage: stages[stage] for stage in ADAPTERS if stage in stages}


def market_source(config: PipelineConfig) -> MarketSource:
    """Return the source of the bars.

    Raises:
        ConfigError: If the stock has no prices.
    """
    check_source(config)
    return SyntheticSource(config=config.synthetic) if config.data is None else FolderSource(folder=config.data)


@dataclass(frozen=True)
class Steps:
    """Calls of each stage with the settings of one configuration; for use inside a flow.

    `heavy` runs the heavy stages; without it they run in this process.
    """

    config: PipelineConfig
    store: Store
    heavy: HeavyStages | None = None
    _primed: dict[str, ArtifactRef | None] = field(default_factory=dict, init=False, compare=False, repr=False)

    def data(self) -> RunData:
        """Return bars and windows of the stock, or of all tickers as one pool."""
        if self.config.stock == POOL:
            return pooled_data(self.config, store=self.store)
        bars = self.bars()
        if self.config.data is not None and (problem := self._stale_end(bars)):
            logger.warning("%s", problem)
        return RunData(bars=bars, windows=self.windows(bars))

    def _stale_end(self, bars: ArtifactRef) -> str:
        """Say if the prices end long ago, in the future, or with a session that has not closed."""
        stock, dates = self.config.stock, read_bars(bars)["date"]
        calendar = calendar_of(stock, dates, exchange=self.config.quality.exchange)
        return stale_end(dates.iloc[-1].date(), datetime.now(UTC), ticker=stock, calendar=calendar, tolerance=LONG_AGO)

    def bars(self) -> ArtifactRef:
        """Return the validated bars of the stock."""
        config = self.config
        return fetch_bars(
            market_source(config), config.stock, store=self.store, quality=config.quality, now=datetime.now(UTC)
        )

    def windows(self, bars: ArtifactRef) -> ArtifactRef:
        """Return windows with features and splits."""
        return store_windows(bars, config=self.config.features, store=self.store)

    def base_model(self) -> BaseModelRef:
        """Return the base model; build it if it is the tiny one."""
        (result,) = self.runner.run([self.request(BASE_MODEL)])
        if not isinstance(result, BaseModelRef):
            raise TypeError(f"the stage {BASE_MODEL.name} made {type(result).__name__}")
        return result

    def prime(self, base_model: BaseModelRef) -> ArtifactRef | None:
        """Return the adapter that knows the format of answers; `None` if the base model itself knows it."""
        if not self.config.training.prime.min_valid_rate:
            return None
        # Training, forecasts and every card need it, and each request may be a run on the pool.
        if base_model.identity not in self._primed:
            (result,) = self.runner.run([self.request(PRIME, base_model=base_model)])
            artifact = as_artifact(result)
            self._primed[base_model.identity] = artifact if artifact.meta["primed"] else None
        return self._primed[base_model.identity]

    @property
    def runner(self) -> HeavyStages:
        """The runner of heavy stages."""
        return self.heavy or Here(self.store)

    def request(self, stage: Stage, **inputs: Any) -> StageRequest:
        """Describe one heavy stage of this configuration; `inputs` are fields of `StageRequest`."""
        return StageRequest.model_validate({"stage": stage.name, "config": self.config, **inputs})

    def training_request(
        self,
        stage: Stage,
        windows: ArtifactRef,
        base_model: BaseModelRef,
        *,
        adapter: Adapter | None,
        answers: ArtifactRef | Path | None = None,
    ) -> StageRequest:
        """Describe one training stage; SFT learns from `answers`, every other stage from `windows`."""
        learns_from = {"answers": answers} if stage is SFT else {"windows": windows}
        return self.request(stage, base_model=base_model, adapter=adapter, **learns_from)

    def trained(
        self,
        windows: ArtifactRef,
        base_model: BaseModelRef,
        *,
        start: RegisteredAdapter | None = None,
        on_stage: Callable[[str, ArtifactRef], None] = lambda stage, artifact: None,
        until: AdapterStage = LAST_STAGE,
    ) -> dict[str, ArtifactRef]:
        """Run the training stages in order.

        Args:
            windows: From `windows`.
            base_model: From `base_model`.
            start: Adapter from which the first stage and the fine-tuning continue; `None` starts from the primed base
                model, or from fresh adapters if it needs no priming.
            on_stage: Called with the name and the artifact of each finished stage.
            until: The last stage.

        Returns:
            Artifacts of `TRAINING_STAGES` by name, up to and including `until`.
        """
        made: dict[str, ArtifactRef] = {}
        first: Adapter | None = start
        if first is None and (first := self.prime(base_model)) is not None:
            on_stage(PRIME.name, first)
        for stage in TRAINING_STAGES:
            adapter = made[stage.reads[0]] if stage.reads else first
            answers = made.get(SFT_DATA.name)
            request = self.training_request(stage, windows, base_model, adapter=adapter, answers=answers)
            (result,) = self.runner.run([request])
            made[stage.name] = as_artifact(result)
            on_stage(stage.name, made[stage.name])
            if stage.name == until:
                break
        return made

    def forecasts(
        self, windows: ArtifactRef, base_model: BaseModelRef | None, *, model: str, adapter: Adapter | None
    ) -> ArtifactRef:
        """Ask one model for its forecasts of the validation and test windows.

        Without `base_model`, the card of the adapter names it.
        """
        request = self.request(FORECASTS, windows=windows, base_model=base_model, adapter=adapter, model=model)
        (result,) = self.runner.run([request])
        return as_artifact(result)

    def forecasts_of_all(
        self,
        windows: ArtifactRef,
        base_model: BaseModelRef,
        adapters: Mapping[str, Adapter],
        *,
        start: RegisteredAdapter | None = None,
    ) -> dict[str, ArtifactRef]:
        """Return forecasts of the base model, every adapter and the pooled adapter that training started from.

        A base model that needs priming is asked with its primed adapter.
        """
        pooled = {POOLED: start} if start is not None and start.is_pooled and self.config.stock != POOL else {}
        requests = [
            self.request(FORECASTS, windows=windows, base_model=base_model, adapter=adapter, model=model)
            for model, adapter in {"base": self.prime(base_model), **pooled, **adapters}.items()
        ]
        results = self.runner.run(requests)
        return {request.model: as_artifact(result) for request, result in zip(requests, results, strict=True)}

    def comparison(
        self,
        windows: ArtifactRef,
        base_model: BaseModelRef,
        adapters: Mapping[str, ArtifactRef | Path],
        *,
        bars: Sequence[ArtifactRef] = (),
        start: RegisteredAdapter | None = None,
        champion: RegisteredAdapter | Path | None = None,
        command: str = "",
    ) -> ArtifactRef:
        """Score, judge and report the forecasts of the base model and of every adapter.

        The pooled adapter that training started from is compared too, and the champion, unless validation chooses
        exactly that adapter. The backtest needs the bars of all tickers of the windows. `command` repeats the run;
        the report shows it.
        """
        forecasts = self.forecasts_of_all(windows, base_model, adapters, start=start)

        def compared(standing: ArtifactRef | None) -> ArtifactRef:
            asked = {POOLED: start if POOLED in forecasts else None, CURRENT_CHAMPION: champion if standing else None}
            return compare_models(
                windows,
                [self.store.here(each) for each in forecasts.values()],
                stages={stage: self.store.here(ref) for stage, ref in adapters.items() if isinstance(ref, ArtifactRef)},
                bars=[self.store.here(each) for each in bars],
                champion=standing and self.store.here(standing),
                features=self.config.features,
                evaluation=evaluation_of(self.config),
                gate=self.config.gate,
                store=self.store,
                quality=None if self.config.data is None else self.config.quality,
                command=command,
                given={
                    name: known for name, each in asked.items() if (known := _stored_recalibration(each)) is not None
                },
            )

        if champion is None:
            return compared(None)
        same = self._stages_of(champion, adapters)
        if not same:
            return compared(self.champion_forecasts(windows, champion))
        alone = compared(None)
        return alone if alone.meta["chosen"] in same else compared(forecasts[same[0]])

    def champion_forecasts(self, windows: ArtifactRef, champion: RegisteredAdapter | Path) -> ArtifactRef | None:
        """Ask the champion for these windows with its own settings; if impossible, log why and return `None`."""
        try:
            card = read_card(fetch_adapter(champion))
            if not takes_same_windows(card, self.config):
                logger.warning(
                    "the current champion of %s takes other windows than this run (context, horizon, units, volatility "
                    "or indicators differ), so the comparison leaves it out",
                    self.config.stock,
                )
                return None
            training = training_here(card.training, config=self.config.training)
            own = self.config.model_copy(update={"training": training, "features": card.features})
            return replace(self, config=own).forecasts(windows, None, model=CURRENT_CHAMPION, adapter=champion)
        except (AdapterError, BackendUnavailable, BaseModelError, StageRefused) as error:
            logger.warning(
                "the current champion of %s cannot be used, so the comparison leaves it out: %s",
                self.config.stock,
                error,
            )
            return None

    def _stages_of(self, champion: RegisteredAdapter | Path, adapters: Mapping[str, ArtifactRef | Path]) -> list[str]:
        """Return the stages whose adapter equals the champion by content; none if the champion cannot be read."""
        try:
            identity = adapter_identity(fetch_adapter(champion))
        except AdapterError:
            return []
        placed = {
            stage: self.store.here(adapter) if isinstance(adapter, ArtifactRef) else adapter
            for stage, adapter in adapters.items()
        }
        return [stage for stage, adapter in placed.items() if adapter_identity(adapter) == identity]

    def card(
        self, stage: str, *, windows: ArtifactRef, base_model: BaseModelRef, recalibration: Recalibration | None = None
    ) -> AdapterCard:
        """Return the card of a stage's adapter: everything needed to use it, with its recalibration if there is one."""
        return AdapterCard(
            ticker=self.config.stock,
            stage=stage,
            base_model=base_model.location,
            base_model_identity=base_model.identity,
            features=self.config.prompts,
            training=self.config.training,
            seed=stage_seed(self.config, FORECASTS.name),
            windows_sha256=windows.sha256,
            trained_until=train_end(windows),
            git_revision=git_revision(),
            recalibration=recalibration or Recalibration(),
            prime=prime_record(self.prime(base_model)),
        )


def _stored_recalibration(adapter: RegisteredAdapter | Path | None) -> Recalibration | None:
    """Return the recalibration in an adapter's card; `None` without an adapter or if the card cannot be read."""
    try:
        return None if adapter is None else read_card(fetch_adapter(adapter)).recalibration
    except AdapterError:
        return None


def as_artifact(result: StageOutput) -> ArtifactRef:
    """Return what a stage made, which must be an artifact.

    Raises:
        TypeError: If it is a base model.
    """
    if not isinstance(result, ArtifactRef):
        raise TypeError(f"the stage made {type(result).__name__}, not an artifact")
    return result


def takes_same_windows(card: AdapterCard, config: PipelineConfig) -> bool:
    """Return whether an adapter was trained on the same kind of windows as those of a configuration."""
    left_out = {"prompt_style", "answer_style", "train_fraction", "test_fraction"}
    return card.features.model_dump(exclude=left_out) == config.features.model_dump(exclude=left_out)


def training_here(recorded: TrainingConfig, *, config: TrainingConfig) -> TrainingConfig:
    """Return an adapter's recorded settings, with the user's own settings for this machine and for remote code."""
    own = ("backend", "gpu_memory_utilization", "model_wheel", "trust_remote_code")
    return recorded.model_copy(update={name: getattr(config, name) for name in own})
