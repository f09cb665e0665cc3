"""What MLflow no longer needs: old versions with their files, and old runs. MLflow's own delete only marks them.

A parent run and its nested runs stay together if one of them is active or recent, or belongs to a version that stays.
A run to which the description of one of these links stays too.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tickerforge.tasks.base.disk import locked
from tickerforge.tasks.base.growth import Place, Step, discard, folders, is_leftover
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.registry.promotion import ROLLED_BACK_AT, predecessors
from tickerforge.tasks.registry.registration import copies_lock
from tickerforge.tasks.registry.shared_base import BASE_MODEL_FILES
from tickerforge.tasks.registry.versions import CHAMPION, PREFIX
from tickerforge.tasks.tracking.client import EXPERIMENT, as_tracking_error
from tickerforge.tasks.tracking.runs import PARENT_TAG, RESULTS_TAG, milliseconds
from tickerforge.tasks.tracking.stage_runs import DESCRIPTION_TAG

_RUN = re.compile(r"\bruns:?/([0-9a-f]{32})\b")
_LINK = re.compile(r"\[([^\]]*)\]\(#/experiments/[^)\s]*/runs/([0-9a-f]{32})[^)\s]*\)")
_MODEL = re.compile(r"\bm-[0-9a-f]{32}\b")


@dataclass(frozen=True)
class _Version:
    name: str
    version: str
    created: int
    text: str
    tags: Mapping[str, str]
    aliases: frozenset[str]

    @property
    def ours(self) -> bool:
        return self.name.startswith(PREFIX)


@dataclass(frozen=True)
class _Run:
    run_id: str
    parent: str
    at: float
    artifacts: str
    note: str
    results: str


@dataclass(frozen=True)
class _Model:
    model_id: str
    created: int
    artifacts: str


@dataclass(frozen=True)
class Contents:
    """What MLflow holds, what of it is stale, and the names of the results folders of the runs that stay."""

    before: datetime

    versions: tuple[_Version, ...]
    models: tuple[_Model, ...]
    runs: tuple[_Run, ...]
    stale_versions: tuple[_Version, ...]
    stale_models: tuple[_Model, ...]
    stale_runs: tuple[_Run, ...]
    results: frozenset[str]


class Backend:
    """MLflow's database, without its server, which offers no way to remove what is marked as deleted.

    Raises:
        TrackingError: If it cannot be opened.
    """

    def __init__(self, database: str, *, files: Path) -> None:
        """Open the database at a URL; it must have MLflow's tables. Local files outside of `files` are not removed."""
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self._database = database
        self._files = files.resolve()
        with as_tracking_error(database):
            from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Store

            # Its files have addresses of their own: the root of new experiments is of no use here.
            self.store: Any = Store(database, "mlflow-artifacts:/")
            self.registry: Any = Registry(database)

    def errors(self) -> AbstractContextManager[None]:
        """Turn MLflow's errors inside the block into a `TrackingError`."""
        return as_tracking_error(self._database)

    def contents(self, *, before: datetime) -> Contents:
        """Read everything, and decide what is stale: older than an instant and needed by nothing that stays."""
        with self.errors():
            return self._contents(before)

    def _contents(self, before: datetime) -> Contents:
        limit = milliseconds(before)
        versions, models, runs = tuple(self._versions()), tuple(self._models()), tuple(self._runs())
        kept = _kept_versions(versions, limit)
        needed = {model for version in kept for model in _MODEL.findall(version.text)}
        whole, targets = _kept_runs(runs, limit, linked={run for version in kept for run in _RUN.findall(version.text)})
        return Contents(
            before=before,
            versions=tuple(version for version in versions if version.ours),
            models=models,
            runs=runs,
            stale_versions=tuple(version for version in versions if version not in kept),
            stale_models=tuple(model for model in models if model.created < limit and model.model_id not in needed),
            stale_runs=tuple(_nested_first(run for run in runs if run.run_id not in whole | targets)),
            results=frozenset(Path(run.results).name for run in runs if run.results and run.run_id in whole),
        )

    def remove_versions(self, contents: Contents, step: Step) -> int:
        """Remove stale versions that nobody has given an alias meanwhile, and all files that no version needs."""
        from mlflow.store.tracking.dbmodels.models import SqlInput

        removed = 0
        for done, version in enumerate(contents.stale_versions, start=1):
            aliased = self.registry.get_registered_model(version.name).aliases.values()
            if str(version.version) not in {str(each) for each in aliased}:
                self.registry.delete_model_version(version.name, version.version)
                removed += 1
            step(done)
        self._forget_tags()
        live = {model for version in self._versions() for model in _MODEL.findall(version.text)}
        for model in contents.stale_models:
            if model.model_id not in live:
                self._remove_files(model.artifacts)
                with self.store.ManagedSessionMaker(read_only=False) as session:
                    session.query(SqlInput).filter(SqlInput.destination_id == model.model_id).delete()
                self.store._hard_delete_logged_model(model.model_id)
        return removed

    def remove_runs(self, contents: Contents, step: Step) -> int:
        """Remove stale runs with their files, and name in descriptions what is gone instead of linking to it."""
        from mlflow.entities import LifecycleStage
        from mlflow.store.tracking.dbmodels.models import SqlRun

        # A version or a run may need one since the first look; once they are marked, no new run links to them.
        still = {run.run_id for run in self.contents(before=contents.before).stale_runs}
        stale = [run for run in contents.stale_runs if run.run_id in still]
        ids = [run.run_id for run in stale]
        for first in range(0, len(ids), 500):
            with self.store.ManagedSessionMaker(read_only=False) as session:
                chosen = session.query(SqlRun).filter(SqlRun.run_uuid.in_(ids[first : first + 500]))
                chosen.update({SqlRun.lifecycle_stage: LifecycleStage.DELETED}, synchronize_session=False)
        for done, run in enumerate(stale, start=1):
            self._remove_files(run.artifacts)
            self.store._hard_delete_run(run.run_id)
            step(done)
        self._forget_links()
        return len(ids)

    def _remove_files(self, uri: str) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        folder = _local(uri)
        if folder is not None and not folder.resolve().is_relative_to(self._files):
            # MLflow stores absolute paths: those of a copied home lead into the original.
            run_logger(__name__).warning("%s lies outside of %s, so it stays there", folder, self._files)
            return
        try:
            get_artifact_repository(uri).delete_artifacts()
        except MlflowException as error:
            run_logger(__name__).warning("MLflow cannot remove the files at %s, so they stay there: %s", uri, error)
        if folder is not None:
            # MLflow leaves the folder of the run or model itself.
            with suppress(OSError):
                folder.parent.rmdir()

    def _forget_tags(self) -> None:
        """Remove the tags of deleted versions; MLflow keeps their numbers, so that none is given again."""
        from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
        from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlModelVersionTag
        from sqlalchemy import tuple_

        deleted = SqlModelVersion.current_stage == STAGE_DELETED_INTERNAL
        with self.registry.ManagedSessionMaker(read_only=False) as session:
            gone = session.query(SqlModelVersion.name, SqlModelVersion.version).filter(deleted)
            of = tuple_(SqlModelVersionTag.name, SqlModelVersionTag.version)
            session.query(SqlModelVersionTag).filter(of.in_(gone)).delete(synchronize_session=False)

    def _forget_links(self) -> None:
        from mlflow.store.tracking.dbmodels.models import SqlTag

        runs = tuple(self._runs())
        there = {run.run_id for run in runs}

        def without(link: re.Match[str]) -> str:
            return link[0] if link[2] in there else f"{link[1]} (removed by `tickerforge prune`)"

        for run in runs:
            if (note := _LINK.sub(without, run.note)) != run.note:
                with self.store.ManagedSessionMaker(read_only=False) as session:
                    chosen = session.query(SqlTag).filter(SqlTag.run_uuid == run.run_id, SqlTag.key == DESCRIPTION_TAG)
                    chosen.update({SqlTag.value: note}, synchronize_session=False)

    def _versions(self) -> Iterator[_Version]:
        from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
        from mlflow.store.model_registry.dbmodels.models import (
            SqlModelVersion,
            SqlModelVersionTag,
            SqlRegisteredModelAlias,
        )

        with self.registry.ManagedSessionMaker() as session:
            found = session.query(SqlModelVersion).filter(SqlModelVersion.current_stage != STAGE_DELETED_INTERNAL)
            rows = [
                (row.name, row.version, row.creation_time, f"{row.source} runs:/{row.run_id} {row.description}")
                for row in found
            ]
            tags: dict[tuple[str, int], dict[str, str]] = defaultdict(dict)
            for tag in session.query(SqlModelVersionTag):
                tags[tag.name, tag.version][tag.key] = tag.value
            aliases: dict[tuple[str, int], set[str]] = defaultdict(set)
            for alias in session.query(SqlRegisteredModelAlias):
                aliases[alias.name, alias.version].add(alias.alias)
        for name, version, created, text in rows:
            own = tags[name, version]
            named = frozenset(aliases[name, version])
            text = " ".join([text, *(own.get(tag, "") for tag in ("report", BASE_MODEL_FILES))])
            yield _Version(name, str(version), created, text, own, named)

    def _experiment(self) -> int | None:
        experiment = self.store.get_experiment_by_name(EXPERIMENT)
        return None if experiment is None else int(experiment.experiment_id)

    def _models(self) -> Iterator[_Model]:
        from mlflow.store.tracking.dbmodels.models import SqlLoggedModel

        with self.store.ManagedSessionMaker() as session:
            found = session.query(SqlLoggedModel).filter(SqlLoggedModel.experiment_id == self._experiment())
            rows = [_Model(row.model_id, row.creation_timestamp_ms, row.artifact_location) for row in found]
        yield from rows

    def _runs(self) -> Iterator[_Run]:
        """Yield our runs, also those that are marked as deleted."""
        from mlflow.entities import LifecycleStage
        from mlflow.store.tracking.dbmodels.models import SqlRun, SqlTag

        wanted = (PARENT_TAG, DESCRIPTION_TAG, RESULTS_TAG)
        with self.store.ManagedSessionMaker() as session:
            own = SqlRun.experiment_id == self._experiment()
            tags: dict[str, dict[str, str]] = defaultdict(dict)
            named = session.query(SqlTag.run_uuid, SqlTag.key, SqlTag.value).join(SqlRun)
            for run_id, key, value in named.filter(own, SqlTag.key.in_(wanted)):
                tags[run_id][key] = value
            columns = (SqlRun.run_uuid, SqlRun.status, SqlRun.start_time, SqlRun.end_time, SqlRun.lifecycle_stage)
            rows = session.query(*columns, SqlRun.artifact_uri).filter(own).all()
        for run_id, status, started, ended, stage, artifacts in rows:
            active = status == "RUNNING" and stage == LifecycleStage.ACTIVE
            yield _Run(
                run_id=run_id,
                parent=tags[run_id].get(PARENT_TAG, ""),
                at=float("inf") if active else ended or started or 0,
                artifacts=artifacts or "",
                note=tags[run_id].get(DESCRIPTION_TAG, ""),
                results=tags[run_id].get(RESULTS_TAG, ""),
            )


def mlflow_places(workspace: Workspace, backend: Backend, contents: Contents) -> list[Place]:
    """Return the registered versions, the runs, and the rows of the database if it is a file of this home."""
    models = tuple(path for model in contents.models if (path := _local(model.artifacts)))
    stale_models = tuple(path for model in contents.stale_models if (path := _local(model.artifacts)))
    stale_runs = tuple(path for run in contents.stale_runs if (path := _local(run.artifacts)))

    def guarded(work: Callable[[Contents, Step], int]) -> Callable[[Step], int]:
        def remove(step: Step) -> int:
            with backend.errors():
                return work(contents, step)

        return remove

    versions = Place(
        "registered versions",
        models,
        len(contents.versions),
        len(contents.stale_versions),
        guarded(backend.remove_versions),
        stale_models,
    )
    runs = Place(
        "MLflow runs",
        (workspace.mlflow_artifacts,),
        len(contents.runs),
        len(contents.stale_runs),
        guarded(backend.remove_runs),
        stale_runs,
    )
    return [versions, runs]


def pulled_place(workspace: Workspace, *, before: datetime) -> Place:
    """Return the copies of registered adapters on this machine; a copy is fetched again when a run needs it."""
    models = [folder for folder in _below(workspace.pulled) if folder.is_dir()]
    copies = [copy for model in models for copy in _below(model)]
    stale = {
        copy: partial(_discard_copy, copy)
        for copy in copies
        if is_leftover(copy) or copy.stat().st_mtime < before.timestamp()
    }
    return folders("fetched adapters", (workspace.pulled,), stale, items=len(copies))


def _below(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _discard_copy(copy: Path) -> bool:
    if not copy.is_dir():
        return False
    used = copy.stat().st_mtime
    with locked(copies_lock(copy.parent), waiting_for=f"copies of {copy.parent.name}"):
        return discard(copy, unless=lambda renamed: renamed.stat().st_mtime != used)


def _kept_versions(versions: Iterable[_Version], limit: int) -> list[_Version]:
    """Return versions that are recent, have an alias, were rolled back, or to which a rollback would return.

    The mark of a rollback prevents that the same adapter is promoted again.
    """
    by_name: dict[str, dict[str, _Version]] = defaultdict(dict)
    for version in versions:
        by_name[version.name][version.version] = version
    kept = []
    for same in by_name.values():
        tags = {number: version.tags for number, version in same.items()}
        former = {
            before
            for number, version in same.items()
            if CHAMPION in version.aliases
            for before in predecessors(number, tags)
        }
        kept += [
            version
            for number, version in same.items()
            if not version.ours
            or version.created >= limit
            or version.aliases
            or number in former
            or ROLLED_BACK_AT in version.tags
        ]
    return kept


def _kept_runs(runs: Iterable[_Run], limit: int, *, linked: set[str]) -> tuple[set[str], set[str]]:
    """Return the runs whose tree is recent or belongs to a version that stays, and those to which these link.

    Of the latter stay the targets themselves and the runs above them, but not the runs beside them.
    """
    by_id = {run.run_id: run for run in runs}
    trees: dict[str, list[_Run]] = defaultdict(list)
    for run in by_id.values():
        trees[_root(run, by_id)].append(run)
    wanted = {root for root, tree in trees.items() if any(run.at >= limit for run in tree)}
    wanted |= {_root(by_id[run_id], by_id) for run_id in linked & set(by_id)}
    whole = {run.run_id for root in wanted for run in trees[root]}
    targets = {run_id for run in whole for run_id in _RUN.findall(by_id[run].note)}
    for run_id in list(targets):
        while run_id in by_id:
            targets.add(run_id)
            run_id = by_id[run_id].parent
    return whole, targets - whole


def _root(run: _Run, by_id: Mapping[str, _Run]) -> str:
    while run.parent in by_id:
        run = by_id[run.parent]
    return run.run_id


def _nested_first(runs: Iterable[_Run]) -> list[_Run]:
    by_id = {run.run_id: run for run in runs}

    def depth(run: _Run) -> int:
        return 1 + depth(by_id[run.parent]) if run.parent in by_id else 0

    return sorted(by_id.values(), key=lambda run: (_root(run, by_id), -depth(run)))


def _local(uri: str) -> Path | None:
    """Return the folder of files that are on this machine."""
    place = urlsplit(uri)
    return Path(unquote(place.path)) if place.scheme in ("", "file") and place.path else None
