from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tickerforge.deployments import cli as module

Cli = Callable[..., Result]


@pytest.fixture
def cli(working_folder: Path, quiet_logging: None, monkeypatch: pytest.MonkeyPatch) -> Cli:
    for name in ("PREFECT_API_URL", "TICKERFORGE_DATABASE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(module.app, list(arguments), catch_exceptions=False)

    return call


def test_the_console_script_knows_the_commands_of_the_pipeline_and_of_operation(cli: Cli) -> None:
    (script,) = entry_points(group="console_scripts", name="tickerforge")
    assert script.load() is module.main
    told = cli("--help").output
    for name in ("run", "forecast", "doctor", "up", "down", "status", "deploy", "prune"):
        assert f"  {name} " in told


def test_where_nothing_runs_status_fails_and_names_the_cure_and_down_does_not_mind(cli: Cli) -> None:
    told = cli("status")
    assert told.exit_code == 1
    assert "tickerforge up" in told.output
    # A shell executes what it prints to stdout.
    assert cli("status", "--env").stdout == ""
    told = cli("down")
    assert told.exit_code == 0
    assert "nothing was running" in told.output


def test_deploying_without_a_server_says_how_to_start_one(cli: Cli) -> None:
    told = cli("deploy")
    assert told.exit_code == 2
    assert "`tickerforge up`" in told.output


def test_a_port_out_of_range_is_bad_input(cli: Cli) -> None:
    assert cli("up", "--prefect-port", "70000").exit_code == 2


def test_a_record_that_cannot_be_read_is_named(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "state" / "service"
    folder.mkdir(parents=True)
    (folder / "service.json").write_text("{}")
    told = cli("status")
    assert told.exit_code == 1
    assert f"{folder}/service.json" in told.output.replace("\n", "")
