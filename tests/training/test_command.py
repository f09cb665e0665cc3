"""`python -m training`: the stages alone, where neither Prefect nor MLflow can be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.features.synthetic import market
from tickerforge.features.windows import build_windows
from tickerforge.training.command import app
from trained_pieces import pieces

WITHOUT = """
import runpy, sys
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
sys.argv[0] = "training"
runpy.run_module("tickerforge.training", run_name="__main__", alter_sys=True)
"""
SMALL = "training.grpo_1st={steps=2, prompts_per_step=2, group_size=3}"


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frame = build_windows(market(SyntheticConfig(sessions=400)), ticker="DEMO", config=FeatureConfig())
    path = tmp_path_factory.mktemp("data") / "windows.parquet"
    pd.concat([frame[frame["split"] == split].iloc[:8] for split in ("train", "validation")]).to_parquet(path)
    return path


@pytest.mark.slow
def test_a_stage_runs_alone_without_prefect_and_mlflow(windows: Path, tmp_path: Path) -> None:
    base = pieces().base_model.location
    arguments = ["grpo", "--data", str(windows), "--base-model", base, "--out", str(tmp_path), "--set", SMALL]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments, "--set", "training.lora_rank=4"],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stage"] == "grpo_1st"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_windows_may_come_as_the_pipeline_stores_them() -> None:
    from tickerforge.training.command import _windows

    stored = pieces().windows
    read = _windows(stored.path / "sessions.parquet", features=FeatureConfig(), split="train")
    assert len(read) == stored.meta["train"] > 0
    assert set(read["split"]) == {"train"}


def test_answers_to_a_split_are_json_lines(windows: Path) -> None:
    options = ["--base-model", pieces().base_model.location, "--set", "training.sampling.samples=3"]
    done = CliRunner().invoke(app, ["sample", "--data", str(windows), *options])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [len(row["answers"]) for row in rows] == [3] * 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "none.csv", "--base-model", "tiny"], "build-base FOLDER"),
        (["--data", "none.csv", "--base-model", "org/name"], "none.csv"),
        (["--data", "none.csv", "--base-model", "./none"], "config.json is missing"),
        (["--data", "none.csv", "--base-model", "org/name", "--set", "training.lora_rank=0"], "lora_rank"),
        (["--data", "none.csv", "--base-model", "org/name", "--set", "training.none=1"], "none"),
        (["--data", "none.csv", "--base-model", "org/name", "--set", "grpo_1st.steps=2"], "begins with features."),
    ],
)
def test_what_cannot_work_is_one_line_that_names_it(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["grpo", *arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_settings_of_a_recipe_are_overridden_one_by_one(tmp_path: Path) -> None:
    from tickerforge.training.command import _settings

    recipe = tmp_path / "recipe.toml"
    recipe.write_text('stock = "AAPL"\n[training]\nlora_rank = 8\n[training.grpo_1st]\nsteps = 7\ngroup_size = 4\n')
    _, training = _settings(recipe, ["training.grpo_1st.steps=9", "training.backend=transformers"], model="org/name")
    assert (training.grpo_1st.steps, training.grpo_1st.group_size, training.lora_rank) == (9, 4, 8)
    assert (training.backend, training.model) == ("transformers", "org/name")


def test_a_folder_in_which_another_run_was_begun_is_refused_and_the_same_run_goes_on_there(
    windows: Path, tmp_path: Path
) -> None:
    missing = str(tmp_path / "no-model")
    (tmp_path / "no-model").mkdir()
    (tmp_path / "no-model" / "config.json").write_text("{}")
    arguments = ["grpo", "--data", str(windows), "--base-model", missing, "--out", str(tmp_path / "out")]
    first, again, other = (CliRunner().invoke(app, [*arguments, "--seed", seed]) for seed in ("1", "1", "2"))
    assert "cannot load the base model" in first.output
    assert again.output == first.output
    assert "holds what another run began" in other.output
