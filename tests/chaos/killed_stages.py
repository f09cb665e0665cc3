"""All stages of a tiny pipeline in one store: the work of processes that are killed.

In a module of its own, because these processes import it by its name.
"""

from pathlib import Path

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
