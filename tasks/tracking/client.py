"""MLflow's client: the connection, our experiment, and one kind of error for all its failures."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tickerforge.tasks.base.disk import locked
from tickerforge.tasks.base.errors import TrackingError, TrackingRefused
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.tracking.server import check_reachable, forget_credentials, is_server, tracking_uri, unreachable

EXPERIMENT = "tickerforge"

# MLflow's own defaults (seven retries of two minutes) would delay a training by four minutes and more.
_HTTP_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
# The 4xx answers that may change without us: wrong password, no rights, too slow, too many requests.
_CURABLE = frozenset({401, 403, 408, 429})


@dataclass(frozen=True)
class Tracking:
    """A reachable MLflow and our experiment in it."""

    uri: str = field(repr=False)
    experiment_id: str


def connect(workspace: Workspace) -> Tracking:
    """Connect to `MLFLOW_TRACKING_URI`, or the workspace's own SQLite database, and find or create the experiment.

    Raises:
        TrackingError: If it does not answer within seconds; names the address and the cure.
    """
    for name, value in _HTTP_DEFAULTS.items():
        os.environ.setdefault(name, value)
    uri = tracking_uri(workspace)
    check_reachable(uri)

    import mlflow
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with as_tracking_error(uri), locked(workspace.locks / "mlflow.lock", waiting_for="MLflow's set-up"):
        if uri == workspace.mlflow_url:
            # SQLite would let other users of this machine read a new database.
            workspace.mlflow_db.touch(mode=0o600)
        mlflow.set_tracking_uri(uri)
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None and experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        if experiment is not None:
            return Tracking(uri, str(experiment.experiment_id))
        location = None if is_server(uri) else workspace.mlflow_artifacts.as_uri()
        return Tracking(uri, str(client.create_experiment(EXPERIMENT, artifact_location=location)))


def client_of(tracking: Tracking) -> Any:
    """Return an MLflow client for this tracking address."""
    from mlflow import MlflowClient

    return MlflowClient(tracking.uri)


def _faults() -> tuple[type[BaseException], ...]:
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    # MLflow's client uploads to S3 by itself if its server tells it to.
    botocore, boto3 = sys.modules.get("botocore.exceptions"), sys.modules.get("boto3.exceptions")
    s3 = [getattr(botocore, "BotoCoreError", OSError), getattr(botocore, "ClientError", OSError)]
    return (MlflowException, RequestException, SQLAlchemyError, OSError, *s3, getattr(boto3, "Boto3Error", OSError))


def _is_refusal(error: BaseException) -> bool:
    known = getattr(error, "get_http_status_code", None)
    status = known() if known else getattr(getattr(error, "response", None), "status_code", 0)
    return 400 <= status < 500 and status not in _CURABLE


@contextmanager
def as_tracking_error(uri: str) -> Iterator[None]:
    """Turn MLflow's errors into a `TrackingError` that names the cure and holds no credentials."""
    try:
        yield
    except _faults() as error:
        forget_credentials(error)
        kind = TrackingRefused if _is_refusal(error) else TrackingError
        raise kind(unreachable(uri, error)) from error
