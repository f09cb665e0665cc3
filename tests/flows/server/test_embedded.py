import base64
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from service_home import write_namesakes
from tickerforge.flows.errors import PrefectUnavailable
from tickerforge.flows.server import embedded
from tickerforge.flows.server.embedded import EmbeddedServer
from tiny_pipeline import ASSIGNMENTS

PATIENCE_SECONDS = 120


def wait_until(condition, *, seconds: float = PATIENCE_SECONDS) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.is_file() and "State:\tZ" not in status.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_embedded_server_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from tickerforge.flows.server.embedded import EmbeddedServer\n"
        "server = EmbeddedServer(Path(sys.argv[1]))\n"
        "print(server._process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "server.log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()
    assert wait_until(lambda: not is_running(pid))


def test_a_server_that_cannot_start_says_why_and_where_its_log_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{tmp_path}/no/such/folder.db")
    server = EmbeddedServer(tmp_path / "server.log")
    with pytest.raises(PrefectUnavailable, match=r"unable to open database file.*server\.log"):
        server.wait(timeout=PATIENCE_SECONDS)
    server.stop()
    server.stop()


def test_the_embedded_server_answers_its_own_command_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{tmp_path}/prefect.db")
    server = EmbeddedServer(tmp_path / "server.log")
    own = {"Authorization": "Basic " + base64.b64encode(server.login.encode()).decode()}

    def status(headers: dict[str, str]) -> int:
        try:
            with urlopen(Request(f"{server.url}/version", headers=headers), timeout=30) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code

    try:
        server.wait(timeout=PATIENCE_SECONDS)
        assert status(own) == 200
        assert status({}) == 401
        assert status({**own, "Host": "elsewhere.example"}) == 403
        assert status({**own, "Origin": "http://elsewhere.example"}) == 403
        assert stat.S_IMODE((tmp_path / "prefect.db").stat().st_mode) == 0o600
    finally:
        server.stop()


def test_a_configured_server_is_used_instead_of_an_embedded_one(
    monkeypatch: pytest.MonkeyPatch, working_folder: Path
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    embedded.start_prefect()
    assert not embedded.is_embedded()
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:9/api"


def test_a_configured_server_that_does_not_answer_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(PrefectUnavailable, match=r"127\.0\.0\.1:9.*unset PREFECT_API_URL"):
        embedded.wait_for_prefect()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_c_ends_a_run_as_stopped_and_leaves_nothing_running(working_folder: Path, tmp_path: Path) -> None:
    settings = [
        f"--set={assignment}"
        for assignment in (*ASSIGNMENTS, "training.tiny.steps=5", "training.grpo_1st.steps=100000")
    ]
    command = [str(Path(sys.executable).with_name("tickerforge")), "run", *settings]
    log = tmp_path / "stderr"
    write_namesakes(working_folder)
    with log.open("w") as output:
        # Without the settings that these tests share, so that the run has databases of its own.
        own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "HF_HUB_CACHE"))}
        run = subprocess.Popen(
            command,
            env=own,
            stderr=output,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            # As in a terminal, also where the tests run in the background of a shell, which ignores Ctrl-C there.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            assert wait_until(lambda: "grpo_1st 1/" in log.read_text() or run.poll() is not None, seconds=400)
            assert run.poll() is None, log.read_text()
            # The whole process group, as a terminal does it.
            os.killpg(run.pid, signal.SIGINT)
            started = time.monotonic()
            assert run.wait(PATIENCE_SECONDS) == 130
            assert time.monotonic() - started < 100
        finally:
            if run.poll() is None:
                run.kill()
                run.wait()
    assert "stopped; run the same command again to resume" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert states(tmp_path / "home" / "state" / "prefect.db", "select state_type from flow_run") == ["CRASHED"]
    assert states(tmp_path / "home" / "state" / "mlflow.db", "select status from runs") == ["KILLED"]
    (folder,) = (working_folder / "results").iterdir()
    assert [path.name for path in folder.iterdir()] == ["pipeline.log"]
    assert "stopped by KeyboardInterrupt" in (folder / "pipeline.log").read_text()


def states(database: Path, query: str) -> list[str]:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(database)) as connection:
        return [row[0] for row in connection.execute(query)]


@pytest.mark.slow
def test_two_servers_that_create_the_same_database_at_once_both_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TICKERFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{tmp_path}/prefect.db")
    servers = [EmbeddedServer(tmp_path / f"{name}.log") for name in ("one", "two")]
    try:
        for server in servers:
            server.wait(timeout=PATIENCE_SECONDS)
    finally:
        for server in servers:
            server.stop()
    assert (tmp_path / "prefect.db").is_file()
