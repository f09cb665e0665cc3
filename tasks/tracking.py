"""MLflow runs: one parent a pipeline, a nested run a stage; MLflow may fail on the way without harming a training."""

import http.client
import logging
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tasks.disk import locked
from tasks.environment import git_revision
from tasks.errors import TrackingError
from tasks.evaluate import named_scores, read_report
from tasks.logs import run_logger
from tasks.metrics import finite_numbers, read_metrics
from tasks.paths import METRICS_FILE, Workspace
from tasks.store import ArtifactRef, read_manifest

EXPERIMENT = "tickerforge"
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
CONNECT_SECONDS = 5.0

# MLflow's own defaults (seven retries of two minutes) would hold up a training for four minutes and more.
HTTP_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
BATCH_METRICS, BATCH_PARAMS = 1000, 100
LONGEST_PARAM, LONGEST_TAG = 6000, 5000
_CREDENTIALS = re.compile(r"://[^/?#\s]*@")


@dataclass(frozen=True)
class Tracking:
    """A reachable MLflow and our experiment in it."""

    uri: str
    experiment_id: str


@dataclass(frozen=True)
class PipelineRun:
    """The parent run of one pipeline."""

    tracking: Tracking
    run_id: str

    @property
    def address(self) -> str:
        """Where the run is seen: a page of the tracking server, or the command that shows the embedded database."""
        uri = without_credentials(self.tracking.uri)
        if uri.startswith("http"):
            return f"{uri.rstrip('/')}/#/experiments/{self.tracking.experiment_id}/runs/{self.run_id}"
        return f"mlflow ui --backend-store-uri {uri}"


def without_credentials(text: str) -> str:
    """A URL, or a text with URLs in it, without the users' names and passwords."""
    return _CREDENTIALS.sub("://", text)


def tracking_uri(workspace: Workspace) -> str:
    """`MLFLOW_TRACKING_URI`, or the workspace's own SQLite database."""
    return os.environ.get(TRACKING_VARIABLE) or f"sqlite:///{workspace.mlflow_db}"


def connect(workspace: Workspace) -> Tracking:
    """Reach MLflow at `MLFLOW_TRACKING_URI`, or the workspace's own SQLite database, and find or make the experiment.

    Raises:
        TrackingError: If it does not answer within seconds; says where it was looked for and what to do.
    """
    for name, value in HTTP_DEFAULTS.items():
        os.environ.setdefault(name, value)
    uri = tracking_uri(workspace)
    _check_reachable(uri)

    import mlflow
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    embedded = not uri.startswith("http")
    with as_tracking_error(uri), locked(workspace.root / "locks" / "mlflow.lock", waiting_for="MLflow's set-up"):
        mlflow.set_tracking_uri(uri)
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None and experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        if experiment is not None:
            return Tracking(uri, str(experiment.experiment_id))
        location = workspace.mlflow_artifacts.as_uri() if embedded else None
        return Tracking(uri, str(client.create_experiment(EXPERIMENT, artifact_location=location)))


def check_tracking() -> None:
    """Open MLflow as a run of this environment would.

    Raises:
        TrackingError: As `connect`.
    """
    connect(Workspace.current())


def start_pipeline(
    tracking: Tracking, name: str, *, params: Mapping[str, object], tags: Mapping[str, str]
) -> PipelineRun:
    """Open the parent run; `params` may be nested and is flattened to dotted names.

    Raises:
        TrackingError: If MLflow does not answer.
    """
    with as_tracking_error(tracking.uri):
        all_tags = {"git_revision": git_revision(), **tags}
        return PipelineRun(tracking, _start_run(tracking, name, parent=None, params=params, tags=all_tags))


def log_stage(run: PipelineRun, stage: str, *, artifact: ArtifactRef, params: Mapping[str, object]) -> None:
    """Log one finished stage as a nested run: parameters, its `metrics.jsonl`, summary, key, hash, seed, `cached`.

    A failure of MLflow is logged as a warning and goes no further: the metrics stay in the artifact.
    """
    with _survived(f"log the stage {stage}; its metrics are in {artifact.path}"):
        manifest = read_manifest(artifact)
        tags = {
            "stage": stage,
            "store_key": artifact.key,
            "data_sha256": artifact.sha256,
            "git_revision": manifest.git_revision,
            "seed": str(manifest.seed),
            "cached": str(artifact.cached).lower(),
        }
        run_id = _start_run(run.tracking, stage, parent=run.run_id, params=params, tags=tags)
        summary = {f"summary/{name}": value for name, value in artifact.meta.items()}
        _log_metrics(run.tracking, run_id, [*read_metrics(artifact.path / METRICS_FILE), (0, finite_numbers(summary))])
        client_of(run.tracking).set_terminated(run_id)


def log_comparison(run: PipelineRun, comparison: ArtifactRef) -> None:
    """Log an artifact of `compare_models`: nested runs with the `split/metric` of every model, and the report's files.

    The parent run gets the figures of the model chosen on validation. A failure of MLflow is logged as a warning and
    goes no further.
    """
    report = read_report(comparison)
    scores, chosen = named_scores(report), report.chosen
    with _survived("log the comparison; its figures are in the report"):
        parent = _start_run(run.tracking, "comparison", parent=run.run_id, params={}, tags={"stage": "comparison"})
        for model, metrics in scores.items():
            tags = {"stage": "comparison", "model": model, "chosen": str(model == chosen).lower()}
            run_id = _start_run(run.tracking, f"comparison {model}", parent=parent, params={}, tags=tags)
            _log_metrics(run.tracking, run_id, [(0, finite_numbers(metrics))])
            client_of(run.tracking).set_terminated(run_id)
        if chosen is not None:
            for run_id in (parent, run.run_id):
                _log_metrics(run.tracking, run_id, [(0, finite_numbers(scores[chosen]))])
        client_of(run.tracking).log_artifacts(run.run_id, str(comparison.path), "model_comparison")
        client_of(run.tracking).set_terminated(parent)


def finish_pipeline(run: PipelineRun, *, status: str = "FINISHED", tags: Mapping[str, str] | None = None) -> None:
    """Close the parent run as `FINISHED`, `FAILED` or `KILLED`; a failure of MLflow is logged as a warning."""
    with _survived("close the run"):
        for key, value in (tags or {}).items():
            client_of(run.tracking).set_tag(run.run_id, key, value[:LONGEST_TAG])
        client_of(run.tracking).set_terminated(run.run_id, status)


def flatten(params: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested parameters as dotted names and texts, as MLflow takes them."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)[:LONGEST_PARAM]
    return flat


def start_nested_run(run: PipelineRun, name: str, *, tags: Mapping[str, str]) -> str:
    """Open a nested run and return its id; raises what MLflow raises."""
    return _start_run(run.tracking, name, parent=run.run_id, params={}, tags=tags)


def _start_run(
    tracking: Tracking, name: str, *, parent: str | None, params: Mapping[str, object], tags: Mapping[str, str]
) -> str:
    from mlflow.entities import Param

    client = client_of(tracking)
    nested = {"mlflow.parentRunId": parent} if parent else {}
    short = {key: value[:LONGEST_TAG] for key, value in tags.items()}
    run_id = str(client.create_run(tracking.experiment_id, run_name=name, tags={**short, **nested}).info.run_id)
    flat = [Param(key, value) for key, value in flatten(params).items()]
    for start in range(0, len(flat), BATCH_PARAMS):
        client.log_batch(run_id, params=flat[start : start + BATCH_PARAMS])
    return run_id


def _log_metrics(tracking: Tracking, run_id: str, rows: list[tuple[int, dict[str, float]]]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [Metric(name, value, now, step) for step, values in rows for name, value in values.items()]
    for start in range(0, len(metrics), BATCH_METRICS):
        client_of(tracking).log_batch(run_id, metrics=metrics[start : start + BATCH_METRICS])


def client_of(tracking: Tracking) -> Any:
    """An MLflow client for this tracking address."""
    from mlflow import MlflowClient

    return MlflowClient(tracking.uri)


def _check_reachable(uri: str) -> None:
    """Fail within seconds where no server answers; what it answers, and its certificate, is MLflow's own business."""
    if not uri.startswith(("http://", "https://")):
        return
    try:
        # urllib takes a user's name and password for a part of the host's name.
        urllib.request.urlopen(f"{without_credentials(uri).rstrip('/')}/health", timeout=CONNECT_SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            raise TrackingError(_unreachable(uri, error)) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        if not isinstance(getattr(error, "reason", None), ssl.SSLError):
            raise TrackingError(_unreachable(uri, error)) from error


def _unreachable(uri: str, error: BaseException) -> str:
    shown, reason = without_credentials(uri), without_credentials(" ".join(str(error).split()))[:300]
    if uri.startswith("http"):
        cure = f"Start the server, correct {TRACKING_VARIABLE}, or unset it to use the database in TICKERFORGE_HOME."
    else:
        cure = f"Check that the folder can be written; {TRACKING_VARIABLE} or TICKERFORGE_HOME selects another place."
    return f"MLflow at {shown} cannot be used: {reason}. {cure}"


def _mlflow_faults() -> tuple[type[BaseException], ...]:
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, RequestException, SQLAlchemyError, OSError, TrackingError)


@contextmanager
def as_tracking_error(uri: str) -> Iterator[None]:
    """Turn what MLflow raises where it cannot be used into a `TrackingError` with the cure."""
    try:
        yield
    except _mlflow_faults() as error:
        if isinstance(error, TrackingError):
            raise
        raise TrackingError(_unreachable(uri, error)) from error


@contextmanager
def _survived(doing: str) -> Iterator[None]:
    """The one border at which MLflow may fail: the fault becomes a warning and the pipeline goes on."""
    try:
        yield
    except _mlflow_faults() as error:
        run_logger(__name__).warning("MLflow could not %s (%s)", doing, " ".join(str(error).split())[:300])
