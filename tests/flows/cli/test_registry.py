import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tickerforge.flows.cli.commands import app
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.registry.promotion import promote
from tickerforge.tasks.registry.versions import RegisteredAdapter
from tickerforge.tasks.tracking.client import Tracking, client_of, connect

# MLflow uses what pandas 3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

AT = datetime(2026, 11, 20, 21, 30, tzinfo=UTC)
NAME = "tickerforge-AAPL"
Cli = Callable[..., Result]


@pytest.fixture
def cli(working_folder: Path, quiet_logging: None) -> Cli:
    def call(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments, catch_exceptions=False)

    return call


@pytest.fixture
def tracking(cli: Cli) -> Tracking:
    """A registry with two champions, one after the other."""
    tracking = connect(Workspace.current())
    client = client_of(tracking)
    client.create_registered_model(NAME)
    for version in ("1", "2"):
        tags = {"stage": "sft", "test/skill": f"0.0{version}", "data_sha256": "d" * 64, "git_revision": "c" * 40}
        source = (Path.cwd() / version).as_uri()
        client.create_model_version(NAME, source, tags=tags | {"report": f"runs:/{version}/report.html"})
        promote(tracking, RegisteredAdapter(ticker="AAPL", version=int(version)), at=AT)
    return tracking


def test_history_and_rollback_are_one_command_each(cli: Cli, tracking: Tracking) -> None:
    before = cli("registry", "history", "AAPL").stdout
    assert "2026-11-20 21:30 after 1" in before
    assert "+0.020" in before
    assert "runs:/2/report.html" in before

    done = cli("registry", "rollback", "AAPL", "--reason", "prices [adjusted] twice")
    assert done.exit_code == 0
    assert "AAPL: version 1 is champion again; version 2 was rolled back (prices [adjusted] twice)" in done.stdout
    assert str(client_of(tracking).get_model_version_by_alias(NAME, "champion").version) == "1"

    newest, oldest = json.loads(cli("registry", "history", "AAPL", "--json").stdout)
    assert newest["rolled_back_reason"] == "prices [adjusted] twice"
    assert datetime.fromisoformat(newest["rolled_back_at"]) > AT
    assert oldest["aliases"] == ["champion"]
    assert "prices [adjusted] twice" in cli("registry", "history", "AAPL").stdout

    refused = cli("registry", "rollback", "AAPL")
    assert refused.exit_code == 2
    assert "no champion before version 1 is left" in refused.stderr


@pytest.mark.parametrize("command", ["history", "rollback"])
def test_a_stock_without_versions_is_refused_with_the_cure(command: str, cli: Cli) -> None:
    refused = cli("registry", command, "NOPE")
    assert refused.exit_code == 2
    assert "nothing is registered for NOPE: train it first with `tickerforge run --stock NOPE`" in refused.stderr
    assert cli("registry", command, "../x").exit_code == 2


def test_a_version_without_its_files_is_not_pulled(cli: Cli, tracking: Tracking) -> None:
    refused = cli("pull", "AAPL", "pulled")
    assert refused.exit_code == 2
    assert "models:/tickerforge-AAPL/2 is damaged in MLflow: adapter_config.json is missing" in refused.stderr
    assert not Path("pulled").exists()
