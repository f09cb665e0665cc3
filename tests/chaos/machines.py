"""Machines that share no folder: workers with their own homes, the servers between them, and an object store."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from object_store import BUCKET, SECRET, s3_server
from postgres_server import postgres_server
from service_home import answers, free_port, wait_until

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
RUN_SECONDS = 600
DEPLOY = (
    "import pathlib, sys; from tickerforge.deployments.prefect.deploy import deploy; "
    "deploy(working_dir=pathlib.Path(sys.argv[1]))"
)


@dataclass
class Machine:
    """A home and a working folder that no other machine uses."""

    root: Path
    shared: Mapping[str, str]

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def store(self) -> Path:
        return self.root / "home" / "cache" / "store"

    def variables(self) -> dict[str, str]:
        home = self.root / "home"
        inherited = ("PREFECT_", "MLFLOW_", "AWS_", "TICKERFORGE_", "HF_HUB_CACHE")
        own = {name: value for name, value in os.environ.items() if not name.startswith(inherited)}
        folders = {"TICKERFORGE_HOME": str(home), "PREFECT_HOME": str(home / "prefect")}
        return {**own, **self.shared, **folders, "PREFECT_WORKER_QUERY_SECONDS": "2"}


@dataclass
class Cluster:
    """Servers and workers, with the requests of the tests."""

    base: Path
    shared: dict[str, str] = field(default_factory=dict)
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def machine(self, name: str) -> Machine:
        made = Machine(self.base / name, self.shared)
        for folder in (made.work, made.root / "home" / "prefect"):
            folder.mkdir(parents=True, exist_ok=True)
        return made

    def start(self, machine: Machine, *command: str, log: str) -> None:
        with (self.base / f"{log}.log").open("ab") as output:
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", *command],
                    cwd=machine.work,
                    env=machine.variables(),
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            )

    def stop(self) -> None:
        """Kill every started process and its children."""
        for process in reversed(self.processes):
            family = [process.pid]
            if psutil.pid_exists(process.pid):
                family += [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
            for pid in family:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            process.wait()

    def api(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.shared["PREFECT_API_URL"] + path, data=data, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def run(self, deployment: str, config: Any, **parameters: Any) -> str:
        found = self.api(f"/deployments/name/{deployment}")
        given = {**found["parameters"], "config": config.model_dump(mode="json"), **parameters}
        # The form offers the stocks of one data folder, and these runs have several markets.
        body = {"parameters": given, "enforce_parameter_schema": False}
        return str(self.api(f"/deployments/{found['id']}/create_flow_run", body)["id"])

    def state(self, run: str) -> str:
        return str(self.api(f"/flow_runs/{run}")["state"]["type"])

    def outcome(self, run: str) -> str:
        assert wait_until(lambda: self.state(run) in FINAL, seconds=RUN_SECONDS), self.logs()
        return self.state(run)

    def runs_of(self, flow: str) -> list[Any]:
        body = {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return list(self.api("/flow_runs/filter", body))

    def spans(self, run: str) -> list[tuple[datetime, datetime]]:
        """Return when the tasks of a run began and ended."""
        tasks = self.api("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return [
            (datetime.fromisoformat(each["start_time"]), datetime.fromisoformat(each["end_time"]))
            for each in tasks
            if each["start_time"] and each["end_time"]
        ]

    def process_of(self, run: str) -> psutil.Process:
        """Return the process that executes a run."""
        found: list[psutil.Process] = []

        def look() -> bool:
            children = [
                child
                for process in self.processes
                if psutil.pid_exists(process.pid)
                for child in psutil.Process(process.pid).children(recursive=True)
            ]
            found[:] = [
                each
                for each in children
                if "prefect.engine" in each.cmdline() and each.environ().get("PREFECT__FLOW_RUN_ID") == run
            ]
            return bool(found)

        assert wait_until(look), self.logs()
        return found[0]

    def logs(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-6000:]}" for path in self.base.glob("*.log")
        )


@contextmanager
def cluster(base: Path) -> Iterator[Cluster]:
    """PostgreSQL, Prefect, MLflow with proxied artifacts and an S3 server; the test starts the workers."""
    import boto3

    made = Cluster(base)
    with ExitStack() as stack:
        database = stack.enter_context(postgres_server("secret"))
        objects = stack.enter_context(s3_server())
        stack.callback(made.stop)
        keys = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
        client = boto3.client(
            "s3",
            endpoint_url=objects,
            aws_access_key_id="tester",
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=BUCKET)
        client.create_bucket(Bucket="mlflow")
        prefect, mlflow = free_port(), free_port()
        quiet = {
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        made.shared.update(keys | quiet | {"AWS_ENDPOINT_URL": objects})
        servers = made.machine("servers")
        made.shared["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = f"postgresql+asyncpg://owner:secret@{database}/postgres"
        made.start(servers, "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(prefect), log="prefect")
        where = ("--backend-store-uri", f"sqlite:///{base}/mlflow.db", "--artifacts-destination", "s3://mlflow/all")
        serve = ("--serve-artifacts", "--host", "127.0.0.1", "--port", str(mlflow), "--workers", "1")
        made.start(servers, "mlflow", "server", *where, *serve, log="mlflow")
        del made.shared["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
        made.shared["PREFECT_API_URL"] = f"http://127.0.0.1:{prefect}/api"
        made.shared["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{mlflow}"
        made.shared["TICKERFORGE_STORE"] = f"s3://{BUCKET}/all"
        for url in (f"{made.shared['PREFECT_API_URL']}/health", f"http://127.0.0.1:{mlflow}/health"):
            assert wait_until(lambda url=url: answers(url)), made.logs()
        yield made
