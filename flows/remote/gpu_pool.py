"""Heavy stages on the work pool `gpu-pool`, each in its own flow run, which a restarted caller finds again."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from uuid import UUID

from prefect import task
from pydantic import BaseModel

from tickerforge.features.stages import BASE_MODEL
from tickerforge.flows.errors import ConfigError, StageFailed, StageRefused
from tickerforge.flows.remote.here import Here
from tickerforge.flows.remote.requests import REFUSALS, StageAnswer, StageOutput, StageRequest, content_digest
from tickerforge.tasks.base.retries import TASK_OPTIONS, is_transient, patiently
from tickerforge.tasks.store.artifacts import Store
from tickerforge.tasks.store.records import read_record
from tickerforge.training.config import TINY

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

logger = logging.getLogger(__name__)

Where = Literal["here", "gpu-pool"]
PoolName = Literal["cpu-pool", "gpu-pool"]
CPU_POOL: Literal["cpu-pool"] = "cpu-pool"
GPU_POOL: Literal["gpu-pool"] = "gpu-pool"
STAGE_DEPLOYMENT, BATCH_DEPLOYMENT = "heavy-stage/internal", "train-batch/internal"
FORECAST_DEPLOYMENT = "forecast-batch/internal"
ANSWERS = "answers"
# Prefect accepts parameters of up to half a megabyte, and a job takes some kilobytes.
MOST_JOBS = 100

_POLL_SECONDS = 1.0
# The run of a worker that dies crashes too; on the same machine the next run resumes where it stopped.
_ATTEMPTS = 3

_Answer = TypeVar("_Answer", bound=BaseModel)


@dataclass(frozen=True)
class GpuPool:
    """Runner of heavy stages on workers of `gpu-pool`; for use inside a flow. Finished stages come from `store`."""

    store: Store

    def run(self, requests: Sequence[StageRequest]) -> list[StageOutput]:
        """Find stages finished, or run them on the pool, in one flow run, and wait for it.

        Raises:
            StageFailed: If it failed there; its own flow run shows the cause.
            StageRefused: If it refused its inputs.
        """
        found = self._finished(requests)
        if found is not None:
            return found
        return on_gpu_pool.with_options(task_run_name=f"{requests[0].stage} on {GPU_POOL}")(list(requests))

    def _finished(self, requests: Sequence[StageRequest]) -> list[StageOutput] | None:
        """Return the outputs of stages that are all in the store; `None` if the pool must run one or look for it.

        A caller that is retried sends the same requests again, so that it finds the flow run that it started.
        """
        found: list[StageOutput] = []
        for request in requests:
            # With other base models, the backend depends on the machine, and so does what is to be found.
            if request.config.training.model != TINY:
                return None
            # The card of an adapter names its base model, and both may have to be fetched.
            if request.base_model is None and request.stage != BASE_MODEL.name:
                return None
            try:
                output = Here(self.store).find(request)
            except Exception as error:
                if not isinstance(error, REFUSALS) and not is_transient(error):
                    raise
                return None
            if output is None:
                return None
            found.append(output)
        return found


@task(name="on-gpu-pool", **TASK_OPTIONS)
def on_gpu_pool(requests: list[StageRequest]) -> list[StageOutput]:
    """Run heavy stages as one flow run on the pool; raise what `GpuPool.run` raises."""
    stock, stage = requests[0].config.stock, requests[0].stage
    parameters = {"requests": [request.model_dump(mode="json") for request in requests]}
    (answer,) = call_all([Call(STAGE_DEPLOYMENT, parameters, f"{stage} of {stock}")], answer=StageAnswer)
    if isinstance(answer, StageFailed):
        raise answer
    if answer.refusal:
        raise StageRefused(f"{stage} of {stock} was refused on {GPU_POOL}: {answer.refusal}")
    return list(answer.results)


@dataclass
class Call:
    """A deployment to run, with its parameters and its name in the log (`what`)."""

    deployment: str
    parameters: dict[str, Any]
    what: str
    attempt: int = 0
    crashes: int = 0
    logged_state: str = ""
    run_id: UUID | None = None


def call_all(calls: Sequence[Call], *, answer: type[_Answer]) -> list[_Answer | StageFailed]:
    """Run deployments in parallel, wait for all, and read the answers that they stored under their flow runs' ids.

    A key made of the calling flow run and the content of the parameters identifies each run: a caller that was killed
    and is retried waits for the runs that it started before. A run that had already ended without a result (failed,
    refused or cancelled) is started again, and so is one that crashes with its worker, at most twice. A caller that is
    cancelled cancels its runs; one that is only stopped lets them continue.

    Returns:
        In the order of the calls, each answer, or the error if the run failed, was cancelled, or crashed every time.
    """
    from prefect.client.orchestration import get_client

    results: dict[int, _Answer | StageFailed] = {}
    with get_client(sync_client=True) as client, _cancelled_with_caller(calls):
        for place, call in enumerate(calls):
            found = _start(call, answer)
            if found is not None:
                results[place] = found
        while len(results) < len(calls):
            time.sleep(_POLL_SECONDS)
            for place, call in enumerate(calls):
                if place in results or call.run_id is None:
                    continue
                ended = _look(call, call.run_id, answer, client=client)
                if ended is not None:
                    results[place] = ended
    return [results[place] for place in range(len(calls))]


def _start(call: Call, answer: type[_Answer]) -> _Answer | None:
    """Start a run or find it running, and return `None`; if it has ended already, return its answer."""
    from prefect.deployments import run_deployment
    from prefect.runtime import flow_run as here

    key = f"{here.root_flow_run_id}:{call.deployment}:{content_digest(call.parameters)}"
    start = partial(run_deployment, call.deployment, parameters=call.parameters, timeout=0, flow_run_name=call.what)
    while True:
        with _other_version_named(call.deployment):
            run: Any = patiently(partial(start, idempotency_key=f"{key}:{call.attempt}"))
        call.run_id = run.id
        if run.state is None or not run.state.is_final():
            return None
        found = read_record(ANSWERS, str(run.id), answer)
        # Another worker, or the same one after a fix, may accept what was refused before.
        if found is not None and not getattr(found, "refusal", ""):
            return found
        call.attempt += 1


@contextmanager
def _other_version_named(deployment: str) -> Iterator[None]:
    """Say what to do if the server has the deployments of another version of TickerForge.

    Raises:
        ConfigError: If the deployment is missing, or refuses the parameters that this version sends.
    """
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

    try:
        yield
    except (ObjectNotFound, PrefectHTTPStatusError) as error:
        refused = isinstance(error, PrefectHTTPStatusError)
        if isinstance(error, PrefectHTTPStatusError) and error.response.status_code not in (409, 422):
            raise
        problem = "does not take the parameters of this one" if refused else "is not there"
        raise ConfigError(
            f"the deployment {deployment} {problem}: the Prefect server has the deployments of another version of "
            "TickerForge. Run `tickerforge deploy`, or `tickerforge up` again, and then this run."
        ) from error


def _look(
    call: Call, run_id: UUID, answer: type[_Answer], *, client: "SyncPrefectClient"
) -> _Answer | StageFailed | None:
    """Return the answer or the failure of a run, or `None` while it runs; wait while the server is away."""
    run: FlowRun = patiently(lambda: client.read_flow_run(run_id))
    state = run.state
    if state is None or not state.is_final():
        name = (state and state.name) or "Scheduled"
        if name != call.logged_state:
            call.logged_state = name
            logger.info("%s is %s on %s", call.what, name.lower(), GPU_POOL)
        return None
    found = read_record(ANSWERS, str(run.id), answer)
    if found is not None:
        return found
    if state.is_crashed() and call.crashes + 1 < _ATTEMPTS:
        reason = state.message or "no reason given"
        logger.warning("%s crashed on %s (%s): starting it again", call.what, GPU_POOL, reason)
        call.crashes += 1
        call.attempt += 1
        return _start(call, answer)
    reason = state.message or "see its log"
    return StageFailed(f"{call.what} ended as {state.name} on {GPU_POOL} (flow run {run.name}): {reason}")


@contextmanager
def _cancelled_with_caller(calls: Sequence[Call]) -> Iterator[None]:
    """Cancel flow runs if their caller is cancelled while it waits, or if the server refuses one of them."""
    try:
        yield
    except BaseException as error:
        ended = not isinstance(error, Exception) and (isinstance(error, KeyboardInterrupt) or _is_cancelled())
        if ended or isinstance(error, ConfigError):
            _cancel([call.run_id for call in calls if call.run_id is not None])
        raise


def _is_cancelled() -> bool:
    """Return whether the calling flow run was cancelled; a signal alone does not show that."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.runtime import flow_run as here

    with get_client(sync_client=True) as client:
        roots = {here.id, here.root_flow_run_id} - {None}
        states = [client.read_flow_run(UUID(str(run_id))).state for run_id in roots]
    return any(state is not None and state.type in {StateType.CANCELLING, StateType.CANCELLED} for state in states)


def _cancel(run_ids: Sequence[UUID]) -> None:
    from httpx import HTTPError
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
    from prefect.states import Cancelling

    for run_id in run_ids:
        try:
            with get_client(sync_client=True) as client:
                state = client.read_flow_run(run_id).state
                if state is None or not state.is_final():
                    client.set_flow_run_state(run_id, Cancelling(message="the run that waits for it has ended"))
        except (PrefectHTTPStatusError, ObjectNotFound, HTTPError, RuntimeError) as error:
            logger.warning("the flow run %s could not be cancelled: %s", run_id, error)
