"""The package `training` by itself, when neither Prefect nor MLflow nor our outer packages can be imported."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tickerforge.features.synthetic import market
from tickerforge.features.windows import build_windows
from trained_pieces import FEATURES, SYNTHETIC, TICKER, pieces

WITHOUT = """
import sys
from pathlib import Path

OUTER = ("tickerforge.tasks", "tickerforge.flows", "tickerforge.evaluation")


class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("prefect", "mlflow") or name.startswith(OUTER):
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]

import pandas as pd

from tickerforge.features.config import FeatureConfig
from tickerforge.training.config import GRPOStageConfig, TrainingConfig
from tickerforge.training.examples import build_examples
from tickerforge.training.stages import run_grpo

windows, base_model, out_dir, features = sys.argv[1:]
stage = GRPOStageConfig(steps=2, prompts_per_step=2, group_size=3)
run_grpo(
    build_examples(pd.read_parquet(windows), config=FeatureConfig.model_validate_json(features)),
    stage="grpo_1st",
    base_model=base_model,
    adapter=None,
    config=TrainingConfig(lora_rank=4, grpo_1st=stage),
    out_dir=Path(out_dir),
    seed=0,
)
"""


@pytest.mark.slow
def test_a_stage_trains_without_prefect_and_mlflow(tmp_path: Path) -> None:
    frame = build_windows(market(SYNTHETIC), ticker=TICKER, config=FEATURES)
    windows, out = tmp_path / "windows.parquet", tmp_path / "out"
    pd.DataFrame(frame[frame["split"] == "train"].iloc[:8]).to_parquet(windows)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            WITHOUT,
            str(windows),
            pieces().base_model.location,
            str(out),
            FEATURES.model_dump_json(),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
