"""The first thing that a flow run on a worker does: it opens its log, and ends itself when somebody cancels it.

A worker stops the runs that are cancelled, but only those that it started itself. If it dies, its runs continue, and
its successor does not know them.
"""

import contextvars
import os
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tickerforge.flows.server.logs import open_run_log
from tickerforge.tasks.tracking import watcher

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State

POLL_SECONDS = 3.0
# A live worker announces the end to its run within this time, and then ends it itself.
WORKER_SECONDS = 4.0
# Time to give slots back and to close the MLflow run. Together with the two above, this is less than 15 seconds.
END_SECONDS = 7.0


def begin(flow: object, flow_run: "FlowRun", state: object) -> None:
    """Open the loggers and watch for cancellation; for `on_running` of every flow that has a deployment."""
    if flow_run.deployment_id is None:
        return
    open_run_log()
    # The settings of the server are in the context.
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(_watch, flow_run), daemon=True).start()


def _watch(run: "FlowRun") -> None:
    while True:
        state = _state(run)
        if state is not None and (state.is_cancelling() or state.is_cancelled()):
            break
        if state is not None and state.is_final():
            return
        time.sleep(POLL_SECONDS)
    if not _worker_ends_it():
        _end(run)


def _state(run: "FlowRun") -> "State | None":
    """Return the state that the server knows, or `None` if it does not answer, which must not end the run."""
    from prefect.client.orchestration import get_client

    with suppress(Exception), get_client(sync_client=True) as client:
        return client.read_flow_run(run.id).state
    return None


def _worker_ends_it() -> bool:
    """Wait for a moment, and return whether a worker has announced the end of this process by then."""
    from prefect._internal.control_listener import get_intent

    deadline = time.monotonic() + WORKER_SECONDS
    while time.monotonic() < deadline:
        if get_intent() is not None:
            return True
        time.sleep(0.2)
    return False


def _end(run: "FlowRun") -> None:
    """End this run as Prefect's worker would, and kill the process if that does not end it."""
    from prefect.logging.loggers import flow_run_logger

    flow_run_logger(run).info("cancelled, and no worker ends this run: it ends itself")
    if _announce():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(END_SECONDS)
    _kill(run)


def _announce() -> bool:
    """Let Prefect's engine take the next SIGTERM for a cancellation; return whether it listens to signals."""
    from prefect._internal import control_listener
    from prefect.utilities.engine import commit_control_intent_and_ack

    def own_the_end() -> None:
        # Without a worker, the engine reports the state Cancelled itself.
        os.environ["PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS"] = "true"

    return commit_control_intent_and_ack(
        commit_intent=lambda: control_listener._set_intent("cancel"),
        clear_intent=control_listener.clear_intent,
        send_ack=own_the_end,
    )


def _kill(run: "FlowRun") -> None:
    """Kill this process and its children. A slot that it holds is free when its lease ends."""
    import psutil
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled

    children: list[Any] = psutil.Process().children(recursive=True)
    for child in children:
        try:
            # The watcher outlives this process: it closes the run in MLflow.
            if watcher.__name__ not in child.cmdline():
                child.kill()
        except psutil.Error:
            continue
    try:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run.id, Cancelled(message="the run was cancelled and killed"), force=True)
    finally:
        os.kill(os.getpid(), signal.SIGKILL)
