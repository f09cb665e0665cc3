"""MLflow runs: a parent per pipeline, a nested run per stage; MLflow may be down at any time and gets them later."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tickerforge.features.stages import COMPARISON
from tickerforge.tasks.base.environment import git_revision
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.base.paths import METRICS_FILE, REPORT_FILE, Workspace
from tickerforge.tasks.models.training_log import finite_numbers, read_metrics
from tickerforge.tasks.outputs.evaluate import named_scores, read_report, read_verdict
from tickerforge.tasks.store.artifacts import ArtifactRef, read_manifest
from tickerforge.tasks.tracking.backfill import Journal
from tickerforge.tasks.tracking.client import Tracking, as_tracking_error, client_of, connect
from tickerforge.tasks.tracking.reports import log_report
from tickerforge.tasks.tracking.runs import (
    LONGEST_TAG,
    PARENT_TAG,
    PIPELINE_TAG,
    LifeSign,
    StepMetrics,
    close_killed,
    close_run,
    has_died,
    milliseconds,
    open_run,
    write_values,
)
from tickerforge.tasks.tracking.server import check_reachable, is_server, without_credentials

FLOW_RUN_TAG = "prefect_flow_run_id"
DESCRIPTION_TAG = "mlflow.note.content"
_FROM_STORE = "From the store:"
# MLflow shows groups of metrics in the order of their names: before `summary`.
CURVES = "curves"
# When the artifact of a nested run was made.
CREATED_TAG = "artifact_created"
_REPORT = f"{COMPARISON.results_folder}/{REPORT_FILE}"


@dataclass(frozen=True)
class PipelineRun:
    """The parent run of a pipeline in MLflow.

    `new` says that no earlier attempt can have nested runs in it, so that none are searched for.
    """

    tracking: Tracking
    run_id: str
    new: bool = False

    @property
    def page(self) -> str:
        """The run's page, relative to the address of MLflow's UI, which a browser may know under another name."""
        return f"#/experiments/{self.tracking.experiment_id}/runs/{self.run_id}"

    @property
    def report_page(self) -> str:
        """The page of the report among the run's files, if it was logged there."""
        return f"{self.page}/artifacts/{_REPORT}"

    @property
    def report_address(self) -> str:
        """The address of that page on the tracking server; empty without a server."""
        return self.web_address(_REPORT)

    def web_address(self, file: str = "") -> str:
        """Return the address of the run's page, or of one of its files, on the server; empty without a server."""
        uri = without_credentials(self.tracking.uri)
        if not is_server(uri):
            return ""
        return f"{uri.rstrip('/')}/{self.page}{f'/artifacts/{file}' if file else ''}"

    @property
    def address(self) -> str:
        """The run's page on the tracking server, or the command that shows the embedded database."""
        return self.web_address() or f"mlflow ui --backend-store-uri {without_credentials(self.tracking.uri)}"


@dataclass(frozen=True)
class PipelineLog:
    """What a running pipeline writes to MLflow, at once or as soon as MLflow answers."""

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
        tags: Tags for searches.
        pipeline_id: Identifies the run, so that it is found again; a new one by default.
        started: When the pipeline began; now by default.
        new: Whether the run cannot have been opened before.

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
    """Log to MLflow that a pipeline has begun; if MLflow is down, log a warning and write it later.

    Runs of this machine whose process was killed, and earlier ones of the same flow run, are closed as `KILLED`.

    Args:
        workspace: Holds the embedded MLflow and the signs of life of this machine's runs.
        name: Name of the parent run.
        params: The whole configuration.
        tags: Tags for searches: `ticker`, `prefect_flow_run_id` and others.
        started: When the pipeline began.
    """
    pipeline_id, signs = uuid.uuid4().hex, workspace.locks / "runs"
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

    log = PipelineLog(Journal(open_), LifeSign(workspace.root, signs / pipeline_id))
    flow_run = tags.get(FLOW_RUN_TAG, "")
    _add(log, "the start of the run", lambda run, client: _close_former(run, client, flow_run=flow_run, signs=signs))
    return log


def wait_for_tracking(log: PipelineLog, *, patience_seconds: float | None = None) -> PipelineRun:
    """Wait until MLflow has everything written so far, and return the parent run.

    Args:
        log: From `follow_pipeline`.
        patience_seconds: Time limit; `TICKERFORGE_MLFLOW_PATIENCE` or five minutes by default.

    Raises:
        TrackingError: If MLflow does not answer in that time.
    """
    return log.journal.wait(patience_seconds)


def log_stage(log: PipelineLog, stage: str, *, artifact: ArtifactRef, params: Mapping[str, object]) -> None:
    """Log a finished stage as a nested run: parameters, its `metrics.jsonl` as `curves`, summary, key, hash and seed.

    Steps and times are those of the training. For a stage from the store the parent run links to the run that made it.
    If MLflow is down, all this follows later.
    """
    manifest = read_manifest(artifact)
    tags = {
        "stage": stage,
        "store_key": artifact.key,
        CREATED_TAG: manifest.created.isoformat(),
        "data_sha256": artifact.sha256,
        "git_revision": manifest.git_revision,
        "seed": str(manifest.seed),
    }
    summary = finite_numbers({f"summary/{name}": value for name, value in artifact.meta.items()})
    measured = read_metrics(artifact.path / METRICS_FILE)
    lasted = max((values.get("seconds", 0.0) for _, values in measured), default=0.0)
    began = manifest.created - timedelta(seconds=max(lasted, summary.get("summary/seconds", 0.0)))
    rows = [
        StepMetrics(
            step,
            manifest.created - timedelta(seconds=lasted - values.get("seconds", lasted)),
            {f"{CURVES}/{name}": value for name, value in values.items()},
        )
        for step, values in measured
    ]
    rows.append(StepMetrics(0, manifest.created, summary))

    def write(run: PipelineRun, client: Any) -> None:
        if artifact.cached and (maker := _maker(run, client, tags=tags)):
            _describe(run, client, link=f"[{stage}]({replace(run, run_id=maker.info.run_id).page})")
            return
        run_id = _nested(run, stage, tags=tags, started=began)
        write_values(client, run_id, params=params, metrics=rows)
        client.set_terminated(run_id, end_time=milliseconds(manifest.created))

    _add(log, f"the stage {stage}", write)


def log_comparison(log: PipelineLog, comparison: ArtifactRef) -> None:
    """Log an artifact of `compare_models`: a nested run with the `model/split/metric` of all models, and the report.

    The parent run gets the figures of the model chosen on validation, and the verdict. For a comparison from the store
    it links to the run that made it. If MLflow is down, all this follows later.
    """
    report, created = read_report(comparison), read_manifest(comparison).created
    headline, stage = read_verdict(comparison).headline, COMPARISON.name
    scores, chosen = named_scores(report), report.chosen
    compared = {f"{model}/{name}": value for model, values in scores.items() for name, value in values.items()}

    def write(run: PipelineRun, client: Any) -> None:
        if chosen is not None:
            write_values(client, run.run_id, metrics=[StepMetrics(0, created, finite_numbers(scores[chosen]))])
        client.set_tag(run.run_id, "verdict", headline[:LONGEST_TAG])
        # The registration sets it again, with its outcome.
        client.set_tag(run.run_id, "promoted", "false")
        tags = {"stage": stage, "store_key": comparison.key, CREATED_TAG: created.isoformat(), "chosen": chosen or ""}
        maker = _maker(run, client, tags=tags) if comparison.cached else None
        holder = replace(run, run_id=maker.data.tags[PARENT_TAG]) if maker else run
        _describe(run, client, verdict=f"{headline} [Report]({holder.report_page})")
        if maker:
            return
        log_report(client, run.run_id, comparison)
        nested = _nested(run, stage, tags=tags, started=created)
        write_values(client, nested, metrics=[StepMetrics(0, created, finite_numbers(compared))])
        client.set_terminated(nested)

    _add(log, "the comparison", write)


def finish_pipeline(
    log: PipelineLog,
    *,
    status: str = "FINISHED",
    tags: Mapping[str, str] | None = None,
    ended: datetime | None = None,
) -> None:
    """Close the parent run as `FINISHED`, `FAILED` or `KILLED`; if MLflow is still down, log what it lacks."""

    def write(run: PipelineRun, client: Any) -> None:
        for key, value in (tags or {}).items():
            client.set_tag(run.run_id, key, value[:LONGEST_TAG])
        client.set_terminated(run.run_id, status, end_time=milliseconds(ended) if ended else None)

    logged = _add(log, "the end of the run", write)
    if not logged:
        run_logger(__name__).warning(
            "MLflow was still down at the end of the run and lacks %d parts of it. Run the same command again once "
            "MLflow answers: it logs them all from the store.",
            len(log.journal),
        )
    log.life_sign.end(logged=logged)


def start_nested_run(run: PipelineRun, name: str, *, tags: Mapping[str, str]) -> str:
    """Open a nested run, or find that of an earlier attempt, and return its id; raises MLflow's errors."""
    return _nested(run, name, tags=tags)


def _maker(run: PipelineRun, client: Any, *, tags: Mapping[str, str]) -> Any | None:
    """Return the nested run that was logged when an artifact was made; `None` if MLflow has none.

    An artifact that was deleted and made again has the same key, and times of its own.
    """
    same = " and ".join(f"tags.{name} = '{tags[name]}'" for name in ("stage", "store_key", CREATED_TAG))
    wanted = f"{same} and attributes.status = 'FINISHED'"
    found = client.search_runs([run.tracking.experiment_id], filter_string=wanted, max_results=1)
    return found[0] if found else None


def _describe(run: PipelineRun, client: Any, *, verdict: str = "", link: str = "") -> None:
    """Add to the parent run's description: the verdict in front, a link to the run that made a stage at the end."""
    text = client.get_run(run.run_id).data.tags.get(DESCRIPTION_TAG, "")
    if (verdict or link) in text:
        return
    if link:
        text += f", {link}" if _FROM_STORE in text else f"\n\n{_FROM_STORE} {link}"
    client.set_tag(run.run_id, DESCRIPTION_TAG, f"{verdict}\n\n{text}".strip())


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


def _add(log: PipelineLog, what: str, write: Callable[[PipelineRun, Any], None]) -> bool:
    tried = False

    def guarded(run: PipelineRun) -> None:
        nonlocal tried
        new, tried = not tried, True
        with as_tracking_error(run.tracking.uri):
            write(replace(run, new=new), client_of(run.tracking))

    return log.journal.add(what, guarded)


def _close_former(run: PipelineRun, client: Any, *, flow_run: str, signs: Path) -> None:
    """Close the open runs of processes that were killed, and of earlier attempts of the same flow run."""
    for sign in signs.iterdir():
        if has_died(sign):
            close_killed(run.tracking, sign)
    if flow_run:
        wanted = f"attributes.status = 'RUNNING' and tags.`{FLOW_RUN_TAG}` = '{flow_run}'"
        for other in client.search_runs([run.tracking.experiment_id], filter_string=wanted):
            if other.info.run_id != run.run_id:
                close_run(client, run.tracking.experiment_id, other.info.run_id, status="KILLED")
