"""Runs in MLflow. Every write may be repeated: a run is found again and completed, never created twice."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tickerforge.tasks.base.disk import locked
from tickerforge.tasks.base.errors import LockTimeout, StoreError

PARENT_TAG = "mlflow.parentRunId"
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
    """A locked file that shows that a pipeline's process is alive; when the process ends, the lock is released."""

    def __init__(self, folder: Path, name: str) -> None:
        """Lock `folder/name`.

        Raises:
            StoreError: If it cannot be written.
        """
        self._path = folder / name
        with locked(self._path, waiting_for="the sign of life of a run") as descriptor:
            # The copy keeps the lock, also when nothing refers to this object any more.
            self._descriptor = os.dup(descriptor)

    def end(self, *, logged: bool) -> None:
        """Unlock the file; if MLflow does not have the run's end (`logged`), it stays for the next run to report."""
        if self._descriptor < 0:
            return
        if logged:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1


def has_died(folder: Path, name: str) -> bool:
    """Return whether the process that locked `folder/name` has ended; `False` without the file: another machine's."""
    path = folder / name
    if not path.is_file():
        return False
    try:
        with locked(path, waiting_for="the sign of life of a run", timeout=0, create=False):
            return True
    except (LockTimeout, StoreError):
        return False
