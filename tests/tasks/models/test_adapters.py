import json
import os
from pathlib import Path

import numpy as np
import pytest
from mlflow.pyfunc import PythonModelContext
from safetensors.numpy import save_file

from tickerforge.features.config import FeatureConfig
from tickerforge.flows.train.steps import training_here
from tickerforge.tasks.base.errors import PublishError
from tickerforge.tasks.models.adapters import AdapterCard, base_model_identity, read_card, write_card
from tickerforge.tasks.outputs.publish import publish_adapter
from tickerforge.tasks.registry.pyfunc_model import TickerForecaster
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.training.config import TrainingConfig
from tickerforge.training.errors import AdapterError

CARD = AdapterCard(
    ticker="DEMO",
    stage="sft",
    base_model="base",
    base_model_identity="base",
    features=FeatureConfig(),
    training=TrainingConfig(backend="unsloth", trust_remote_code=True),
    seed=0,
    windows_sha256="0",
    git_revision="test",
)


def peft_folder(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    save_file({"weight": np.zeros(2)}, folder / "adapter_model.safetensors")


def stage_artifact(root: Path) -> ArtifactRef:
    return Store(root).build("sft", {}, lambda folder: peft_folder(folder / "adapter"), code="v1")


def test_an_adapter_of_somebody_else_is_not_replaced_and_one_of_ours_is(tmp_path: Path) -> None:
    artifact = stage_artifact(tmp_path / "store")
    foreign = tmp_path / "foreign"
    peft_folder(foreign)
    before = sorted(path.name for path in foreign.iterdir())
    with pytest.raises(PublishError, match="new or an empty folder"):
        publish_adapter(artifact, foreign, card=CARD)
    assert sorted(path.name for path in foreign.iterdir()) == before
    ours = publish_adapter(artifact, tmp_path / "ours", card=CARD)
    (ours / "old.txt").write_text("old")
    publish_adapter(artifact, tmp_path / "ours", card=CARD)
    assert not (ours / "old.txt").exists()


def test_a_card_decides_neither_on_foreign_code_nor_on_the_backend(tmp_path: Path) -> None:
    here = training_here(CARD.training, config=TrainingConfig(lora_rank=8))
    assert (here.backend, here.trust_remote_code, here.lora_rank) == ("auto", False, CARD.training.lora_rank)
    write_card(tmp_path, CARD)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).touch()
    model = TickerForecaster()
    model.load_context(PythonModelContext({"adapter": str(tmp_path)}, None))
    assert (model.training.backend, model.training.trust_remote_code) == ("auto", False)


def test_a_card_with_the_factors_of_an_earlier_revision_has_no_recalibration(tmp_path: Path) -> None:
    written = json.loads(CARD.model_dump_json(exclude={"recalibration"}))
    older = written | {"factors": {"median": 1.0, "spread": 1.3, "smooth": True}}
    (tmp_path / "tickerforge.json").write_text(json.dumps(older))
    assert read_card(tmp_path).recalibration.changes_nothing


@pytest.mark.parametrize("content", ["[]", "3", "{}", "no JSON"])
def test_a_damaged_card_is_an_error_that_names_the_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "tickerforge.json").write_text(content)
    with pytest.raises(AdapterError, match="cannot be read"):
        read_card(tmp_path)


def test_large_weights_that_were_written_again_are_another_base_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tickerforge.tasks.models.adapters.HASHED_BYTES", 4)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"12345678")
    before = base_model_identity(str(tmp_path))
    assert base_model_identity(str(tmp_path)) == before
    changed = weights.stat().st_mtime_ns + 1_000_000_000
    os.utime(weights, ns=(changed, changed))
    assert base_model_identity(str(tmp_path)) != before
