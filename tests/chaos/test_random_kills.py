"""kill -9 at random instants over all stages: what is started again ends with the same bytes.

The processes are forked from one that has imported everything, so that kills hit stages and not imports.
"""

import multiprocessing
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.tasks.store.artifacts import Store, read_manifest
from tickerforge.training.config import (
    GRPOStageConfig,
    GuardConfig,
    RejectionConfig,
    SamplingConfig,
    SFTStageConfig,
    TinyConfig,
    TrainingConfig,
)

pytestmark = pytest.mark.chaos

KILLS = 20
SEED = 20
FEATURES = FeatureConfig(context=4, horizon=2, prompt_style="prices")
# Two passes over the windows and a half.
GRPO = GRPOStageConfig(steps=12, prompts_per_step=56, group_size=2)
CONFIG = TrainingConfig(
    tiny=TinyConfig(hidden_size=32, layers=1, steps=120, batch_size=16, learning_rate=0.02),
    lora_rank=4,
    checkpoint_every=3,
    sampling=SamplingConfig(samples=4, batch_size=64),
    guard=GuardConfig(min_valid_rate=0.0, max_reward_drop=1000.0),
    grpo_1st=GRPO,
    grpo_2nd=GRPO,
    rejection=RejectionConfig(answers=4, max_windows=200, min_skill=-1e9),
    sft=SFTStageConfig(epochs=1.0, batch_size=8),
)
PRELOADED = [
    "tickerforge.tasks.prices.market_data",
    "tickerforge.tasks.windows.preprocess",
    "tickerforge.tasks.models.train",
    "tickerforge.training.backends.trl_",
    "tickerforge.training.stages",
]


def all_stages(root: Path) -> dict[str, dict[str, str]]:
    """Run every stage in a store; returns the hashes of what each one leaves, but for its timings."""
    from tickerforge.tasks.models.base_models import prepare_base_model
    from tickerforge.tasks.models.train import sample_answers, train_grpo, train_sft
    from tickerforge.tasks.prices.market_data import SyntheticSource, fetch_bars
    from tickerforge.tasks.windows.preprocess import store_windows

    store = Store(root)
    bars = fetch_bars.fn(SyntheticSource(config=SyntheticConfig(sessions=400)), "DEMO", store=store)
    windows = store_windows.fn(bars, config=FEATURES, store=store)
    base = prepare_base_model.fn(CONFIG, features=FEATURES, store=store)
    common = {"config": CONFIG, "seed": 0, "store": store}
    first = train_grpo.fn(windows, base, stage="grpo_1st", adapter=None, features=FEATURES, **common)
    data = sample_answers.fn(windows, base, adapter=first, features=FEATURES, **common)
    sft = train_sft.fn(data, base, adapter=None, **common)
    second = train_grpo.fn(windows, base, stage="grpo_2nd", adapter=sft, features=FEATURES, **common)
    made = {"base_model": base.artifact, "grpo_1st": first, "sft_data": data, "sft": sft, "grpo_2nd": second}
    return {
        stage: {name: digest for name, digest in read_manifest(ref).files.items() if name != "metrics.jsonl"}
        for stage, ref in made.items()
        if ref is not None
    }


def at_work(root: Path) -> str:
    """The stage that lies half-built in a store."""
    return next((path.name.rsplit("-", 1)[0] for path in root.glob("partial/*")), "in between")


def test_stages_that_are_killed_at_random_instants_end_with_the_same_bytes(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(PRELOADED)

    def started(root: Path) -> multiprocessing.process.BaseProcess:
        process = processes.Process(target=all_stages, args=(root,))
        process.start()
        return process

    warm = started(tmp_path / "warm")
    while at_work(tmp_path / "warm") == "in between":
        assert warm.is_alive()
        time.sleep(0.05)
    warm.kill()
    warm.join()
    # Always in the same folder: an adapter's settings name the folder of its base model.
    root = tmp_path / "store"
    began = time.monotonic()
    undisturbed = started(root)
    undisturbed.join()
    seconds = time.monotonic() - began
    assert undisturbed.exitcode == 0
    expected = all_stages(root)
    assert set(expected) == {"base_model", "grpo_1st", "sft_data", "sft", "grpo_2nd"}

    rng = np.random.default_rng(SEED)
    hits: Counter[str] = Counter()
    rounds = 0
    while hits.total() < KILLS:
        rounds += 1
        shutil.rmtree(root)
        process = started(root)
        while hits.total() < KILLS:
            process.join(timeout=float(rng.uniform(0, seconds)))
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            hits[at_work(root)] += 1
            process = started(root)
        process.join()
        assert process.exitcode == 0
        assert all_stages(root) == expected
        assert not list((root / "partial").glob("*"))
    print(f"{seconds:.1f} s undisturbed; {rounds} rounds; kills by stage: {dict(hits)}")
    assert len(set(hits) - {"in between"}) >= 3
