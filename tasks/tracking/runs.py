"""Runs in MLflow, written so that every write may be repeated: found again, completed, never doubled."""

import fcntl
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tickerforge.tasks.base.disk import os_errors_as_store_error

PARENT_TAG = "mlflow.parentRunId"
LONGEST_PARAM, LONGEST_TAG = 6000, 5000
# MLflow takes a thousand values a call, of which a hundred may be parameters.
BATCH_METRICS, BATCH_PARAMS = 900, 100


@dataclass(frozen=True)
class MetricRow:
    """Values by name of one step, and when they were measured."""

    step: int
    instant: datetime
    values: Mapping[str, float]


def milliseconds(instant: datetime) -> int:
    """An instant as MLflow writes it."""
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
    """The id of the run with these tags: found, where an earlier attempt was cut short, or made now.

    Args:
        client: MLflow's.
        experiment_id: Where the run is or will be.
        name: Name of the run; with `found_by` it names one run only.
        found_by: Tags by which the run is known.
        tags: Its other tags.
        started: When it began; now if not given.
        new: There was no earlier attempt, so that it need not be looked for.
    """
    short = {key: value[:LONGEST_TAG] for key, value in {**tags, **found_by}.items()}
    wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in found_by.items())
    there = [] if new else client.search_runs([experiment_id], filter_string=wanted)
    found = [run for run in there if run.info.run_name == name]
    # Two, where MLflow made one without being able to answer.
    for double in found[1:]:
        client.delete_run(double.info.run_id)
    if found:
        return str(found[0].info.run_id)
    time = milliseconds(started) if started else None
    return str(client.create_run(experiment_id, run_name=name, tags=short, start_time=time).info.run_id)


def write_values(
    client: Any, run_id: str, *, params: Mapping[str, object] | None = None, metrics: Sequence[MetricRow] = ()
) -> None:
    """Log parameters and metrics in as few calls as MLflow allows; what it has already it keeps but once.

    Args:
        client: MLflow's.
        run_id: The run.
        params: May be nested; flattened to dotted names.
        metrics: With their own steps and times.
    """
    from mlflow.entities import Metric, Param

    settings = [Param(key, value) for key, value in flatten(params or {}).items()]
    values = [
        Metric(name, value, milliseconds(row.instant), row.step)
        for row in metrics
        for name, value in row.values.items()
    ]
    for batch in range(max(math.ceil(len(settings) / BATCH_PARAMS), math.ceil(len(values) / BATCH_METRICS))):
        client.log_batch(
            run_id,
            params=settings[batch * BATCH_PARAMS : (batch + 1) * BATCH_PARAMS],
            metrics=values[batch * BATCH_METRICS : (batch + 1) * BATCH_METRICS],
        )


def flatten(params: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested parameters as dotted names and texts, as MLflow takes them."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)[:LONGEST_PARAM]
    return flat


def close_run(client: Any, experiment_id: str, run_id: str, *, status: str) -> None:
    """Close a run that was left open, and first the runs nested in it."""
    for child in client.search_runs([experiment_id], filter_string=f"tags.`{PARENT_TAG}` = '{run_id}'"):
        if child.info.status == "RUNNING":
            close_run(client, experiment_id, child.info.run_id, status=status)
    client.set_terminated(run_id, status)


class LifeSign:
    """A locked file that shows, as long as this process lives, that a pipeline is under way; kill -9 unlocks it."""

    def __init__(self, folder: Path, name: str) -> None:
        """Lock `folder/name`.

        Raises:
            StoreError: If it cannot be written.
        """
        self._path = folder / name
        with os_errors_as_store_error(folder, doing="marking a run as under way"):
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def end(self, *, told: bool) -> None:
        """Unlock the file; where MLflow was not `told` of the end it stays, so that the next run says so."""
        if self._descriptor < 0:
            return
        if told:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1


def has_died(folder: Path, name: str) -> bool:
    """Whether the process that locked `folder/name` has gone; no where there is no such file, as on another machine."""
    try:
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)
