"""Flow runs that ended with their service without reporting it, which the UI would show as running forever."""

import logging
import platform
from collections.abc import Iterable
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

logger = logging.getLogger(__name__)

POOLS = ("cpu-pool", "gpu-pool")
# Most runs that the server returns per request.
PAGE = 200
MESSAGE = "the service ended during the run; press Retry, and it continues from its last checkpoint"
STOPPED = "stopped by `tickerforge down`; press Retry, and it continues from its last checkpoint"


def settle_orphans(*, stopped_since: datetime | None = None) -> int:
    """Close the runs that no worker executes any more; call it while the service's own workers do not run.

    If the server knows workers of other machines, nothing is changed: their runs may be alive.

    Args:
        stopped_since: If `tickerforge down` has stopped the runs: when it began. Runs that have crashed since then get
            a message that says so.

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
        message = STOPPED if stopped_since else MESSAGE
        _close(client, [run for run in left if run.id in settled], message=message)
        if stopped_since:
            _close(client, _crashed(client, since=stopped_since), message=message, force=True)
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
    from prefect.client.schemas.objects import StateType

    return _runs(client, state={"type": {"any_": [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]}})


def _crashed(client: "SyncPrefectClient", *, since: datetime) -> list["FlowRun"]:
    from prefect.client.schemas.objects import StateType

    return _runs(client, state={"type": {"any_": [StateType.CRASHED]}}, end_time={"after_": since})


def _runs(client: "SyncPrefectClient", **wanted: object) -> list["FlowRun"]:
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    chosen = FlowRunFilter.model_validate(wanted)
    found: list[FlowRun] = []
    while True:
        # Sorted by id: pages of a sort with equal values may overlap.
        page = client.read_flow_runs(flow_run_filter=chosen, sort=FlowRunSort.ID_DESC, limit=PAGE, offset=len(found))
        found += page
        if len(page) < PAGE:
            return found


def _parent(client: "SyncPrefectClient", run: "FlowRun") -> object:
    assert run.parent_task_run_id is not None
    return client.read_task_run(run.parent_task_run_id).flow_run_id


def _close(client: "SyncPrefectClient", runs: Iterable["FlowRun"], *, message: str, force: bool = False) -> None:
    from prefect.states import Cancelled, Crashed

    for run in runs:
        cancelled = run.state is not None and run.state.is_cancelling()
        client.set_flow_run_state(
            run.id, Cancelled(message=message) if cancelled else Crashed(message=message), force=force
        )
