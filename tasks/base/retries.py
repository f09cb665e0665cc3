"""Retries: only transient failures of network, database and server are worth another attempt."""

import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from prefect.cache_policies import NO_CACHE

from tickerforge.evaluation.core.errors import EvaluationError
from tickerforge.features.errors import FeaturesError
from tickerforge.tasks.base.disk import NETWORK_ERRNOS
from tickerforge.tasks.base.errors import MarketDataError, PublishError, StoreError, StoreUnreachable, TrackingError
from tickerforge.tasks.base.logs import run_logger
from tickerforge.training.errors import TrainingError

RETRY_DELAYS_SECONDS = [2.0, 10.0]
# Work that took hours waits so long for a Prefect server that does not answer.
_PATIENCE_SECONDS, _PAUSE_SECONDS = 900.0, 5.0

Returned = TypeVar("Returned")

_FINAL = (FeaturesError, TrainingError, EvaluationError, StoreError, MarketDataError, PublishError)
RETRIED_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_HTTP_CLIENTS = ("requests", "urllib3", "httpx", "httpcore", "http.client")
_HTTP_TRANSPORT = (
    "Timeout",
    "Connect",
    "RemoteProtocol",
    "ReadError",
    "WriteError",
    "Pool",
    "MaxRetry",
    "Disconnected",
)
_DATABASE_BUSY = re.compile(
    r"database (table )?is locked|database is busy|could not serialize access|deadlock detected"
)
_SERVER_STATUS = re.compile(r"\b(?:error code|HTTP|status(?: code)?)[ :]*(408|429|500|502|503|504)\b")


def is_transient(error: BaseException) -> bool:
    """Return whether the same call may succeed in a moment.

    True for refused, reset and timed-out connections, for HTTP 408, 429 and 5xx, and for a busy database; also if one
    of these caused the error. False for everything else: a full disk, a missing file, bad data, bad configuration, a
    diverged training.
    """
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, _FINAL):
        if _is_transient_itself(seen):
            return True
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return False


def _is_transient_itself(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError | StoreUnreachable):
        return True
    module, name = type(error).__module__, type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status in RETRIED_STATUS
    if module.startswith(_HTTP_CLIENTS):
        return any(part in name for part in _HTTP_TRANSPORT)
    if module.startswith(("sqlite3", "sqlalchemy", "psycopg", "asyncpg")):
        return bool(_DATABASE_BUSY.search(str(error)))
    if module.startswith("mlflow") or isinstance(error, TrackingError):
        return bool(_DATABASE_BUSY.search(str(error)) or _SERVER_STATUS.search(str(error)))
    return isinstance(error, OSError) and error.errno in NETWORK_ERRNOS


def retry_condition(task: Any, run: Any, state: Any) -> bool:
    """Return whether the failure in `state` is transient; Prefect's `retry_condition_fn`."""
    failure = state.data
    if not isinstance(failure, BaseException):
        failure = state.result(raise_on_failure=False)
    return isinstance(failure, BaseException) and is_transient(failure)


def patiently(call: Callable[[], Returned]) -> Returned:
    """Call the Prefect server and return its answer; wait for some minutes if it does not answer.

    Args:
        call: May be called several times.

    Raises:
        Exception: Any error of `call` that is not transient, at once; a transient one after the wait.
    """
    began = time.monotonic()
    while True:
        try:
            return call()
        except Exception as error:
            if not is_transient(error) or time.monotonic() - began > _PATIENCE_SECONDS:
                raise
            run_logger(__name__).warning("Prefect does not answer: waiting (%s)", type(error).__name__)
            time.sleep(_PAUSE_SECONDS)


# Options of every Prefect task of this package: the artifact store is the cache, and only transient faults retry.
TASK_OPTIONS: dict[str, Any] = {
    "persist_result": False,
    "cache_policy": NO_CACHE,
    "retries": len(RETRY_DELAYS_SECONDS),
    "retry_delay_seconds": RETRY_DELAYS_SECONDS,
    "retry_condition_fn": retry_condition,
}
