"""One tiny pipeline of a few steps a stage, made by calling the tasks' functions directly."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tickerforge.evaluation.core.config import EvaluationConfig, GateConfig
from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.tasks.models.adapters import AdapterCard, BaseModelRef
from tickerforge.tasks.models.train import prepare_base_model, sample_answers, train_grpo, train_sft
from tickerforge.tasks.outputs.evaluate import compare_models, forecast_model
from tickerforge.tasks.prices.market_data import SyntheticSource, fetch_bars
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.windows.preprocess import build_windows
from tickerforge.training.config import (
    GRPOStageConfig,
    GuardConfig,
    RejectionConfig,
    SamplingConfig,
    SFTStageConfig,
    TinyConfig,
    TrainingConfig,
)

TICKER = "DEMO"
FEATURES = FeatureConfig()
EVALUATION = EvaluationConfig(max_windows=12, examples=1)
GRPO = GRPOStageConfig(steps=2, prompts_per_step=2, group_size=4)
TRAINING = TrainingConfig(
    tiny=TinyConfig(hidden_size=64, layers=1, steps=90, batch_size=8, learning_rate=1e-2),
    lora_rank=4,
    sampling=SamplingConfig(samples=4),
    guard=GuardConfig(min_valid_rate=0.0, max_reward_drop=100.0),
    grpo_1st=GRPO,
    grpo_2nd=GRPO,
    rejection=RejectionConfig(answers=4, max_windows=12, min_skill=-100.0),
    sft=SFTStageConfig(epochs=1.0, batch_size=6),
)


class BuiltAgain(Exception):
    """A store was asked for something it does not hold."""


class FinishedOnly(Store):
    """A store that builds nothing."""

    def build(self, stage: str, inputs: Any, builder: Any, **options: Any) -> ArtifactRef:
        def refuse(folder: Path) -> None:
            raise BuiltAgain(stage)

        return super().build(stage, inputs, refuse, **options)


@dataclass(frozen=True)
class Pieces:
    """The artifacts of one run."""

    store: Store
    bars: ArtifactRef
    windows: ArtifactRef
    base_model: BaseModelRef
    grpo_1st: ArtifactRef
    sft_data: ArtifactRef
    sft: ArtifactRef
    forecasts: tuple[ArtifactRef, ...]
    comparison: ArtifactRef

    def card(self, stage: str = "sft") -> AdapterCard:
        return AdapterCard(
            ticker=TICKER,
            stage=stage,
            base_model=self.base_model.location,
            base_model_identity=self.base_model.identity,
            features=FEATURES,
            training=TRAINING,
            seed=3,
            windows_sha256=self.windows.sha256,
            git_revision="test",
        )


def run_grpo(store: Store, windows: ArtifactRef, base: BaseModelRef, **changes: object) -> ArtifactRef:
    arguments: dict = {"stage": "grpo_1st", "adapter": None, "config": TRAINING, "features": FEATURES, "seed": 0}
    return train_grpo.fn(windows, base, store=store, **(arguments | changes))


def run_forecast(pieces_store: Store, windows: ArtifactRef, base: BaseModelRef, **changes: object) -> ArtifactRef:
    arguments: dict = {"config": TRAINING, "features": FEATURES, "evaluation": EVALUATION, "seed": 0}
    return forecast_model.fn(windows, base, store=pieces_store, **(arguments | changes))


def pieces() -> Pieces:
    import torch

    torch.set_num_threads(1)
    store = Store(Path(os.environ["TICKERFORGE_HOME"]) / "pieces" / "store")
    bars = fetch_bars.fn(SyntheticSource(config=SyntheticConfig(sessions=400)), TICKER, store=store)
    windows = build_windows.fn(bars, config=FEATURES, store=store)
    base = prepare_base_model.fn(TRAINING, features=FEATURES, store=store)
    grpo_1st = run_grpo(store, windows, base)
    common = {"config": TRAINING, "seed": 0, "store": store}
    sft_data = sample_answers.fn(windows, base, adapter=grpo_1st, features=FEATURES, **common)
    sft = train_sft.fn(sft_data, base, adapter=None, **common)
    adapters = {"grpo_1st": grpo_1st, "sft": sft}
    forecasts = tuple(
        run_forecast(store, windows, base, model=model, adapter=adapter)
        for model, adapter in {"base": None, **adapters}.items()
    )
    comparison = compare_models.fn(
        windows,
        forecasts,
        stages=adapters,
        features=FEATURES,
        evaluation=EVALUATION,
        gate=GateConfig(),
        store=store,
    )
    return Pieces(store, bars, windows, base, grpo_1st, sft_data, sft, forecasts, comparison)
