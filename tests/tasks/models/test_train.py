import json
from pathlib import Path

import pandas as pd
import pytest

from tickerforge.features.errors import PublishedLayoutError
from tickerforge.tasks.base.errors import NotFinished
from tickerforge.tasks.models.adapters import adapter_folder, adapter_identity, base_model_identity
from tickerforge.tasks.models.base_models import base_model_for, prepare_base_model
from tickerforge.tasks.models.sft_data import store_sft_data
from tickerforge.tasks.models.train import sample_answers, train_sft
from tickerforge.tasks.store.artifacts import FinishedOnly, read_manifest
from tickerforge.tasks.windows.preprocess import read_windows
from tickerforge.training.errors import AdapterError, BaseModelError
from trained_pieces import FEATURES, GRPO, TRAINING, Pieces, run_grpo


def test_the_stages_leave_adapters_in_safetensors_and_their_metrics(made: Pieces) -> None:
    for ref in (made.grpo_1st, made.sft):
        files = set(read_manifest(ref).files)
        assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "metrics.jsonl"} <= files
        assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl")) or "checkpoint" in name]
        assert ref.meta["seconds"] > 0


def test_an_adapters_configuration_is_written_in_the_same_order_by_every_process(made: Pieces) -> None:
    for ref in (made.grpo_1st, made.sft):
        targets = json.loads((ref.path / "adapter" / "adapter_config.json").read_text())["target_modules"]
        assert len(targets) == 7
        assert targets == sorted(targets)


def test_the_same_stage_is_found_and_not_trained_again(made: Pieces) -> None:
    again = run_grpo(made.store, made.windows, made.base_model)
    assert again.cached
    assert again.sha256 == made.grpo_1st.sha256
    assert prepare_base_model.fn(TRAINING, features=FEATURES, store=made.store).cached


@pytest.mark.parametrize("setting", ["checkpoint_every", "gpu_memory_utilization", "guard", "samples", "other stage"])
def test_a_setting_without_effect_on_the_stage_keeps_its_artifact(made: Pieces, setting: str) -> None:
    changes: dict = {
        "checkpoint_every": {"checkpoint_every": 1},
        "gpu_memory_utilization": {"gpu_memory_utilization": 0.9},
        "guard": {"guard": TRAINING.guard.model_copy(update={"patience": 3})},
        "samples": {"sampling": TRAINING.sampling.model_copy(update={"samples": 8})},
        "other stage": {"grpo_2nd": GRPO.model_copy(update={"steps": 99})},
    }[setting]
    assert run_grpo(made.store, made.windows, made.base_model, config=TRAINING.model_copy(update=changes)).cached


@pytest.mark.parametrize("change", ["seed", "adapter", "steps", "rank", "prompt", "stage", "base model"])
def test_whatever_changes_a_stages_result_changes_its_key(made: Pieces, change: str) -> None:
    base = made.base_model
    changes: dict = {
        "seed": {"seed": 1},
        "adapter": {"adapter": made.sft},
        "steps": {"config": TRAINING.model_copy(update={"grpo_1st": GRPO.model_copy(update={"steps": 5})})},
        "rank": {"config": TRAINING.model_copy(update={"lora_rank": 8})},
        "prompt": {"features": FEATURES.model_copy(update={"prompt_style": "full"})},
        "stage": {"stage": "grpo_2nd"},
        "base model": {},
    }[change]
    if change == "base model":
        base = base.model_copy(update={"identity": "another"})

    with pytest.raises(NotFinished):
        run_grpo(FinishedOnly(made.store.root), made.windows, base, **changes)


@pytest.mark.parametrize("rule", ["best_of_n", "published", "none"])
def test_answers_are_kept_for_windows_of_the_train_split_only_whatever_the_rule(made: Pieces, rule: str) -> None:
    rejection = TRAINING.rejection.model_copy(update={"rule": rule})
    ref = sample_answers.fn(
        made.windows,
        made.base_model,
        adapter=made.grpo_1st,
        features=FEATURES,
        config=TRAINING.model_copy(update={"rejection": rejection}),
        seed=0,
        store=made.store,
    )
    accepted = pd.read_parquet(ref.path / "sft_data.parquet")
    train = read_windows(made.windows, splits=("train",))
    assert len(accepted) > 0
    assert set(accepted["origin"]) <= set(pd.to_datetime(train["origin"]))
    assert ref.cached == (rule == "best_of_n")


def test_an_adapter_given_as_a_folder_is_the_same_as_its_artifact(made: Pieces, tmp_path: Path) -> None:
    folder = adapter_folder(made.grpo_1st)
    assert folder is not None
    assert adapter_identity(folder) == adapter_identity(made.grpo_1st)
    again = sample_answers.fn(
        made.windows, made.base_model, adapter=folder, features=FEATURES, config=TRAINING, seed=0, store=made.store
    )
    assert again.cached


def test_an_adapters_identity_does_not_depend_on_where_its_base_model_lies(made: Pieces, tmp_path: Path) -> None:
    folder = adapter_folder(made.sft)
    assert folder is not None
    config = json.loads((folder / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/elsewhere"}))
    (tmp_path / "adapter_model.safetensors").write_bytes((folder / "adapter_model.safetensors").read_bytes())
    assert adapter_identity(tmp_path) == adapter_identity(folder)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"r": 99}))
    assert adapter_identity(tmp_path) != adapter_identity(folder)


def test_a_folder_that_is_no_adapter_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"adapter_config\.json and adapter_model\.safetensors"):
        adapter_folder(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(AdapterError, match="cannot be read"):
        adapter_identity(tmp_path)


def test_accepted_answers_may_come_as_csv_and_train_the_same_adapter(made: Pieces, tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    pd.read_parquet(made.sft_data.path / "sft_data.parquet").to_csv(path, index=False)
    ref = train_sft.fn(path, made.base_model, adapter=None, config=TRAINING, seed=0, store=made.store)
    weights = "adapter/adapter_model.safetensors"
    assert read_manifest(ref).files[weights] == read_manifest(made.sft).files[weights]


def test_answers_that_cannot_be_read_are_refused_by_name(made: Pieces, tmp_path: Path) -> None:
    (tmp_path / "answers.csv").write_text("prompt,reply\n1,2\n")
    with pytest.raises(PublishedLayoutError, match=r"answers\.csv lacks answer"):
        store_sft_data(tmp_path / "answers.csv", store=made.store)
    (tmp_path / "answers.csv").write_text("prompt,answer\nhow much?,2\n")
    with pytest.raises(PublishedLayoutError, match=r"answers\.csv, record 1: `prompt` must be a chat"):
        store_sft_data(tmp_path / "answers.csv", store=made.store)
    (tmp_path / "answers.parquet").write_text("no parquet")
    with pytest.raises(PublishedLayoutError, match=r"answers\.parquet cannot be read"):
        store_sft_data(tmp_path / "answers.parquet", store=made.store)
    with pytest.raises(PublishedLayoutError, match="no file"):
        store_sft_data(tmp_path / "missing.csv", store=made.store)


def test_a_local_base_model_is_identified_by_its_content_and_a_hub_name_by_itself(made: Pieces, tmp_path: Path) -> None:
    assert base_model_identity("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    (tmp_path / "config.json").write_text("{}")
    before = base_model_identity(str(tmp_path))
    (tmp_path / "metrics.jsonl").write_text("{}")
    assert base_model_identity(str(tmp_path)) == before
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert base_model_identity(str(tmp_path)) != before


def test_the_base_model_of_an_adapter_is_the_one_beside_it_else_the_recorded_one(made: Pieces, tmp_path: Path) -> None:
    card = made.card()
    assert base_model_for(card, tmp_path, store=made.store).location == made.base_model.location
    (tmp_path / "base_model").mkdir()
    assert base_model_for(card, tmp_path, store=made.store).location == str(tmp_path / "base_model")


def test_a_base_model_that_has_gone_is_built_again_if_it_is_the_same(made: Pieces, tmp_path: Path) -> None:
    gone = made.card().model_copy(update={"base_model": str(tmp_path / "gone")})
    assert base_model_for(gone, tmp_path, store=made.store).location == made.base_model.location
    other = gone.model_copy(update={"base_model_identity": "another"})
    with pytest.raises(BaseModelError, match="another base model"):
        base_model_for(other, tmp_path, store=made.store)
    named = gone.model_copy(update={"training": TRAINING.model_copy(update={"model": "gpt2"}), "base_model": "gpt2"})
    assert base_model_for(named, tmp_path, store=made.store).location == "gpt2"


def test_a_path_without_a_model_is_refused(made: Pieces, tmp_path: Path) -> None:
    config = TRAINING.model_copy(update={"model": str(tmp_path)})
    with pytest.raises(BaseModelError):
        prepare_base_model.fn(config, features=FEATURES, store=made.store)
