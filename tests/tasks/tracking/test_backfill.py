"""MLflow stopped, killed, frozen and started again while a pipeline tells it what happens."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mlflow_server import MlflowServer
from tickerforge.tasks.base.errors import TrackingError
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.models.training_log import read_metrics
from tickerforge.tasks.store.artifacts import ArtifactRef
from tickerforge.tasks.tracking import stage_runs as tracking_module
from tickerforge.tasks.tracking.backfill import Journal, default_patience
from tickerforge.tasks.tracking.runs import StepMetrics, write_values
from tickerforge.tasks.tracking.stage_runs import (
    PipelineLog,
    PipelineRun,
    client_of,
    finish_pipeline,
    follow_pipeline,
    log_comparison,
    log_stage,
    wait_for_tracking,
)
from tracking_environment import forget_tracking
from trained_pieces import Pieces

STARTED = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, made: Pieces) -> Iterator[MlflowServer]:
    """A server that is not running before a test starts it."""
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    with pytest.MonkeyPatch.context() as patch:
        forget_tracking(patch)
        patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.setattr("tickerforge.tasks.tracking.server._CONNECT_SECONDS", 5.0)
        yield server
    server.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A home of its own."""
    return Workspace(tmp_path_factory.mktemp("home"))


def follow(workspace: Workspace, ticker: str, **tags: str) -> PipelineLog:
    return follow_pipeline(
        workspace, f"train {ticker}", params={"seed": 1}, tags={"ticker": ticker, **tags}, started=STARTED
    )


def just_made(artifact: ArtifactRef) -> ArtifactRef:
    return artifact.model_copy(update={"cached": False})


def nested(run: PipelineRun) -> dict[str, Any]:
    found = client_of(run.tracking).search_runs(
        [run.tracking.experiment_id], filter_string=f"tags.`mlflow.parentRunId` = '{run.run_id}'"
    )
    names = [child.info.run_name for child in found]
    assert len(set(names)) == len(names)
    return {child.info.run_name: child for child in found}


def assert_complete(run: PipelineRun, child: Any, path: Path) -> None:
    """Every number of every row, once, at its step."""
    client, rows = client_of(run.tracking), read_metrics(path / "metrics.jsonl")
    assert child.info.status == "FINISHED"
    assert rows
    for name in {name for _, values in rows for name in values}:
        history = client.get_metric_history(child.info.run_id, f"curves/{name}")
        expected = [(step, values[name]) for step, values in rows if name in values]
        assert sorted((point.step, point.value) for point in history) == expected


def test_mlflow_down_for_a_whole_training_gets_everything_in_order_afterwards(
    server: MlflowServer, made: Pieces, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    began = time.monotonic()
    log = follow(Workspace(tmp_path), "DOWN")
    log_stage(log, "grpo_1st", artifact=just_made(made.grpo_1st), params={"steps": 2})
    log_stage(log, "sft", artifact=just_made(made.sft), params={"steps": 2})
    log_comparison(log, just_made(made.comparison))
    assert time.monotonic() - began < 10
    assert len(log.journal) == 4
    assert "MLflow did not get the stage grpo_1st" in caplog.text
    with pytest.raises(TrackingError, match=r"Nothing is lost.*same command again"):
        wait_for_tracking(log, patience_seconds=0.5)
    assert "Trying again in" in caplog.text

    server.start()
    run = wait_for_tracking(log, patience_seconds=30)
    assert "MLflow answers again and has everything" in caplog.text
    children = nested(run)
    assert sorted(children) == ["comparison", "grpo_1st", "sft"]
    assert_complete(run, children["grpo_1st"], made.grpo_1st.path)
    assert_complete(run, children["sft"], made.sft.path)
    client = client_of(run.tracking)
    names = {item.path for item in client.list_artifacts(run.run_id, "model_comparison")}
    assert names == {"model_comparison/report.html"}
    finish_pipeline(log, ended=datetime.now(UTC))
    parent = client.get_run(run.run_id)
    assert (parent.info.status, parent.data.params) == ("FINISHED", {"seed": "1"})
    assert parent.info.start_time == STARTED.timestamp() * 1000
    assert "test/mse" in parent.data.metrics


def test_a_frozen_mlflow_costs_seconds_and_is_told_when_it_wakes(
    server: MlflowServer, made: Pieces, tmp_path: Path
) -> None:
    server.start()
    log = follow(Workspace(tmp_path), "FROZEN")
    server.freeze()
    try:
        began = time.monotonic()
        log_stage(log, "sft", artifact=just_made(made.sft), params={})
        assert time.monotonic() - began < 30
        assert len(log.journal) == 1
    finally:
        server.thaw()
    log_stage(log, "grpo_1st", artifact=just_made(made.grpo_1st), params={})
    assert len(log.journal) == 0
    children = nested(wait_for_tracking(log))
    assert_complete(wait_for_tracking(log), children["sft"], made.sft.path)
    finish_pipeline(log)


@pytest.mark.chaos
def test_a_stage_cut_short_by_a_killed_mlflow_is_completed_and_not_doubled(
    server: MlflowServer, made: Pieces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.start()
    log = follow(Workspace(tmp_path), "KILLED")

    def half(client: Any, run_id: str, *, params: dict[str, object], metrics: list[StepMetrics]) -> None:
        write_values(client, run_id, params=params, metrics=metrics[:1])
        server.stop(signal.SIGKILL)
        write_values(client, run_id, metrics=metrics[1:])

    with monkeypatch.context() as patch:
        patch.setattr(tracking_module, "write_values", half)
        log_stage(log, "sft", artifact=just_made(made.sft), params={"steps": 2})
    assert len(log.journal) == 1
    server.start()
    children = nested(wait_for_tracking(log, patience_seconds=30))
    assert list(children) == ["sft"]
    assert_complete(wait_for_tracking(log), children["sft"], made.sft.path)
    finish_pipeline(log)


def status_of(run: PipelineRun) -> str:
    return str(client_of(run.tracking).get_run(run.run_id).info.status)


def wait_until(is_so: Callable[[], bool], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_run_that_ends_while_mlflow_is_down_says_so_and_is_closed_when_it_answers(
    server: MlflowServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.start()
    log = follow(Workspace(tmp_path), "ENDS")
    run = wait_for_tracking(log)
    server.freeze()
    try:
        finish_pipeline(log)
    finally:
        server.thaw()
    assert "MLflow was still down at the end of the run" in caplog.text
    assert status_of(run) == "RUNNING"
    wait_until(lambda: status_of(run) == "KILLED")


@pytest.mark.parametrize("watched", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_runs_of_a_killed_process_are_closed_at_once_or_by_the_next_run_and_living_ones_are_not(
    watched: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_tracking(monkeypatch)
    home = Workspace(tmp_path)
    living_log = follow(home, "DEMO")
    living = wait_for_tracking(living_log)
    program = (
        "import os, signal, sys; from datetime import UTC, datetime; from pathlib import Path\n"
        "from tickerforge.tasks.base.paths import Workspace\n"
        "import tickerforge.tasks.tracking.stage_runs as t\n"
        "for ticker in ('DEMO', 'OTHER'):\n"
        "    log = t.follow_pipeline(Workspace(Path(sys.argv[1])), 'train', params={}, tags={'ticker': ticker},\n"
        "                            started=datetime.now(UTC))\n"
        "    t.start_nested_run(t.wait_for_tracking(log), 'sft', tags={})\n"
        "    if sys.argv[2] == 'False':\n"
        "        os.kill(log.life_sign._watcher, signal.SIGKILL)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", program, str(home.root), str(watched)]
    killed = subprocess.run(command, check=False, env=os.environ)
    assert killed.returncode == -signal.SIGKILL
    client, experiment = client_of(living.tracking), living.tracking.experiment_id
    if not watched:
        assert len(client.search_runs([experiment], filter_string="attributes.status = 'RUNNING'")) == 5
        finish_pipeline(follow(home, "THIRD"))
    wait_until(lambda: len(client.search_runs([experiment], filter_string="attributes.status = 'KILLED'")) == 4)
    assert status_of(living) == "RUNNING"
    wait_until(lambda: len(list((home.locks / "runs").iterdir())) == 1)
    finish_pipeline(living_log)
    assert status_of(living) == "FINISHED"
    assert list((home.locks / "runs").iterdir()) == []


def test_an_earlier_attempt_of_the_same_flow_run_is_closed(
    embedded: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_tracking(monkeypatch)
    logs, runs = [], []
    for flow_run in ("7", "8", "7"):
        logs.append(follow(embedded, "AGAIN", prefect_flow_run_id=flow_run))
        runs.append(wait_for_tracking(logs[-1]))
    assert [status_of(run) for run in runs] == ["KILLED", "RUNNING", "RUNNING"]
    for log in logs:
        finish_pipeline(log)


def test_waiting_for_mlflow_grows_longer_and_ends_with_the_patience(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("tickerforge.tasks.tracking.backfill.time.sleep", sleep)
    monkeypatch.setattr("tickerforge.tasks.tracking.backfill.time.monotonic", lambda: now[0])

    def closed() -> None:
        raise TrackingError("no answer.")

    with pytest.raises(TrackingError, match=r"no answer\. Nothing is lost.*wait longer than 20 s"):
        Journal(closed).wait(20)
    assert pauses == [2, 4, 8, 6]
    assert len(caplog.records) == len(pauses)


def test_the_patience_is_set_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKERFORGE_MLFLOW_PATIENCE", "12.5")
    assert default_patience() == 12.5
    monkeypatch.setenv("TICKERFORGE_MLFLOW_PATIENCE", "soon")
    with pytest.raises(TrackingError, match="TICKERFORGE_MLFLOW_PATIENCE='soon': give a number of seconds"):
        default_patience()
