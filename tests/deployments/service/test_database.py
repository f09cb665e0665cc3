import sys
from pathlib import Path

import psutil
import pytest
from sqlalchemy import create_engine, text

from postgres_server import postgres_server
from service_home import Home, wait_until
from tickerforge.deployments.service.database import DATABASE_VARIABLE, databases
from tickerforge.flows.errors import ConfigError
from tickerforge.tasks.base.errors import ServiceError
from tickerforge.tasks.base.paths import Workspace

PASSWORD = "s3cr3t/with %25 and #'"
QUOTED = "s3cr3t%2Fwith%20%2525%20and%20%23%27"


def test_without_the_setting_both_databases_are_the_files_of_the_embedded_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DATABASE_VARIABLE, raising=False)
    monkeypatch.delenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", raising=False)
    found = databases(Workspace(tmp_path))
    assert found.prefect == f"sqlite+aiosqlite:///{tmp_path}/state/prefect.db"
    assert found.mlflow == f"sqlite:///{tmp_path}/state/mlflow.db"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("mysql://joe:geheim@host/", "does not name a PostgreSQL server"),
        ("postgresql:///only-a-name", "does not name a PostgreSQL server"),
        ("geheim", "not the address of a database"),
        ("postgresql://joe:geheim@host:port/", "not the address of a database"),
        ("postgresql://joe:geheim@host/?password=geheim", "only sslmode is supported"),
        (f"postgresql://joe:geheim@host/{'x' * 60}", "more than 40 characters"),
    ],
)
def test_a_setting_that_is_no_postgresql_address_is_refused_without_repeating_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, told: str
) -> None:
    monkeypatch.setenv(DATABASE_VARIABLE, setting)
    with pytest.raises(ConfigError, match=told) as refused:
        databases(Workspace(tmp_path))
    assert "geheim" not in str(refused.value)


def test_a_server_that_does_not_answer_is_named_without_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATABASE_VARIABLE, "postgresql://joe:geheim@127.0.0.1:1/")
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1:1 cannot be used.*refused") as refused:
        databases(Workspace(tmp_path))
    assert "geheim" not in str(refused.value)


def test_databases_are_made_once_and_a_wrong_password_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with postgres_server(PASSWORD) as place:
        monkeypatch.setenv(DATABASE_VARIABLE, f"postgresql://owner:{QUOTED}@{place}/acme?sslmode=prefer")
        first, second = databases(Workspace(tmp_path)), databases(Workspace(tmp_path))
        assert first == second
        assert first.shown == f"PostgreSQL at {place} (acme_prefect and acme_mlflow)"
        assert first.prefect.endswith(f"@{place}/acme_prefect?ssl=prefer")
        assert QUOTED not in repr(first)
        monkeypatch.setenv(DATABASE_VARIABLE, f"postgresql://owner:wrong-one@{place}/acme")
        with pytest.raises(ServiceError, match="authentication failed") as refused:
            databases(Workspace(tmp_path))
        assert "wrong-one" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_on_postgresql_the_service_survives_kills_frees_slots_and_gives_no_password_away(tmp_path: Path) -> None:
    with postgres_server(PASSWORD) as place:
        variables = {DATABASE_VARIABLE: f"postgresql://owner:{QUOTED}@{place}/"}
        home = Home(tmp_path / "home", tmp_path / "work", variables)
        outputs = [done := home.up()]
        try:
            assert done.returncode == 0, done.stderr + home.logs()
            assert f"PostgreSQL at {place} (tickerforge_prefect and tickerforge_mlflow)" in done.stdout
            assert pools(place) == ["cpu-pool", "gpu-pool"]
            home.start_sleeper("owner:")
            assert "knows the secret: no" in (home.work / "sleeper.started").read_text()
            check_slots_are_freed(home)
            outputs.append(home.call("status"))
            check_a_killed_manager_is_noticed(home)
            outputs.append(home.up())
            assert wait_until(home.is_well), home.logs()
            seen = [" ".join(process.cmdline()) for process in home.processes()]
        finally:
            outputs.append(home.call("down"))
        assert home.processes() == []
        texts = [*seen, *(said for done in outputs for said in (done.stdout, done.stderr))]
        texts += [path.read_bytes().decode(errors="replace") for path in home.root.rglob("*") if path.is_file()]
        assert not [found for found in texts if "s3cr3t" in found]


def pools(place: str) -> list[str]:
    """The work pools that Prefect wrote into PostgreSQL."""
    url = f"postgresql+psycopg2://owner:{QUOTED}@{place}/tickerforge_prefect"
    engine = create_engine(url)
    with engine.connect() as connection:
        found = [str(row[0]) for row in connection.execute(text("SELECT name FROM work_pool ORDER BY name"))]
    engine.dispose()
    return found


def check_slots_are_freed(home: Home) -> None:
    """A slot that was taken before the Prefect server was killed is free when its lease is over."""
    limit = home.api("/v2/concurrency_limits/", {"name": "gpu", "limit": 1})["id"]
    taken = {"names": ["gpu"], "slots": 1, "mode": "concurrency", "lease_duration": 60}
    assert home.api("/v2/concurrency_limits/increment-with-lease", taken)["limits"]
    assert home.api(f"/v2/concurrency_limits/{limit}")["active_slots"] == 1
    killed = home.pid("prefect")
    home.kill("prefect")
    assert wait_until(lambda: home.pid("prefect") not in (0, killed) and home.is_well()), home.logs()
    assert home.api(f"/v2/concurrency_limits/{limit}")["active_slots"] == 1
    assert wait_until(lambda: home.api(f"/v2/concurrency_limits/{limit}")["active_slots"] == 0)


def check_a_killed_manager_is_noticed(home: Home) -> None:
    """Where the process manager was killed its servers live on, and no command takes their databases."""
    manager = psutil.Process(psutil.Process(home.pid("mlflow")).ppid())
    manager.kill()
    assert wait_until(lambda: not home.service.answers())
    done = home.call("status")
    assert done.returncode == 1
    assert "process manager was killed" in done.stderr
