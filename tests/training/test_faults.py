"""Collapse, numbers that are none, and a full disk: a stage stops, says what to do, and keeps what was good."""

import math
import shutil
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from minute_training import CONFIG, digest, grpo, metrics, train_examples
from tickerforge.features.prompts import parse
from tickerforge.tasks.base.errors import StoreError
from tickerforge.tasks.store.artifacts import Store
from tickerforge.training.config import GRPOStageConfig, GuardConfig, SFTStageConfig, TrainingConfig
from tickerforge.training.contracts import Example
from tickerforge.training.errors import TrainingDiverged
from tickerforge.training.stages import answer_generator, run_sft
from trained_pieces import FEATURES, TRAINING, pieces, run_grpo

GUARDED = TRAINING.model_copy(
    update={
        "checkpoint_every": 1,
        "guard": GuardConfig(),
        "grpo_1st": GRPOStageConfig(steps=60, prompts_per_step=4, group_size=4, learning_rate=1e-6),
    }
)


@pytest.fixture(scope="module")
def base() -> str:
    return pieces().base_model.location


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return train_examples()


def valid_share(examples: list[Example], base: str, adapter: Path | None) -> float:
    generate = answer_generator(base_model=base, adapter=adapter, config=TRAINING, horizon=FEATURES.horizon, seed=0)
    texts = [text for texts in generate([example.prompt for example in examples[:16]], 4) for text in texts]
    return sum(parse(text, horizon=FEATURES.horizon) is not None for text in texts) / len(texts)


@pytest.fixture
def leap(monkeypatch: pytest.MonkeyPatch) -> None:
    """An optimizer that hardly moves, but for one step so far that no answer of any model survives it."""
    import torch

    step, taken = torch.optim.AdamW.step, count(1)

    def move(self: torch.optim.AdamW, closure: None = None) -> None:
        if next(taken) == 6:
            for group in self.param_groups:
                group["lr"] = 3.0
        step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", move)


@pytest.mark.usefixtures("leap")
def test_a_collapse_is_stopped_within_twenty_steps_and_the_last_good_adapter_stays_usable_in_the_store(
    examples: list[Example], base: str, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(TrainingDiverged, match="grpo_1st stopped at step") as caught:
        run_grpo(store, pieces().windows, pieces().base_model, config=GUARDED)
    last_good = caught.value.last_good
    assert last_good is not None
    assert str(last_good) in str(caught.value)
    assert "Lower grpo_1st.learning_rate" in str(caught.value)
    rows = metrics(last_good.parent)
    began = next(row["step"] for row in rows if row["valid_rate"] < 0.5)
    assert rows[-1]["step"] - began <= 20
    assert rows[-1]["valid_rate"] < 0.5
    assert last_good.is_relative_to(tmp_path / "store")
    assert valid_share(examples, base, last_good) > 0.5
    last = max(last_good.parent.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert valid_share(examples, base, last) < 0.5


def spoilt(source: Path, target: Path, *, file: str) -> Path:
    """A copy of a model or adapter with one weight that is not a number."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    weights = load_file(target / file)
    name = sorted(name for name in weights if "down_proj" in name)[0]
    weights[name].view(-1)[0] = math.nan
    save_file(weights, target / file, metadata={"format": "pt"})
    return target


def tune(base: str, out: Path, *, adapter: Path | None = None, config: TrainingConfig = CONFIG) -> Path:
    data = pieces().sft_data.path / "sft_data.parquet"
    return run_sft(data, base_model=base, adapter=adapter, config=config, out_dir=out, seed=1).out_dir


def test_an_adapter_that_holds_no_numbers_is_not_gone_on_from(
    examples: list[Example], base: str, tmp_path: Path
) -> None:
    adapter = spoilt(pieces().sft.path / "adapter", tmp_path / "spoilt", file="adapter_model.safetensors")
    with pytest.raises(TrainingDiverged, match="sft cannot start: the adapter that it continues from"):
        tune(base, tmp_path / "sft", adapter=adapter)
    with pytest.raises(TrainingDiverged, match="grpo_1st cannot start: the adapter that it continues from"):
        grpo(examples, base, tmp_path / "grpo", adapter=adapter)
    assert metrics(tmp_path / "sft") == metrics(tmp_path / "grpo") == []


def test_a_loss_that_is_no_number_stops_the_first_step_before_a_weight_changes(
    examples: list[Example], base: str, tmp_path: Path
) -> None:
    broken = str(spoilt(Path(base), tmp_path / "broken", file="model.safetensors"))
    with pytest.raises(TrainingDiverged, match="sft stopped at step 1: the gradient is NaN or infinite"):
        tune(broken, tmp_path / "sft")
    with pytest.raises(TrainingDiverged, match="grpo_1st stopped at step 1: the gradient is NaN or infinite"):
        grpo(examples, broken, tmp_path / "grpo")
    for stage in ("sft", "grpo"):
        assert metrics(tmp_path / stage) == []
        assert not list((tmp_path / stage).glob("checkpoint-*"))
        assert not (tmp_path / stage / "adapter").exists()


@pytest.mark.parametrize("rate", [1e20, pytest.param(1e38, marks=pytest.mark.nightly)])
def test_weights_that_overflow_stop_the_run_at_once_and_the_checkpoint_from_before_is_named(
    examples: list[Example], base: str, tmp_path: Path, rate: float
) -> None:
    config = CONFIG.model_copy(
        update={"checkpoint_every": 1, "sft": SFTStageConfig(epochs=6.0, batch_size=6, learning_rate=rate)}
    )
    with pytest.raises(TrainingDiverged, match=r"sft stopped at step [234]: ") as caught:
        tune(base, tmp_path, config=config)
    rows = metrics(tmp_path)
    assert rows
    assert all(math.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))
    assert caught.value.last_good is not None
    assert valid_share(examples, base, caught.value.last_good) > 0.5
    assert not (tmp_path / "adapter").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small tmpfs needs the right to do so")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_with_checkpoints_ends_the_stage_with_the_cure_and_with_space_it_goes_on(
    small_disk: Path, tmp_path: Path
) -> None:
    grpo_1st = GRPOStageConfig(steps=12, prompts_per_step=2, group_size=4)
    config = TRAINING.model_copy(update={"checkpoint_every": 1, "grpo_1st": grpo_1st})

    def train(root: Path) -> Path:
        return run_grpo(Store(root), pieces().windows, pieces().base_model, config=config).path

    with pytest.raises(StoreError, match=r"disk is full .*Free some space"):
        train(small_disk / "store")
    assert not list(small_disk.glob("store/grpo_1st/*"))
    done = [path for path in small_disk.glob("store/partial/*/checkpoint-*") if (path / "COMPLETE").exists()]
    assert done
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    finished = train(small_disk / "store")
    assert [row["step"] for row in metrics(finished)] == list(range(1, 13))
    assert digest(finished) == digest(train(tmp_path / "store"))
