"""The slots on a Prefect server: one run per ticker and one heavy stage per GPU, across all its machines."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar

from tickerforge.features.prices.bars import validate_ticker
from tickerforge.flows.server.embedded import is_shared
from tickerforge.tasks.base.retries import is_transient, patiently

logger = logging.getLogger(__name__)

GPU_LIMIT = "tickerforge-gpu"

# The limits whose slot this flow holds: a slot that is held for many stages is not requested again by each.
_held: ContextVar[frozenset[str]] = ContextVar("held", default=frozenset())

# If its holder was killed, a slot is free again after this time; a living holder renews it well before.
LEASE_SECONDS = 60


def ticker_limit(stock: str) -> str:
    """Return the name of the limit that allows one run per ticker at a time."""
    return f"tickerforge-ticker-{validate_ticker(stock)}"


@contextmanager
def ticker_slot(stock: str) -> Iterator[None]:
    """Hold the ticker's only slot; wait if another run has it.

    With an embedded server there are only processes of this machine, and the locks of the store separate them.
    """
    if not is_shared():
        yield
        return
    with _slot(ticker_limit(stock)):
        yield


@contextmanager
def gpu_slot() -> Iterator[None]:
    """Hold a GPU's slot; wait if all are taken. `deployments.prefect.deploy` sets their number."""
    if not is_shared():
        yield
        return
    with _slot(GPU_LIMIT):
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
def _slot(name: str) -> Iterator[None]:
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
