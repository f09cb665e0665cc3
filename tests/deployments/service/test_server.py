"""A server of the service that was started with `--no-login`, and who is warned of what."""

import logging
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from service_home import answers, free_port, wait_until
from tickerforge.deployments.service.addresses import warn_of_others
from tickerforge.deployments.service.service import _settle
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.base.service import Service, service_folder, write_service


def record(mlflow_port: int, *, host: str = "127.0.0.1", login: str = "") -> Service:
    return Service(
        prefect_api="http://127.0.0.1:4200/api",
        mlflow=f"http://127.0.0.1:{mlflow_port}",
        socket="",
        working_dir="",
        database="",
        host=host,
        login=login,
    )


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that also knows the name of a proxy."""
    workspace, port = Workspace(tmp_path_factory.mktemp("open")), free_port()
    service_folder(workspace).mkdir(parents=True)
    write_service(workspace, record(port))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")},
        "TICKERFORGE_HOME": str(workspace.root),
        "TICKERFORGE_HOSTS": "other.example, desk.example",
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{workspace.mlflow_db}",
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": workspace.mlflow_artifacts.as_uri(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-m", "tickerforge.deployments.service.server", "mlflow"]
    with (workspace.root / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            assert wait_until(lambda: answers(f"{url}/version") or server.poll() is not None)
            assert server.poll() is None, (workspace.root / "log").read_text()
            yield url
        finally:
            server.terminate()
            server.wait(90)


def status_of(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_server_without_a_login_still_refuses_pages_and_names_of_others(mlflow: str) -> None:
    url = f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
    assert status_of(url) == 200
    assert status_of(url, Host="desk.example") == 200
    assert status_of(url, Host="elsewhere.example") == 403
    # MLflow itself would take both for its own machine.
    assert status_of(url, Host="10.elsewhere.example") == 403
    assert status_of(url, Origin="http://localhost:8000") == 403


@pytest.mark.parametrize(
    ("host", "login", "told"),
    [
        ("127.0.0.1", "user:password", ""),
        ("127.0.0.1", "", "every user of this machine can run code here as you"),
        ("0.0.0.0", "", "everyone who can reach these ports can run code here as you"),
        ("0.0.0.0", "user:password", "put a proxy with TLS before both ports"),
    ],
)
def test_a_warning_says_who_else_can_run_code(
    host: str, login: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_others(record(5000, host=host, login=login))
    assert told in caplog.text
    assert bool(caplog.text) == bool(told)
    assert "password" not in caplog.text


def test_the_login_goes_to_the_servers_of_the_service_only() -> None:
    service = record(5000, login="user:password")
    assert set(service.variables()) == {
        "PREFECT_API_URL",
        "PREFECT_API_AUTH_STRING",
        "MLFLOW_TRACKING_URI",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
    }
    assert set(service.variables_beside({"MLFLOW_TRACKING_URI": "http://other.example"})) == {
        "PREFECT_API_URL",
        "PREFECT_API_AUTH_STRING",
    }
    assert "PREFECT_API_AUTH_STRING" not in service.variables_beside({"PREFECT_API_URL": "http://other.example/api"})
    assert "password" not in repr(service)


def test_down_asks_a_prefect_that_hangs_only_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        hanging.setblocking(False)
        address = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        hung = replace(record(5000), prefect_api=f"{address}/api", mlflow=address)
        for name in hung.variables():
            monkeypatch.setenv(name, "")
        with caplog.at_level(logging.WARNING):
            _settle(hung, since=datetime.now(UTC))
        asked = 0
        with suppress(BlockingIOError):
            while True:
                with hanging.accept()[0] as connection:
                    asked += b"/api/" in connection.recv(1000)
    assert asked == 1
    assert "the next `tickerforge up` closes the runs" in caplog.text
