"""A running service with its real deployments, and the ways to stop, kill and inspect its runs."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from service_home import Home, wait_until
from tickerforge.flows.server.slots import LEASE_SECONDS
from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.tasks.registry.registration import MADE

TRAIN, NIGHT = "train-ticker/1-train-one-stock", "nightly/2-retrain-all-stocks"
TRAINED = ("base_model", "grpo_1st", "sft_data", "sft", "grpo_2nd")
STAGES = (*TRAINED, "forecasts", "comparison")
# Steps after which a stage is disturbed: later than its first checkpoint, so that it can resume.
ROWS = {"base_model": 20, "grpo_1st": 3, "sft": 3, "grpo_2nd": 3}
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
RUN_SECONDS = 420
# The lease of a killed holder, the server's look at leases, and a slow machine.
FREE_SECONDS = LEASE_SECONDS + 45
POLL_SECONDS = 0.005
NEEDED_TAGS = {*MADE, "ticker", "stage", "comparison_key", "verdict", "promoted", "git_revision", "seed"}


class Operations(Home):
    """A home whose service has the deployments that users have."""

    def call(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        self.work.mkdir(parents=True, exist_ok=True)
        return subprocess.run(
            [sys.executable, "-m", "tickerforge.deployments.cli", *arguments],
            cwd=self.work,
            env=self.variables(),
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )

    @property
    def store(self) -> Path:
        return self.workspace.store

    def train(self, config: PipelineConfig, deployment: str = TRAIN, **parameters: Any) -> str:
        """Start a run of the pipeline with a configuration, and return its id."""
        return self.start(deployment, config=config.model_dump(mode="json"), **parameters)

    def run(self, run: str) -> Any:
        """Return Prefect's record of a run; waits for a server that is down."""
        deadline = time.monotonic() + RUN_SECONDS
        while True:
            try:
                return self.api(f"/flow_runs/{run}")
            except (urllib.error.URLError, OSError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def state(self, run: str) -> str:
        return str(self.run(run)["state"]["type"])

    def outcome(self, run: str, *, seconds: float = RUN_SECONDS) -> str:
        """Wait for a run and return its final state."""
        assert wait_until(lambda: self.state(run) in FINAL, seconds=seconds), self.told(run)
        return self.state(run)

    def completes(self, run: str) -> None:
        assert self.outcome(run) == "COMPLETED", self.told(run)

    def told(self, run: str) -> str:
        """Collect all logs of a run, for a failure's message."""
        tails = [
            f"--- {path.name}\n{path.read_text(errors='replace')[-6000:]}"
            for path in [*self.workspace.state.glob("service/logs/*worker.log"), *self.work.glob("results/*/*.log")]
        ]
        return "\n".join([str(self.run(run)["state"]), *tails])

    def cancel(self, run: str) -> None:
        """Cancel a run as the button in the UI does."""
        state = {"type": "CANCELLING", "name": "Cancelling"}
        assert self.api(f"/flow_runs/{run}/set_state", {"state": state})["status"] == "ACCEPT"

    def children(self, run: str) -> list[Any]:
        """List the runs on the GPU pool that a run has started, newest last."""
        body = {"sort": "EXPECTED_START_TIME_ASC", "flow_runs": {"parent_task_run_id": {"is_null_": False}}}
        tasks = {each["id"] for each in self.api("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})}
        return [each for each in self.api("/flow_runs/filter", body) if each["parent_task_run_id"] in tasks]

    def process_of(self, run: str) -> psutil.Process:
        """Return the process that executes a run."""
        found: list[psutil.Process] = []

        def look() -> bool:
            found[:] = [
                each
                for each in self.processes()
                if "prefect.engine" in each.cmdline() and each.environ().get("PREFECT__FLOW_RUN_ID") == run
            ]
            return bool(found)

        assert wait_until(look), self.told(run)
        return found[0]

    @contextmanager
    def held_in(self, stage: str, *, seconds: float = RUN_SECONDS) -> Iterator[psutil.Process]:
        """Stop the process that is in the middle of a stage; afterwards it continues if it still lives."""
        process = _caught(lambda: self._at_work(stage), seconds=seconds, what=stage)
        try:
            yield process
        finally:
            if process.is_running():
                process.send_signal(signal.SIGCONT)

    @contextmanager
    def held_while_registering(self, run: str) -> Iterator[psutil.Process]:
        """Stop the process of a run while it uploads the adapter to the registry, before there is a version."""
        process = self.process_of(run)
        models = self.workspace.mlflow_artifacts

        def uploading() -> int | None:
            return process.pid if any(models.glob("*/models/*/artifacts/*")) else None

        caught = _caught(uploading, seconds=RUN_SECONDS, what="the registration")
        try:
            assert not self.versions(), "too late: the version is there"
            yield caught
        finally:
            if caught.is_running():
                caught.send_signal(signal.SIGCONT)

    def _at_work(self, stage: str) -> int | None:
        for partial in self.store.glob(f"partial/{stage}-*"):
            rows = partial / "metrics.jsonl"
            wanted = ROWS.get(stage, 0)
            if wanted and not (rows.is_file() and rows.read_bytes().count(b"\n") >= wanted):
                continue
            return holder_of(self.store / "locks" / f"{partial.name}.lock")
        return None

    def limits(self) -> dict[str, int]:
        """Return how many slots of each limit are taken."""
        found = self.api("/v2/concurrency_limits/filter", {"offset": 0, "limit": 200})
        return {each["name"]: each["active_slots"] for each in found}

    def lets_go(self, *, seconds: float = FREE_SECONDS) -> float:
        """Wait until nobody holds a slot or a lock of the store; returns the seconds that took."""
        began = time.monotonic()
        locks = self.store / "locks"

        def free() -> bool:
            return not any(self.limits().values()) and not any(holder_of(lock) for lock in locks.glob("*.lock"))

        assert wait_until(free, seconds=seconds), f"held after {seconds} s: {self.limits()}"
        return time.monotonic() - began

    def versions(self) -> list[Any]:
        from mlflow import MlflowClient

        with patience_with_mlflow():
            return list(MlflowClient(self.service.mlflow).search_model_versions())

    def forget(self) -> None:
        """Delete all artifacts, registered models and results before the next case."""
        from mlflow import MlflowClient

        client = MlflowClient(self.service.mlflow)
        for model in client.search_registered_models():
            client.delete_registered_model(model.name)
        for folder in (self.store, self.workspace.mlflow_artifacts, self.work / "models", self.work / "results"):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def patience_with_mlflow() -> Iterator[None]:
    """Repeat requests without an answer: a run may end while a killed server is still restarting."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
        yield


@contextmanager
def lasting(base: Path, environment: Mapping[str, str]) -> Iterator[Operations]:
    """Run a service in its own home below `base`, and remove everything afterwards, whatever happened."""
    made = Operations(base / "home", base / "work", dict(environment))
    try:
        done = made.up()
        assert done.returncode == 0, done.stdout + done.stderr
        with made.logged_in():
            yield made
    finally:
        made.call("down")
        for process in made.processes():
            process.kill()


def holder_of(lock: Path) -> int | None:
    """Return the process that holds the lock on a file."""
    try:
        inode = lock.stat().st_ino
    except FileNotFoundError:
        return None
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] == "FLOCK" and int(words[5].rpartition(":")[2]) == inode:
            return int(words[4])
    return None


def _caught(find: Callable[[], int | None], *, seconds: float, what: str) -> psutil.Process:
    """Stop the process that `find` returns, if `find` still returns it once the process is stopped."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pid = find()
        if pid is not None:
            os.kill(pid, signal.SIGSTOP)
            if find() == pid:
                return psutil.Process(pid)
            os.kill(pid, signal.SIGCONT)
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"nobody was seen in the middle of {what} for {seconds} s")
