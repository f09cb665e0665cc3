"""MLflow runs: one parent a pipeline, a nested run a stage; MLflow may be down at any time, and is told later."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tickerforge.tasks.base.environment import git_revision
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.base.paths import METRICS_FILE, Workspace
from tickerforge.tasks.models.metrics import finite_numbers, read_metrics
from tickerforge.tasks.outputs.evaluate import named_scores, read_report
from tickerforge.tasks.store.artifacts import ArtifactRef, read_manifest
from tickerforge.tasks.tracking.backfill import Journal
from tickerforge.tasks.tracking.client import Tracking, as_tracking_error, client_of, connect
from tickerforge.tasks.tracking.runs import (
    LONGEST_TAG,
    PARENT_TAG,
    LifeSign,
    MetricRow,
    close_run,
    has_died,
    milliseconds,
    open_run,
    write_values,
)
from tickerforge.tasks.tracking.server import check_reachable, is_server, without_credentials

PIPELINE_TAG = "pipeline_id"
FLOW_RUN_TAG = "prefect_flow_run_id"


@dataclass(frozen=True)
class PipelineRun:
    """The parent run of one pipeline, in an MLflow that answered.

    `new` says that nothing can have been nested in it by an earlier attempt, which then is not looked for.
    """

    tracking: Tracking
    run_id: str
    new: bool = False

    @property
    def address(self) -> str:
        """Where the run is seen: a page of the tracking server, or the command that shows the embedded database."""
        uri = without_credentials(self.tracking.uri)
        if is_server(uri):
            return f"{uri.rstrip('/')}/#/experiments/{self.tracking.experiment_id}/runs/{self.run_id}"
        return f"mlflow ui --backend-store-uri {uri}"


@dataclass(frozen=True)
class PipelineLog:
    """What a pipeline under way tells MLflow, at once or as soon as MLflow answers."""

    journal: Journal[PipelineRun]
    life_sign: LifeSign


def check_tracking() -> None:
    """Open MLflow as a run of this environment would.

    Raises:
        TrackingError: As `connect`.
    """
    connect(Workspace.current())


def start_pipeline(
    tracking: Tracking,
    name: str,
    *,
    params: Mapping[str, object],
    tags: Mapping[str, str],
    pipeline_id: str | None = None,
    started: datetime | None = None,
    new: bool = False,
) -> PipelineRun:
    """Open the parent run; `params` may be nested and is flattened to dotted names.

    Args:
        tracking: From `connect`.
        name: Name of the run.
        params: The whole configuration.
        tags: What is searched for.
        pipeline_id: The run that was opened with it is found again, and no other made; a new one if not given.
        started: When the pipeline began; now if not given.
        new: The run cannot have been opened before.

    Raises:
        TrackingError: If MLflow does not answer.
    """
    client = client_of(tracking)
    with as_tracking_error(tracking.uri):
        run_id = open_run(
            client,
            tracking.experiment_id,
            name,
            found_by={PIPELINE_TAG: pipeline_id or uuid.uuid4().hex},
            tags={"git_revision": git_revision(), **tags},
            started=started,
            new=new or pipeline_id is None,
        )
        write_values(client, run_id, params=params)
        return PipelineRun(tracking, run_id)


def follow_pipeline(
    workspace: Workspace, name: str, *, params: Mapping[str, object], tags: Mapping[str, str], started: datetime
) -> PipelineLog:
    """Tell MLflow that a pipeline has begun; where MLflow is down that is a warning, and it is told later.

    Runs of the same ticker whose process was killed, and earlier ones of the same flow run, are closed as `KILLED`.

    Args:
        workspace: Where the embedded MLflow is, and the signs of life of the runs of this machine.
        name: Name of the parent run.
        params: The whole configuration.
        tags: What is searched for: `ticker`, `prefect_flow_run_id` and others.
        started: When the pipeline began.
    """
    pipeline_id, signs = uuid.uuid4().hex, workspace.root / "locks" / "runs"
    opened: PipelineRun | None = None
    tried = False

    def open_() -> PipelineRun:
        nonlocal opened, tried
        if opened is None:
            tracking, new = connect(workspace), not tried
            tried = True
            opened = start_pipeline(
                tracking, name, params=params, tags=tags, pipeline_id=pipeline_id, started=started, new=new
            )
        else:
            check_reachable(opened.tracking.uri)
        return opened

    log = PipelineLog(Journal(open_), LifeSign(signs, pipeline_id))
    _tell(log, "the start of the run", lambda run, client: _close_killed(run, client, tags=tags, signs=signs))
    return log


def wait_for_tracking(log: PipelineLog, *, patience_seconds: float | None = None) -> PipelineRun:
    """The parent run in MLflow once that has everything told so far; waits for an MLflow that is down.

    Args:
        log: From `follow_pipeline`.
        patience_seconds: For how long; `TICKERFORGE_MLFLOW_PATIENCE`, or five minutes, if not given.

    Raises:
        TrackingError: If MLflow does not answer in that time.
    """
    return log.journal.wait(patience_seconds)


def log_stage(log: PipelineLog, stage: str, *, artifact: ArtifactRef, params: Mapping[str, object]) -> None:
    """Log one finished stage as a nested run: parameters, its `metrics.jsonl`, summary, key, hash, seed, `cached`.

    Steps and times are those of the training. Where MLflow is down it follows later.
    """
    manifest = read_manifest(artifact)
    tags = {
        "stage": stage,
        "store_key": artifact.key,
        "data_sha256": artifact.sha256,
        "git_revision": manifest.git_revision,
        "seed": str(manifest.seed),
        "cached": str(artifact.cached).lower(),
    }
    summary = finite_numbers({f"summary/{name}": value for name, value in artifact.meta.items()})
    measured = read_metrics(artifact.path / METRICS_FILE)
    lasted = max((values.get("seconds", 0.0) for _, values in measured), default=0.0)
    began = manifest.created - timedelta(seconds=max(lasted, summary.get("summary/seconds", 0.0)))
    rows = [
        MetricRow(step, manifest.created - timedelta(seconds=lasted - values.get("seconds", lasted)), values)
        for step, values in measured
    ]
    rows.append(MetricRow(0, manifest.created, summary))

    def write(run: PipelineRun, client: Any) -> None:
        run_id = _nested(run, stage, tags=tags, started=began)
        write_values(client, run_id, params=params, metrics=rows)
        client.set_terminated(run_id, end_time=milliseconds(manifest.created))

    _tell(log, f"the stage {stage}", write)


def log_comparison(log: PipelineLog, comparison: ArtifactRef) -> None:
    """Log an artifact of `compare_models`: nested runs with the `split/metric` of every model, and the report's files.

    The parent run gets the figures of the model chosen on validation. Where MLflow is down it follows later.
    """
    report, created = read_report(comparison), read_manifest(comparison).created
    scores, chosen = named_scores(report), report.chosen
    figures = {name: [MetricRow(0, created, finite_numbers(metrics))] for name, metrics in scores.items()}

    def write(run: PipelineRun, client: Any) -> None:
        parent = _nested(run, "comparison", tags={"stage": "comparison"}, started=created)
        for model, rows in figures.items():
            tags = {"stage": "comparison", "model": model, "chosen": str(model == chosen).lower()}
            run_id = _nested(run, f"comparison {model}", tags=tags, parent=parent, started=created)
            write_values(client, run_id, metrics=rows)
            client.set_terminated(run_id)
        if chosen is not None:
            for run_id in (parent, run.run_id):
                write_values(client, run_id, metrics=figures[chosen])
        client.log_artifacts(run.run_id, str(comparison.path), "model_comparison")
        client.set_terminated(parent)

    _tell(log, "the comparison", write)


def finish_pipeline(
    log: PipelineLog,
    *,
    status: str = "FINISHED",
    tags: Mapping[str, str] | None = None,
    ended: datetime | None = None,
) -> None:
    """Close the parent run as `FINISHED`, `FAILED` or `KILLED`; where MLflow is down to the end, the log says so."""

    def write(run: PipelineRun, client: Any) -> None:
        for key, value in (tags or {}).items():
            client.set_tag(run.run_id, key, value[:LONGEST_TAG])
        client.set_terminated(run.run_id, status, end_time=milliseconds(ended) if ended else None)

    told = _tell(log, "the end of the run", write)
    if not told:
        run_logger(__name__).warning(
            "MLflow was down to the end of the run and lacks %d parts of it. The same command will log them all, from "
            "the store, once MLflow answers.",
            len(log.journal),
        )
    log.life_sign.end(told=told)


def start_nested_run(run: PipelineRun, name: str, *, tags: Mapping[str, str]) -> str:
    """Open a nested run, or find the one that an earlier attempt left, and return its id; raises what MLflow raises."""
    return _nested(run, name, tags=tags)


def _nested(
    run: PipelineRun,
    name: str,
    *,
    tags: Mapping[str, str],
    parent: str | None = None,
    started: datetime | None = None,
) -> str:
    return open_run(
        client_of(run.tracking),
        run.tracking.experiment_id,
        name,
        found_by={PARENT_TAG: parent or run.run_id},
        tags=tags,
        started=started,
        new=run.new,
    )


def _tell(log: PipelineLog, what: str, write: Callable[[PipelineRun, Any], None]) -> bool:
    tried = False

    def guarded(run: PipelineRun) -> None:
        nonlocal tried
        new, tried = not tried, True
        with as_tracking_error(run.tracking.uri):
            write(replace(run, new=new), client_of(run.tracking))

    return log.journal.tell(what, guarded)


def _close_killed(run: PipelineRun, client: Any, *, tags: Mapping[str, str], signs: Path) -> None:
    """Close the ticker's runs that are open although they are over."""
    wanted = f"attributes.status = 'RUNNING' and tags.ticker = '{tags.get('ticker', '')}'"
    for other in client.search_runs([run.tracking.experiment_id], filter_string=wanted):
        found, pipeline_id = other.data.tags, other.data.tags.get(PIPELINE_TAG, "")
        same_flow_run = FLOW_RUN_TAG in tags and found.get(FLOW_RUN_TAG) == tags[FLOW_RUN_TAG]
        died = bool(pipeline_id) and has_died(signs, pipeline_id)
        if other.info.run_id != run.run_id and (same_flow_run or died):
            close_run(client, run.tracking.experiment_id, other.info.run_id, status="KILLED")
            (signs / (pipeline_id or "unknown")).unlink(missing_ok=True)
            run_logger(__name__).info("closed the run %s in MLflow, which was killed", other.info.run_name)
