"""Prefect's database: the nights that it records, the runs that are at work, and the removal of old runs."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tickerforge.flows.errors import PrefectUnavailable
from tickerforge.tasks.base.growth import Place, Step

if TYPE_CHECKING:
    from prefect.server.database import PrefectDBInterface

NIGHT_FLOW, TICKER_FLOW = "nightly", "train-ticker"
SKIPPED = "Skipped"
_BATCH = 50
_EVENTS_BATCH = 1000


@dataclass(frozen=True)
class FlowRuns:
    """What Prefect's database holds.

    Attributes:
        nights: The first start of each night, UTC, by date, oldest first.
        active_since: The start of the oldest run that is at work; `None` if none is.
        total: Number of flow runs.
        trees: Ids of runs that have ended, each with all runs that it started, and the last end among them, UTC.
    """

    nights: dict[date, datetime]
    active_since: datetime | None
    total: int
    trees: tuple[tuple[datetime, tuple[UUID, ...]], ...]

    def limit(self, *, keep_nights: int) -> datetime | None:
        """Return the instant before which everything may go; `None` if fewer nights than are to be kept are recorded.

        A run at work keeps what is as old as it.
        """
        nights = list(self.nights.values())
        if len(nights) < keep_nights:
            return None
        return min(nights[-keep_nights], self.active_since or nights[-keep_nights])

    def stale(self, *, before: datetime) -> tuple[UUID, ...]:
        """Return the ids of the runs that ended before an instant, with all runs that they started."""
        return tuple(run for ended, tree in self.trees if ended < before for run in tree)


def read_flow_runs(*, alone: bool) -> FlowRuns:
    """Read the flow runs of the database that Prefect's settings name.

    Args:
        alone: Whether no run can be at work, so that one without an end was killed.
    """
    return asyncio.run(_with_database(partial(_read, alone=alone)))


def prefect_place(*, before: datetime, alone: bool) -> Place:
    """Return the flow runs, with their task runs, logs, artifacts and events; `alone` as for `read_flow_runs`."""
    runs = read_flow_runs(alone=alone)
    stale = runs.stale(before=before)

    def remove(step: Step) -> int:
        # Somebody may have pressed Retry since the first look.
        still = set(read_flow_runs(alone=alone).stale(before=before))
        going = tuple(run for run in stale if run in still)
        asyncio.run(_with_database(partial(_remove, stale=going, before=before, step=step)))
        return len(going)

    return Place("Prefect flow runs", (), runs.total, len(stale), remove)


async def _with_database(work: "Callable[[PrefectDBInterface], Coroutine[Any, Any, Any]]") -> Any:
    from prefect.server.database import provide_database_interface
    from sqlalchemy.exc import SQLAlchemyError

    from tickerforge.flows.server.sqlite import wait_for_write_lock

    wait_for_write_lock()
    db = provide_database_interface()
    try:
        return await work(db)
    except SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
        raise PrefectUnavailable(
            f"Prefect's database cannot be used ({reason}). If it is busy, try again later: what is done stays done"
        ) from error
    finally:
        await (await db.engine()).dispose()


async def _read(db: "PrefectDBInterface", *, alone: bool) -> FlowRuns:
    import sqlalchemy as sa
    from prefect.server.schemas.states import TERMINAL_STATES

    # Databases of an earlier Prefect lack columns.
    if alone:
        await db.create_db()
    columns = (
        *(db.FlowRun.id, db.FlowRun.start_time, db.FlowRun.end_time, db.FlowRun.created),
        *(db.FlowRun.state_type, db.FlowRun.state_name, db.FlowRun.auto_scheduled, db.Flow.name),
    )
    query = sa.select(*columns, db.TaskRun.flow_run_id.label("parent")).join(db.Flow, db.Flow.id == db.FlowRun.flow_id)
    query = query.outerjoin(db.TaskRun, db.TaskRun.id == db.FlowRun.parent_task_run_id)
    async with db.session_context() as session:
        rows = (await session.execute(query)).all()
    nights: dict[date, datetime] = {}
    for row in rows:
        night = row.name == NIGHT_FLOW or (row.name == TICKER_FLOW and row.auto_scheduled)
        if night and row.start_time and row.state_name != SKIPPED:
            day = row.start_time.date()
            nights[day] = min(row.start_time, nights.get(day, row.start_time))
    ended = {
        row.id: (row.end_time or row.start_time or row.created)
        for row in rows
        if row.state_type in TERMINAL_STATES or (alone and row.start_time)
    }
    active = [row.start_time for row in rows if row.id not in ended and row.start_time]
    parents = {row.id: row.parent for row in rows}
    trees: dict[UUID, list[UUID]] = {}
    for run in parents:
        root = run
        while parents.get(root) in parents:
            root = parents[root]
        trees.setdefault(root, []).append(run)
    return FlowRuns(
        nights=dict(sorted(nights.items())),
        active_since=min(active, default=None),
        total=len(rows),
        trees=tuple(
            (max(ended[run] for run in tree), tuple(tree))
            for tree in trees.values()
            if all(run in ended for run in tree)
        ),
    )


async def _remove(db: "PrefectDBInterface", *, stale: tuple[UUID, ...], before: datetime, step: Step) -> None:
    """Remove flow runs in small transactions, so that a server that runs is never kept waiting for long."""
    import sqlalchemy as sa
    from prefect.server import models
    from prefect.server.services import db_vacuum

    for first in range(0, len(stale), _BATCH):
        batch = stale[first : first + _BATCH]
        async with db.session_context(begin_transaction=True) as session:
            for kind in (db.Log, db.Artifact):
                await session.execute(sa.delete(kind).where(kind.flow_run_id.in_(batch)))
            await models.flow_runs.delete_flow_runs(session=session, flow_run_ids=list(batch))  # type: ignore[attr-defined]
        step(first + len(batch))
    # Prefect's own clean-up of what an interrupted removal, or one in its UI, has left.
    await db_vacuum.vacuum_orphaned_logs(db=db)
    await db_vacuum.vacuum_orphaned_artifacts(db=db)
    await db_vacuum.vacuum_stale_artifact_collections(db=db)
    for table in (db.EventResource, db.Event):
        removed = _EVENTS_BATCH
        while removed == _EVENTS_BATCH:
            old = sa.select(table.id).where(table.occurred < before).limit(_EVENTS_BATCH)
            async with db.session_context(begin_transaction=True) as session:
                result = await session.execute(sa.delete(table).where(table.id.in_(old.scalar_subquery())))
                removed = result.rowcount  # type: ignore[attr-defined]


def log_place(folder: Path, *, before: datetime) -> Place:
    """Return the service's logs; those that were closed before an instant are stale, the current ones never."""
    logs = sorted(folder.iterdir()) if folder.is_dir() else []
    closed = [log for log in logs if log.suffix != ".log" and log.stat().st_mtime < before.timestamp()]

    def remove(step: Step) -> int:
        for done, log in enumerate(closed, start=1):
            log.unlink(missing_ok=True)
            step(done)
        return len(closed)

    return Place("logs of the service", (folder,), len(logs), len(closed), remove, tuple(closed))
