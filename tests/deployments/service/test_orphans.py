import platform
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.states import Cancelling, Crashed, Running

from tickerforge.deployments.service import orphans
from tickerforge.deployments.service.orphans import POOLS, settle_orphans

pytestmark = pytest.mark.usefixtures("prefect_server")


@flow(name="orphaned")
def orphaned() -> None: ...


@pytest.fixture(scope="module")
def client(prefect_server: None) -> Any:
    with get_client(sync_client=True) as made:
        for pool in POOLS:
            made.create_work_pool(WorkPoolCreate(name=pool, type="process"), overwrite=True)
        yield made


def heartbeat(client: SyncPrefectClient, worker: str) -> None:
    body = {"name": worker}
    client._client.post(f"/work_pools/{POOLS[0]}/workers/heartbeat", json=body).raise_for_status()


def deployed_run(client: SyncPrefectClient, state: Any) -> UUID:
    deployment = client.create_deployment(flow_id=client.create_flow(orphaned), name="test", work_pool_name=POOLS[0])
    run = client.create_flow_run_from_deployment(deployment, state=state)
    return run.id


def run_inside(client: SyncPrefectClient, parent: UUID) -> UUID:
    task = client.create_task_run(_task(), flow_run_id=parent, dynamic_key="0", state=Running())
    return client.create_flow_run(orphaned, parent_task_run_id=task.id, state=Running()).id


def _task() -> Any:
    from prefect import task

    return task(lambda: None, name="inside")


def state_of(client: SyncPrefectClient, run: UUID) -> str:
    state = client.read_flow_run(run).state
    assert state is not None
    return state.type.value


def test_runs_of_an_earlier_service_are_closed_with_those_inside_them_and_no_others(client: SyncPrefectClient) -> None:
    heartbeat(client, f"cpu-{platform.node()}")
    left, cancelled = deployed_run(client, Running()), deployed_run(client, Cancelling())
    child = run_inside(client, left)
    grandchild = run_inside(client, child)
    by_hand = client.create_flow_run(orphaned, state=Running()).id
    inside_by_hand = run_inside(client, by_hand)
    assert settle_orphans() == 4
    assert [state_of(client, run) for run in (left, child, grandchild)] == ["CRASHED"] * 3
    assert state_of(client, cancelled) == "CANCELLED"
    assert [state_of(client, run) for run in (by_hand, inside_by_hand)] == ["RUNNING"] * 2
    assert settle_orphans() == 0


def test_runs_that_down_has_stopped_say_so_and_those_that_crashed_before_do_not(client: SyncPrefectClient) -> None:
    before = deployed_run(client, Crashed(message="out of memory"))
    began = datetime.now(UTC)
    stopped, silent = deployed_run(client, Running()), deployed_run(client, Running())
    client.set_flow_run_state(stopped, Crashed(message="Execution was aborted by a termination signal."))
    settle_orphans(stopped_since=began)
    messages = [client.read_flow_run(run).state.message for run in (before, stopped, silent)]
    assert messages[0] == "out of memory"
    assert all(message.startswith("stopped by `tickerforge down`; press Retry") for message in messages[1:])
    assert [state_of(client, run) for run in (stopped, silent)] == ["CRASHED"] * 2


def test_more_runs_than_the_server_tells_at_a_time_are_all_closed(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "PAGE", 2)
    left = [deployed_run(client, Running()) for _ in range(5)]
    children = [run_inside(client, run) for run in left]
    assert settle_orphans() == 10
    assert {state_of(client, run) for run in (*left, *children)} == {"CRASHED"}


def test_nothing_is_closed_where_a_worker_of_another_machine_is_known(client: SyncPrefectClient) -> None:
    heartbeat(client, "gpu-elsewhere")
    left = deployed_run(client, Running())
    assert settle_orphans() == 0
    assert state_of(client, left) == "RUNNING"
