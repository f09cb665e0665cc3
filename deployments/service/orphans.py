"""Flow runs that ended with their service without reporting it, which the UI would show as running forever."""

import logging
import platform
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

logger = logging.getLogger(__name__)

POOLS = ("cpu-pool", "gpu-pool")
# Most runs that the server returns per request.
PAGE = 200
MESSAGE = "the service stopped during the run; start the run again and it continues from its last checkpoint"


def settle_orphans() -> int:
    """Close the runs that no worker executes any more; call it before the service's own workers start.

    If the server knows workers of other machines, nothing is changed: their runs may be alive.

    Returns:
        The number of closed runs.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        if _other_machines(client):
            return 0
        left = _open_runs(client)
        settled = {run.id for run in left if run.deployment_id is not None}
        parents = {
            run.id: _parent(client, run) for run in left if run.id not in settled and run.parent_task_run_id is not None
        }
        # Subflow runs have ended with their parent.
        while inside := {run for run, parent in parents.items() if parent in settled} - settled:
            settled |= inside
        _close(client, [run for run in left if run.id in settled])
    if settled:
        logger.info("closed %d runs that an earlier service left unfinished", len(settled))
    return len(settled)


def _other_machines(client: "SyncPrefectClient") -> bool:
    from prefect.client.schemas.filters import WorkerFilter
    from prefect.exceptions import PrefectHTTPStatusError

    names: set[str] = set()
    for pool in POOLS:
        try:
            names |= {worker.name for worker in client.read_workers_for_work_pool(pool, WorkerFilter())}
        except PrefectHTTPStatusError as error:
            # The pool does not exist yet.
            if error.response.status_code != HTTPStatus.NOT_FOUND:
                raise
    return any(not name.endswith(f"-{platform.node()}") for name in names)


def _open_runs(client: "SyncPrefectClient") -> list["FlowRun"]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    unfinished = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=unfinished)))
    found: list[FlowRun] = []
    while True:
        # Sorted by id: pages of a sort with equal values may overlap.
        page = client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.ID_DESC, limit=PAGE, offset=len(found))
        found += page
        if len(page) < PAGE:
            return found


def _parent(client: "SyncPrefectClient", run: "FlowRun") -> object:
    assert run.parent_task_run_id is not None
    return client.read_task_run(run.parent_task_run_id).flow_run_id


def _close(client: "SyncPrefectClient", runs: Iterable["FlowRun"]) -> None:
    from prefect.states import Cancelled, Crashed

    for run in runs:
        cancelled = run.state is not None and run.state.is_cancelling()
        client.set_flow_run_state(run.id, Cancelled(message=MESSAGE) if cancelled else Crashed(message=MESSAGE))
