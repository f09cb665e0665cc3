"""A home with a service that a test drives through the command line, in processes of its own."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil
import pytest

from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.base.service import Service, read_service, service_processes

CLI = (str(Path(sys.executable).with_name("tickerforge")),)
DRIVER = (str(Path(__file__).with_name("service_driver.py")),)
PATIENCE_SECONDS = 120
# SQLite takes a while to let go, longer on a busy machine.
BUSY_SECONDS = 75


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_namesakes(folder: Path) -> None:
    """Write files named like our packages and one of Python's, as users may keep them; importing one fails."""
    folder.mkdir(parents=True, exist_ok=True)
    packages = ("features/__init__.py", "deployments/__init__.py")
    for name in ("tasks.py", "flows.py", "tests.py", "training.py", "random.py", *packages):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise AssertionError(__file__)\n")


def wait_until(condition: Callable[[], object], *, seconds: float = PATIENCE_SECONDS) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.2)
    return False


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=3):
            return True
    except OSError:
        return False


@dataclass
class Home:
    """A home and a working folder."""

    root: Path
    work: Path
    environment: dict[str, str] = field(default_factory=dict)
    prefect_port: int = field(default_factory=free_port)
    mlflow_port: int = field(default_factory=free_port)

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.root)

    @property
    def service(self) -> Service:
        found = read_service(self.workspace)
        assert found is not None
        return found

    def variables(self) -> dict[str, str]:
        """Return the environment without the settings that the tests share."""
        shared = ("PREFECT_", "MLFLOW_", "HF_HUB_CACHE")
        own = {name: value for name, value in os.environ.items() if not name.startswith(shared)}
        return {**own, "TICKERFORGE_HOME": str(self.root), **self.environment}

    def headers(self) -> dict[str, str]:
        """Return the headers of a request with the service's login, if it has one."""
        login = self.service.login
        return {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()} if login else {}

    @contextmanager
    def logged_in(self) -> Iterator[None]:
        """Let MLflow's client in this process use the service's login."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.service.variables().items():
                if name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
                    patch.setenv(name, value)
            yield

    def call(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        self.work.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, *(DRIVER if arguments[0] == "up" else CLI), *arguments]
        return subprocess.run(
            command, cwd=self.work, env=self.variables(), capture_output=True, text=True, check=False, timeout=300
        )

    def up(self, *options: str) -> "subprocess.CompletedProcess[str]":
        return self.call("up", *self.ports, *options)

    @property
    def ports(self) -> tuple[str, ...]:
        return ("--prefect-port", str(self.prefect_port), "--mlflow-port", str(self.mlflow_port))

    def pid(self, program: str) -> int:
        from tickerforge.deployments.service.processes import programs

        return next(found.pid for found in programs(self.service) if found.name == program)

    def processes(self) -> list[psutil.Process]:
        return list(service_processes(self.workspace))

    def kill(self, program: str) -> None:
        psutil.Process(self.pid(program)).kill()

    def is_well(self) -> bool:
        from tickerforge.deployments.service.health import health
        from tickerforge.deployments.service.processes import programs

        service = self.service
        return not health(service) and all(found.state == "RUNNING" for found in programs(service))

    def listening(self) -> set[str]:
        """Return the addresses at which its processes listen."""
        found = [each for process in self.processes() for each in process.net_connections("inet")]
        return {f"{each.laddr.ip}:{each.laddr.port}" for each in found if each.status == psutil.CONN_LISTEN}

    def api(self, path: str, body: Any = None) -> Any:
        """Return the answer of Prefect's API to a GET, or to a POST if there is a body.

        If the server is busy, the request is repeated, as in Prefect's own clients.
        """
        data = None if body is None else json.dumps(body).encode()
        url = f"{self.service.prefect_api}{path}"
        request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json", **self.headers()})
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def start(self, deployment: str, **parameters: Any) -> str:
        """Start a run of a deployment as the UI does, and return its id."""
        found = self.api(f"/deployments/name/{deployment}")
        wanted = {"parameters": {**found["parameters"], **parameters}, "idempotency_key": uuid.uuid4().hex}
        return str(self.api(f"/deployments/{found['id']}/create_flow_run", wanted)["id"])

    def start_sleeper(self, secret: str) -> str:
        """Start the sleeper, wait until it sleeps, and return its flow run."""
        run = self.start("sleeper/test", secret=secret)
        assert wait_until((self.work / "sleeper.started").is_file), self.logs()
        return run

    def logs(self) -> str:
        """Return all log lines of the service and its runs."""
        return "\n".join(path.read_text(errors="replace") for path in self.workspace.state.glob("service/logs/*"))
