"""The slots on a Prefect server: one run per ticker and one heavy stage per GPU, across all its machines."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING

from tickerforge.features.prices.tickers import prefect_name
from tickerforge.flows.server.embedded import is_shared
from tickerforge.tasks.base.retries import is_transient, patiently

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

logger = logging.getLogger(__name__)

GPU_LIMIT = "tickerforge-gpu"
# Flows that hold the slot of a ticker, and flows that may hold one of a GPU.
TICKER_FLOWS = ("train-ticker", "retrain", "stage")
HEAVY_FLOWS = ("heavy-stage", "train-batch", "forecast-batch", "train-ticker", "nightly", "forecast", "stage")

# The limits whose slot this flow holds: a slot that is held for many stages is not requested again by each.
_held: ContextVar[frozenset[str]] = ContextVar("held", default=frozenset())

# If its holder was killed, a slot is free again after this time; a living holder renews it well before.
LEASE_SECONDS = 60
# A run that waits for longer than a moment says so, and again every minute.
MOMENT_SECONDS, REPORT_SECONDS = 2.0, 60.0


def ticker_limit(stock: str) -> str:
    """Return the name of the limit that allows one run per ticker at a time."""
    return f"tickerforge-ticker-{prefect_name(stock)}"


@contextmanager
def ticker_slot(stock: str) -> Iterator[None]:
    """Hold the ticker's only slot; wait if another run has it.

    With an embedded server there are only processes of this machine, and the locks of the store separate them.
    """
    if not is_shared():
        yield
        return

    def waits_for() -> str:
        runs = _at_work(TICKER_FLOWS, lambda run: run.name.partition(" ")[0] == stock)
        return f"the other run of {stock}: {runs}"

    with _slot(ticker_limit(stock), waits_for=waits_for):
        yield


@contextmanager
def gpu_slot() -> Iterator[None]:
    """Hold a GPU's slot; wait if all are taken. `deployments.prefect.deploy` sets their number."""
    if not is_shared():
        yield
        return

    def waits_for() -> str:
        runs = _at_work(HEAVY_FLOWS, lambda run: run.parameters.get("heavy_stages") != "gpu-pool")
        return f"a GPU, which is taken; at work: {runs}"

    with _slot(GPU_LIMIT, waits_for=waits_for):
        yield


def _make_limit(name: str) -> None:
    """Create a limit of one if it is missing: without it nothing would be limited."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            client.upsert_global_concurrency_limit_by_name(name, 1)


@contextmanager
def _slot(name: str, *, waits_for: Callable[[], str]) -> Iterator[None]:
    from prefect.concurrency.sync import concurrency

    if name in _held.get():
        yield
        return
    patiently(lambda: _make_limit(name))

    # A server outage must not end hours of training: the work continues without the slot.
    def slot() -> AbstractContextManager[None]:
        return concurrency(
            name, occupy=1, strict=True, lease_duration=LEASE_SECONDS, raise_on_lease_renewal_failure=False
        )

    held = ExitStack()
    with _reported(waits_for):
        patiently(lambda: held.enter_context(slot()))
    token = _held.set(_held.get() | {name})
    try:
        yield
    finally:
        _held.reset(token)
        try:
            held.close()
        except Exception as error:
            if not is_transient(error):
                raise
            logger.warning("Prefect does not answer: the slot of %s will be free in %d s", name, LEASE_SECONDS)


@contextmanager
def _reported(waits_for: Callable[[], str]) -> Iterator[None]:
    """Log what this run waits for if the block takes longer than a moment, and then every minute."""
    over = threading.Event()

    def report() -> None:
        pause = MOMENT_SECONDS
        while not over.wait(pause):
            # It is only for information, and the server may be away.
            with suppress(Exception):
                logger.info("waiting for %s", waits_for())
            pause = REPORT_SECONDS

    threading.Thread(target=copy_context().run, args=(report,), daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _at_work(flows: Sequence[str], uses: Callable[["FlowRun"], bool]) -> str:
    """Name the other runs of some flows that are at work and use what this run waits for."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterState
    from prefect.client.schemas.filters import FlowRunFilterStateType as TypeFilter
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.runtime import flow_run as here

    with get_client(sync_client=True) as client:
        running = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=list(flows))),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=TypeFilter(any_=[StateType.RUNNING]))),
            sort=FlowRunSort.START_TIME_ASC,
        )
    own = {here.id, here.root_flow_run_id}
    found = [f"{run.name} ({run.id})" for run in running if str(run.id) not in own and uses(run)]
    return ", ".join(found) or "a run that has just ended"
