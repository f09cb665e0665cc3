import errno
import sqlite3
from pathlib import Path

import httpx
import pytest
import requests
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from tickerforge.features.errors import BarsError
from tickerforge.tasks.base.errors import StoreError, TrackingError
from tickerforge.tasks.base.retries import TASK_OPTIONS, is_transient, retry_condition
from tickerforge.training.errors import BackendUnavailable, TrainingDiverged


def http_status(code: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://mlflow")
    return httpx.HTTPStatusError("failed", request=request, response=httpx.Response(code, request=request))


def caused(outer: Exception, cause: Exception) -> Exception:
    outer.__cause__ = cause
    return outer


TRANSIENT = [
    ConnectionError("refused"),
    ConnectionResetError(errno.ECONNRESET, "reset"),
    TimeoutError("slow"),
    OSError(errno.EHOSTUNREACH, "no route"),
    sqlite3.OperationalError("database is locked"),
    OperationalError("INSERT", {}, sqlite3.OperationalError("database is locked")),
    requests.exceptions.ConnectionError("refused"),
    requests.exceptions.ReadTimeout("slow"),
    httpx.ConnectError("refused"),
    http_status(503),
    http_status(429),
    MlflowException("API request to http://mlflow failed with error code 503 != 200"),
    caused(TrackingError("MLflow cannot be used"), requests.exceptions.ConnectionError("refused")),
]
PERMANENT = [
    OSError(errno.ENOSPC, "No space left on device"),
    FileNotFoundError(errno.ENOENT, "missing"),
    PermissionError(errno.EACCES, "denied"),
    ValueError("bad"),
    BarsError("row 3"),
    TrainingDiverged("worse and worse", last_good=Path("checkpoint-20")),
    BackendUnavailable("no GPU"),
    StoreError("the disk is full"),
    sqlite3.OperationalError("no such table: runs"),
    http_status(404),
    http_status(401),
    requests.exceptions.InvalidURL("nonsense"),
    MlflowException("Invalid parameter value"),
    TrackingError("nothing is registered for AAPL"),
    caused(BarsError("row 3"), ConnectionError("refused")),
    KeyError("stage"),
    MemoryError(),
]


@pytest.mark.parametrize("error", TRANSIENT, ids=repr)
def test_a_transient_fault_is_worth_another_attempt(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize("error", PERMANENT, ids=repr)
def test_a_permanent_fault_is_not_tried_again(error: Exception) -> None:
    assert not is_transient(error)


def test_prefect_asks_with_the_failed_state() -> None:
    from prefect.states import Failed

    condition = TASK_OPTIONS["retry_condition_fn"]
    assert condition is retry_condition
    assert condition(None, None, Failed(data=ConnectionError("refused")))
    assert not condition(None, None, Failed(data=ValueError("bad")))


def test_work_waits_for_a_server_that_is_away_but_not_for_one_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    from tickerforge.tasks.base import retries

    monkeypatch.setattr(retries, "_PAUSE_SECONDS", 0.0)
    faults: list[Exception] = [ConnectionRefusedError("away"), TimeoutError("away still")]

    def call() -> str:
        if faults:
            raise faults.pop()
        return "there again"

    assert retries.patiently(call) == "there again"
    faults.append(ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        retries.patiently(call)
    monkeypatch.setattr(retries, "_PATIENCE_SECONDS", -1.0)
    faults.append(TimeoutError("away for too long"))
    with pytest.raises(TimeoutError, match="too long"):
        retries.patiently(call)
