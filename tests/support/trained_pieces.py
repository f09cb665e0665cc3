"""The artifacts of the tiny pipeline, made by calling the tasks' functions directly."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.models.adapters import AdapterCard, BaseModelRef
from tickerforge.tasks.models.base_models import prepare_base_model
from tickerforge.tasks.models.train import sample_answers, train_grpo, train_sft
from tickerforge.tasks.outputs.evaluate import compare_models, forecast_model
from tickerforge.tasks.prices.market_data import SyntheticSource, fetch_bars
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.windows.preprocess import store_windows
from tiny_pipeline import tiny_config

CONFIG = tiny_config()
TICKER = CONFIG.stock
SYNTHETIC = CONFIG.synthetic
FEATURES = CONFIG.prompts
TRAINING = CONFIG.training
EVALUATION = CONFIG.evaluation
GATE = CONFIG.gate
GRPO = TRAINING.grpo_1st


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


def shared_store() -> Store:
    """The store of this test session: all its processes share it, and it locks what one of them builds."""
    return Store(Path(os.environ["TICKERFORGE_TESTS_STORE"]))


def tiny_base_model(store: Store) -> BaseModelRef:
    return prepare_base_model.fn(TRAINING, features=FEATURES, store=store)


def lend_base_model(home: Path) -> None:
    """Put the tiny base model into the store of a home, so that its runs need not train it."""
    artifact = tiny_base_model(shared_store()).artifact
    assert artifact is not None
    shutil.copytree(artifact.path, Workspace(home).store / artifact.stage / artifact.key)


def pieces() -> Pieces:
    """Make the artifacts, or find them."""
    import torch

    torch.set_num_threads(1)
    store = shared_store()
    bars = fetch_bars.fn(SyntheticSource(config=SYNTHETIC), TICKER, store=store)
    windows = store_windows.fn(bars, config=FEATURES, store=store)
    base = tiny_base_model(store)
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
        gate=GATE,
        store=store,
    )
    return Pieces(store, bars, windows, base, grpo_1st, sft_data, sft, forecasts, comparison)
