"""Runs in MLflow. Every write may be repeated: a run is found again and completed, never created twice."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tickerforge.tasks.base.disk import locked
from tickerforge.tasks.base.errors import LockTimeout, StoreError
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.tracking.client import Tracking, as_tracking_error, client_of

PARENT_TAG = "mlflow.parentRunId"
PIPELINE_TAG = "pipeline_id"
RESULTS_TAG = "results"
LONGEST_PARAM, LONGEST_TAG = 6000, 5000
# MLflow accepts a thousand values per call, and at most a hundred of them may be parameters.
_BATCH_METRICS, _BATCH_PARAMS = 900, 100


@dataclass(frozen=True)
class StepMetrics:
    """Values by name of one step, and when they were measured."""

    step: int
    instant: datetime
    values: Mapping[str, float]


def milliseconds(instant: datetime) -> int:
    """Return an instant as MLflow writes it: milliseconds since 1970."""
    return round(instant.timestamp() * 1000)


def open_run(
    client: Any,
    experiment_id: str,
    name: str,
    *,
    found_by: Mapping[str, str],
    tags: Mapping[str, str],
    started: datetime | None = None,
    new: bool = False,
) -> str:
    """Return the id of the run with these tags: found if an earlier attempt was interrupted, else created now.

    Args:
        client: MLflow's.
        experiment_id: The run's experiment.
        name: Name of the run; together with `found_by` it is unique.
        found_by: Tags that identify the run.
        tags: Its other tags.
        started: When it began; now by default.
        new: Whether there was no earlier attempt, so that no search is needed.
    """
    short = {key: value[:LONGEST_TAG] for key, value in {**tags, **found_by}.items()}
    wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in found_by.items())
    there = [] if new else client.search_runs([experiment_id], filter_string=wanted)
    found = [run for run in there if run.info.run_name == name]
    # There are two if MLflow created one but could not answer.
    for double in found[1:]:
        client.delete_run(double.info.run_id)
    if found:
        return str(found[0].info.run_id)
    time = milliseconds(started) if started else None
    return str(client.create_run(experiment_id, run_name=name, tags=short, start_time=time).info.run_id)


def write_values(
    client: Any, run_id: str, *, params: Mapping[str, object] | None = None, metrics: Sequence[StepMetrics] = ()
) -> None:
    """Log parameters and metrics in as few calls as MLflow allows; values that it has already stay single.

    Args:
        client: MLflow's.
        run_id: The run.
        params: May be nested; flattened to dotted names.
        metrics: Values with their own steps and times.
    """
    from mlflow.entities import Metric, Param

    settings = [Param(key, value) for key, value in flatten(params or {}).items()]
    values = [
        Metric(name, value, milliseconds(row.instant), row.step)
        for row in metrics
        for name, value in row.values.items()
    ]
    for batch in range(max(math.ceil(len(settings) / _BATCH_PARAMS), math.ceil(len(values) / _BATCH_METRICS))):
        client.log_batch(
            run_id,
            params=settings[batch * _BATCH_PARAMS : (batch + 1) * _BATCH_PARAMS],
            metrics=values[batch * _BATCH_METRICS : (batch + 1) * _BATCH_METRICS],
        )


def flatten(params: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Turn nested parameters into dotted names and texts, as MLflow stores them."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)[:LONGEST_PARAM]
    return flat


def close_run(client: Any, experiment_id: str, run_id: str, *, status: str) -> None:
    """Close a run that was left open, after the runs nested in it."""
    for child in client.search_runs([experiment_id], filter_string=f"tags.`{PARENT_TAG}` = '{run_id}'"):
        if child.info.status == "RUNNING":
            close_run(client, experiment_id, child.info.run_id, status=status)
    client.set_terminated(run_id, status)


class LifeSign:
    """A locked file that shows that a pipeline's process is alive; when the process ends, the lock is released.

    A process of its own waits for that and closes the run in MLflow, so that a killed run does not stay open there.
    """

    def __init__(self, home: Path, path: Path) -> None:
        """Lock the file `path`, whose name is the pipeline's, and start to watch it.

        Raises:
            StoreError: If it cannot be written.
        """
        self._path = path
        with locked(path, waiting_for="the sign of life of a run") as descriptor:
            # The copy keeps the lock, also when nothing refers to this object any more.
            self._descriptor = os.dup(descriptor)
        self._watcher = _start("tickerforge.tasks.tracking.watcher", str(home), str(path))

    def end(self, *, logged: bool) -> None:
        """Unlock the file; if MLflow does not have the run's end (`logged`), the watcher or the next run reports it."""
        if self._descriptor < 0:
            return
        if logged:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1
        if logged:
            with suppress(ChildProcessError):
                os.waitpid(self._watcher, 0)


def _start(module: str, *arguments: str) -> int:
    """Start a module that outlives this process and all signals to its terminal; return its process id."""
    quiet = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in range(3)]
    command = [sys.executable, "-P", "-m", module, *arguments]
    return os.posix_spawn(sys.executable, command, os.environ, file_actions=quiet, setsid=True)


def close_killed(tracking: Tracking, sign: Path) -> None:
    """Close the run of a process that has ended without closing it, and remove its sign of life.

    Raises:
        TrackingError: If MLflow does not answer.
    """
    client = client_of(tracking)
    wanted = f"attributes.status = 'RUNNING' and tags.`{PIPELINE_TAG}` = '{sign.name}'"
    with as_tracking_error(tracking.uri):
        for run in client.search_runs([tracking.experiment_id], filter_string=wanted):
            close_run(client, tracking.experiment_id, run.info.run_id, status="KILLED")
            run_logger(__name__).info("closed the run %s in MLflow, which was killed", run.info.run_name)
    sign.unlink(missing_ok=True)


def has_died(sign: Path) -> bool:
    """Return whether the process that locked a sign of life has ended, and nobody is closing its run yet."""
    try:
        with locked(sign, waiting_for="the sign of life of a run", timeout=0, create=False):
            return True
    except (LockTimeout, StoreError):
        return False
