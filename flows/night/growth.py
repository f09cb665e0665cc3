"""All places that grow on this machine, and the daily look at what of them no longer has a use, for the desk."""

import logging
import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from tickerforge.flows.server.embedded import API_VARIABLE, is_embedded
from tickerforge.tasks.base.growth import Place, Usage, database_place, usage
from tickerforge.tasks.base.paths import RESULTS_FOLDER, Workspace
from tickerforge.tasks.base.service import running_service, service_folder
from tickerforge.tasks.outputs.pruning import Prunable, keep_prunable, read_prunable
from tickerforge.tasks.tracking.server import tracking_uri

logger = logging.getLogger(__name__)

KEEP_NIGHTS = 30
"""Nights that the daily look takes for needed."""
_A_DAY = timedelta(hours=20)
_SQLITE = ("sqlite:///", "sqlite+aiosqlite:///")


def places(
    workspace: Workspace, folder: Path, *, prefect: str, mlflow: str, before: datetime, alone: bool
) -> list[Place]:
    """List every place, those first that others refer to.

    Args:
        workspace: The home.
        folder: The working folder of runs, with their results.
        prefect: URL of Prefect's database.
        mlflow: URL of MLflow's database.
        before: What only earlier times needed is stale.
        alone: As for `flows.server.pruning.read_flow_runs`.

    Raises:
        TrackingError: If MLflow's database cannot be read.
        PrefectUnavailable: If Prefect's database cannot be read.
    """
    from tickerforge.flows.remote.gpu_pool import ANSWERS
    from tickerforge.flows.server.pruning import log_place, prefect_place
    from tickerforge.tasks.outputs.pruning import results_place
    from tickerforge.tasks.registry.pruning import Backend, mlflow_places, pulled_place
    from tickerforge.tasks.store.pruning import answer_place, store_places

    keep: frozenset[str] = frozenset()
    in_mlflow: list[Place] = []
    database = database_file(mlflow)
    if database is None or database.is_file():
        backend = Backend(mlflow, files=workspace.mlflow_artifacts)
        contents = backend.contents(before=before)
        keep, in_mlflow = contents.results, mlflow_places(workspace, backend, contents)
    files = [("Prefect's database", database_file(prefect)), ("MLflow's database", database)]
    return [
        prefect_place(before=before, alone=alone),
        *in_mlflow,
        results_place(folder / RESULTS_FOLDER, before=before, keep=keep),
        *store_places(workspace, before=before),
        pulled_place(workspace, before=before),
        answer_place(workspace, ANSWERS, before=before),
        log_place(service_folder(workspace) / "logs", before=before),
        *(database_place(name, path) for name, path in files if path is not None and path.is_file()),
    ]


def database_file(url: str) -> Path | None:
    """Return the file of an SQLite database; `None` for a server, which reuses the space of removed rows itself."""
    prefix = next((prefix for prefix in _SQLITE if url.startswith(prefix)), None)
    return Path(url.removeprefix(prefix)) if prefix else None


def keep_look(
    found: Sequence[Place], sizes: Sequence[Usage], *, keep_nights: int, before: datetime, at: datetime
) -> None:
    """Keep what a prune would remove, for the desk.

    Args:
        found: From `places`.
        sizes: From `tasks.base.growth.usage`.
        keep_nights: Number of nights that stay.
        before: As for `places`.
        at: Now.

    Raises:
        StoreError: If it cannot be written.
    """
    things, freed = sum(place.stale for place in found), sum(size.freed for size in sizes)
    keep_prunable(Prunable(at=at, keep_nights=keep_nights, before=before, things=things, freed=freed))


def look_daily(workspace: Workspace, *, at: datetime) -> None:
    """Keep what a prune would remove now, for the desk, unless the last look is younger than a day.

    It reads the databases of this home and needs no server. If runs use other databases, it does nothing. It logs any
    error and raises none.

    Args:
        workspace: The home.
        at: Now.
    """
    try:
        last = read_prunable()
        if (last is None or at - last.at > _A_DAY) and (folder := _own_folder(workspace)) is not None:
            _look(workspace, folder, at=at)
    except Exception:
        logger.info("the desk does not show what `tickerforge prune` would remove", exc_info=True)


def _own_folder(workspace: Workspace) -> Path | None:
    """Return the working folder of runs if both databases are SQLite files of this home; else `None`."""
    service = running_service(workspace)
    if service is None:
        return Path.cwd() if is_embedded() and tracking_uri(workspace) == workspace.mlflow_url else None
    same = os.environ.get(API_VARIABLE) == service.prefect_api and tracking_uri(workspace) == service.mlflow
    return Path(service.working_dir) if same and service.database.startswith("SQLite") else None


def _look(workspace: Workspace, folder: Path, *, at: datetime) -> None:
    from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL, temporary_settings

    from tickerforge.flows.server.pruning import read_flow_runs

    prefect, mlflow = workspace.prefect_url, workspace.mlflow_url
    with temporary_settings({PREFECT_SERVER_DATABASE_CONNECTION_URL: prefect}):
        before = read_flow_runs(alone=False).limit(keep_nights=KEEP_NIGHTS)
        if before is None:
            # Kept, so that the next night of this day does not look again.
            keep_look([], [], keep_nights=KEEP_NIGHTS, before=at, at=at)
            return
        found = places(workspace, folder, prefect=prefect, mlflow=mlflow, before=before, alone=False)
    keep_look(found, usage(found), keep_nights=KEEP_NIGHTS, before=before, at=at)
