"""A registered model whose files were changed or lost, in the registry or in the copy on this machine."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import pytest

from registered_files import stored_base_model
from tickerforge.tasks.base.disk import file_sha256, tree_hashes
from tickerforge.tasks.registry.registration import RegisteredModel, fetch_registered, pull_adapter, register_adapter
from tickerforge.tasks.registry.versions import find_version
from tickerforge.tasks.tracking.client import Tracking, client_of
from tickerforge.tasks.tracking.stage_runs import start_pipeline
from tickerforge.training.errors import AdapterError
from trained_pieces import Pieces

# MLflow uses what pandas 3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

AT = datetime(2026, 11, 20, 21, 30, tzinfo=UTC)
WEIGHTS = "adapter/adapter_model.safetensors"
PULLED_WEIGHTS = "adapter_model.safetensors"


def register(made: Pieces, tracking: Tracking, ticker: str) -> RegisteredModel:
    run = start_pipeline(tracking, "damage", params={}, tags={})
    card = made.card().model_copy(update={"ticker": ticker})
    return register_adapter.fn(run, made.sft, card=card, bars=made.bars, comparison=made.comparison, at=AT)


@pytest.fixture(scope="module")
def registered(made: Pieces, tracking: Tracking) -> RegisteredModel:
    return register(made, tracking, "HURT")


@pytest.fixture
def files(registered: RegisteredModel) -> Path:
    """Where the registry keeps the model: no copy, the files themselves."""
    return Path(mlflow.artifacts.download_artifacts(registered.uri))


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@contextmanager
def restored(path: Path, kept: Path) -> Iterator[None]:
    """Put a folder back as it was."""
    shutil.copytree(path, kept)
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(kept, path)


def test_every_file_of_a_registered_and_of_a_pulled_adapter_may_be_read_by_all(
    registered: RegisteredModel, files: Path, tracking: Tracking, tmp_path: Path
) -> None:
    pulled = pull_adapter(tracking, f"HURT@{registered.version}", dest=tmp_path / "pulled")
    for folder in (files, pulled):
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
        assert PULLED_WEIGHTS in modes
        assert {name: oct(mode) for name, mode in modes.items() if mode != 0o644} == {}


def test_the_checksums_of_a_version_name_each_of_its_files_as_it_is(
    registered: RegisteredModel, files: Path, tracking: Tracking
) -> None:
    listed = files / "artifacts" / "adapter" / "checksums.json"
    recorded = json.loads(listed.read_text())
    there = {
        name: digest for name, digest in tree_hashes(files / "artifacts").items() if not name.endswith(listed.name)
    }
    base = tree_hashes(stored_base_model(registered, tracking))
    there |= {f"base_model/{name}": digest for name, digest in base.items()}
    code = {name: digest for name, digest in tree_hashes(files / "code").items() if name.endswith(".py")}
    assert recorded == there | code | {"pyfunc_model.py": file_sha256(files / "pyfunc_model.py")}
    tags = find_version(tracking, registered.name, alias=registered.version).tags
    assert tags["checksums_sha256"] == file_sha256(listed)


@pytest.mark.parametrize(
    "name",
    [
        WEIGHTS,
        "adapter/adapter_config.json",
        "adapter/tickerforge.json",
        "adapter/checksums.json",
        "base_model/model.safetensors",
        "base_model/tokenizer.json",
    ],
)
@pytest.mark.parametrize("change", [flip, Path.unlink])
def test_a_version_with_a_changed_or_missing_file_is_neither_pulled_nor_fetched_nor_loaded(
    name: str, change, registered: RegisteredModel, files: Path, tracking: Tracking, tmp_path: Path
) -> None:
    pulled = pull_adapter(tracking, f"HURT@{registered.version}", dest=tmp_path / "pulled")
    before = tree_hashes(pulled)
    shared = name.startswith("base_model/")
    part = stored_base_model(registered, tracking) if shared else files
    with restored(part, tmp_path / "kept"):
        change(part / name.removeprefix("base_model/") if shared else files / "artifacts" / name)
        what = f"{name.removeprefix('adapter/')} (has changed|is missing)"
        for dest in (pulled, tmp_path / "new"):
            with pytest.raises(
                AdapterError, match=rf"HURT/{registered.version} is damaged in MLflow: .*{what}.*Restore"
            ):
                pull_adapter(tracking, f"HURT@{registered.version}", dest=dest)
        with pytest.raises(AdapterError, match=r"`tickerforge registry rollback HURT`"):
            fetch_registered(tracking, registered.adapter, cache=tmp_path / "cache")
        assert tree_hashes(pulled) == before
        assert [path for path in tmp_path.rglob("*") if path.name == "new" or ".new-" in path.name] == []
        if "checksums" not in name:
            with pytest.raises(Exception, match=rf"the model in .* is damaged: {name} (has changed|is missing)"):
                mlflow.pyfunc.load_model(registered.uri)
    # The registry is whole again, and so is what comes from it.
    assert pull_adapter(tracking, f"HURT@{registered.version}", dest=tmp_path / "new").is_dir()
    assert fetch_registered(tracking, registered.adapter, cache=tmp_path / "cache").is_dir()


def test_changed_code_of_a_model_does_not_run(registered: RegisteredModel, files: Path, tmp_path: Path) -> None:
    with restored(files, tmp_path / "kept"):
        (path,) = files.glob("code/*/tasks/models/forecasting.py")
        path.write_text(path.read_text().replace("INTERVAL = 0.8", "INTERVAL = 0.2"))
        with pytest.raises(Exception, match=r"the model in .* is damaged: .*/forecasting\.py has changed"):
            mlflow.pyfunc.load_model(registered.uri)


def test_a_base_model_that_is_damaged_or_gone_is_stored_again_by_the_next_version(
    made: Pieces, registered: RegisteredModel, tracking: Tracking, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = stored_base_model(registered, tracking)
    with restored(base, tmp_path / "kept"):
        shutil.rmtree(base)
        with pytest.raises(AdapterError, match=f"HURT/{registered.version} is damaged in MLflow: base_model/"):
            pull_adapter(tracking, f"HURT@{registered.version}", dest=tmp_path / "pulled")
        with pytest.raises(Exception, match=r"base model .* cannot be fetched from runs:/.* set MLFLOW_TRACKING_URI"):
            mlflow.pyfunc.load_model(registered.uri)
        other = register(made, tracking, "OTHER")
        assert stored_base_model(other, tracking) != base
        assert "is damaged in MLflow: storing it again" in caplog.text
        assert pull_adapter(tracking, f"OTHER@{other.version}", dest=tmp_path / "pulled").is_dir()


def test_a_version_whose_files_are_all_gone_is_refused(
    registered: RegisteredModel, files: Path, tracking: Tracking, tmp_path: Path
) -> None:
    with restored(files, tmp_path / "kept"):
        shutil.rmtree(files / "artifacts")
        with pytest.raises(AdapterError, match=f"HURT/{registered.version} is damaged in MLflow"):
            pull_adapter(tracking, f"HURT@{registered.version}", dest=tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()


@pytest.mark.parametrize(
    "name",
    [PULLED_WEIGHTS, "adapter_config.json", "tickerforge.json", "checksums.json", "base_model/model.safetensors"],
)
@pytest.mark.parametrize("change", [flip, Path.unlink])
def test_a_damaged_copy_on_this_machine_is_fetched_again(
    name: str, change, registered: RegisteredModel, tracking: Tracking, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = fetch_registered(tracking, registered.adapter, cache=tmp_path)
    before = tree_hashes(folder)
    change(folder / name)
    assert tree_hashes(folder) != before
    assert fetch_registered(tracking, registered.adapter, cache=tmp_path) == folder
    assert tree_hashes(folder) == before
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"the copy of {registered.adapter} in {folder} is damaged" in record.getMessage()
    fetch_registered(tracking, registered.adapter, cache=tmp_path)
    assert len(caplog.records) == 1


def test_a_version_without_checksums_is_taken_with_a_warning_if_its_files_are_there(
    made: Pieces, tracking: Tracking, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    early = register(made, tracking, "EARLY")
    client_of(tracking).delete_model_version_tag(early.name, early.version, "checksums_sha256")
    files = Path(mlflow.artifacts.download_artifacts(early.uri))
    (files / "artifacts" / "adapter" / "checksums.json").unlink()
    assert (pull_adapter(tracking, "EARLY@challenger", dest=tmp_path / "pulled") / PULLED_WEIGHTS).is_file()
    assert "was registered without checksums" in caplog.text
    folder = fetch_registered(tracking, early.adapter, cache=tmp_path / "cache")
    (folder / PULLED_WEIGHTS).unlink()
    assert (fetch_registered(tracking, early.adapter, cache=tmp_path / "cache") / PULLED_WEIGHTS).is_file()
    (files / "artifacts" / WEIGHTS).unlink()
    with pytest.raises(AdapterError, match=f"{PULLED_WEIGHTS} is missing"):
        pull_adapter(tracking, "EARLY@challenger", dest=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_adapter_whose_registered_copy_is_damaged_is_registered_again(
    made: Pieces, tracking: Tracking, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = register(made, tracking, "AGAIN")
    assert register(made, tracking, "AGAIN").version == first.version
    flip(Path(mlflow.artifacts.download_artifacts(first.uri)) / "artifacts" / WEIGHTS)
    second = register(made, tracking, "AGAIN")
    assert (second.version, second.reused) == ("2", False)
    assert "models:/tickerforge-AGAIN/1 is damaged in MLflow" in caplog.text
    assert (pull_adapter(tracking, "AGAIN@challenger", dest=tmp_path / "pulled") / PULLED_WEIGHTS).is_file()
