"""Runs whose worker is gone: cancelled, they end by themselves; and every deployed flow begins like them."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.flows import load_flow_from_entrypoint

import cancelled_flows
from service_home import free_port, wait_until
from tickerforge.deployments.prefect.entries import read_entries
from tickerforge.flows.server import begin as beginning
from tickerforge.flows.server.begin import begin
from tickerforge.flows.server.slots import GPU_LIMIT

FILE = Path(cancelled_flows.__file__)
# On a machine with nothing else to do it takes two.
CANCELLED_SECONDS = 45


@pytest.fixture
def client(prefect_server: None) -> Iterator[Any]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client


@pytest.mark.parametrize("entry", read_entries(), ids=lambda entry: entry.entrypoint.rpartition(".")[2])
def test_every_deployed_flow_watches_for_its_cancellation(entry: Any) -> None:
    assert begin in load_flow_from_entrypoint(entry.entrypoint, use_placeholder_flow=False).on_running_hooks


@pytest.fixture
def orphans(client: Any, tmp_path: Path) -> Iterator[dict[str, tuple[Any, psutil.Process]]]:
    """The two flows, at work in processes that no worker watches: their runs and processes."""
    from prefect.settings import PREFECT_API_URL
    from prefect.states import Pending

    started = {}
    for name in ("hears", "is_deaf"):
        entrypoint = f"{FILE}:{name}"
        deployment = load_flow_from_entrypoint(entrypoint).to_deployment("test").apply()
        run = client.create_flow_run_from_deployment(deployment, state=Pending())
        environment = {
            **os.environ,
            "PREFECT_API_URL": str(PREFECT_API_URL.value()),
            "PREFECT__FLOW_RUN_ID": str(run.id),
            "PREFECT__FLOW_ENTRYPOINT": entrypoint,
            "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS": "false",
            "PYTHONPATH": str(FILE.parent),
        }
        command = [sys.executable, "-m", "prefect.engine"]
        started[name] = (run, psutil.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL))
    try:
        at_work = ("hears.child", "is_deaf.watcher")
        assert wait_until(lambda: all((tmp_path / name).is_file() for name in at_work), seconds=240)
        yield started
    finally:
        for _, process in started.values():
            if process.is_running():
                process.kill()
            process.wait()


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_cancelled_run_without_its_worker_logs_it_ends_its_children_and_frees_its_slot(
    client: Any, orphans: dict[str, tuple[Any, psutil.Process]], tmp_path: Path
) -> None:
    from prefect.states import Cancelling

    assert client.read_global_concurrency_limit_by_name(GPU_LIMIT).active_slots == 1
    children = {name: int((tmp_path / f"{name}.child").read_text()) for name in orphans}
    assert all(is_alive(pid) for pid in children.values())
    for run, _ in orphans.values():
        client.set_flow_run_state(run.id, Cancelling())
    for _, process in orphans.values():
        process.wait(CANCELLED_SECONDS)
    assert {name: client.read_flow_run(run.id).state.type.value for name, (run, _) in orphans.items()} == {
        "hears": "CANCELLED",
        "is_deaf": "CANCELLED",
    }
    assert (tmp_path / "hears.ended").is_file()
    assert not any(is_alive(pid) for pid in children.values())
    # Only the process that closes the run in MLflow stays.
    watcher = int((tmp_path / "is_deaf.watcher").read_text())
    assert is_alive(watcher)
    os.kill(watcher, signal.SIGKILL)
    assert client.read_global_concurrency_limit_by_name(GPU_LIMIT).active_slots == 0

    messages = [log.message for log in client.read_logs(log_filter=logs_of(orphans["hears"][0].id))]
    assert "the first line" in messages
    assert any("no worker ends this run" in message for message in messages)


def logs_of(run: uuid.UUID) -> Any:
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    return LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run]))


def test_a_server_that_does_not_answer_cancels_nothing(prefect_server: None) -> None:
    from prefect.client.schemas.objects import FlowRun
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
        assert beginning._state(FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4())) is None
