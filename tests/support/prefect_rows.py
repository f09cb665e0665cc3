"""A database of Prefect with its real tables, in which tests record runs."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prefect.server import models, schemas
from prefect.server.database import PrefectDBInterface, dependencies, provide_database_interface
from prefect.server.schemas.states import State, StateType
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, temporary_settings

from tickerforge.flows.server.sqlite import wait_for_write_lock


def make_empty(path: Path) -> None:
    """Make a database without runs: a copy of that of the tests' server, because Prefect's migrations take long."""
    there = PREFECT_API_DATABASE_CONNECTION_URL.value().partition(":///")[2]
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(there)) as source, closing(sqlite3.connect(path)) as copy:
        source.backup(copy)
        for table in ("flow_run", "task_run", "flow_run_state", "log", "artifact", "artifact_collection", "events"):
            copy.execute(f"DELETE FROM {table}")
        copy.commit()


@contextmanager
def used(path: Path) -> Iterator[PrefectDBInterface]:
    """Let Prefect in this process use a database."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(dependencies.MODELS_DEPENDENCIES, "database_config", None)
        with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{path}"}):
            wait_for_write_lock()
            yield provide_database_interface()


def run(
    db: PrefectDBInterface,
    flow: str,
    start: datetime,
    *,
    lasts: timedelta = timedelta(hours=1),
    state: StateType = StateType.COMPLETED,
    name: str | None = None,
    scheduled: bool = False,
    parent: UUID | None = None,
) -> UUID:
    """Record a flow run with a task run, a log line, an artifact and an event; return its id."""

    async def write() -> UUID:
        async with db.session_context(begin_transaction=True) as session:
            of = await models.flows.create_flow(session=session, flow=schemas.core.Flow(name=flow))
            task = None
            if parent:
                task = uuid4()
                session.add(db.TaskRun(id=task, flow_run_id=parent, task_key="child", dynamic_key=str(task)))
                await session.flush()
            ended = None if state == StateType.RUNNING else start + lasts
            made = db.FlowRun(
                flow_id=of.id, start_time=start, end_time=ended, auto_scheduled=scheduled, parent_task_run_id=task
            )
            session.add(made)
            await session.flush()
            reached = State(type=state, name=name, timestamp=start)
            await models.flow_runs.set_flow_run_state(session, made.id, reached, force=True)
            made.start_time, made.end_time = start, ended
            session.add(db.TaskRun(flow_run_id=made.id, task_key="own", dynamic_key="0"))
            session.add(db.Log(flow_run_id=made.id, name="x", level=20, message="line", timestamp=start))
            artifact = schemas.core.Artifact(key="night", data=str(made.id), flow_run_id=made.id)
            await models.artifacts.create_artifact(session=session, artifact=artifact)
            session.add(
                db.Event(
                    id=uuid4(),
                    occurred=start,
                    event="e",
                    resource_id="r",
                    resource={},
                    payload={},
                    related=[],
                    received=start,
                    recorded=start,
                )
            )
            run_id: UUID = made.id
        await (await db.engine()).dispose()
        return run_id

    return asyncio.run(write())


def retry(db: PrefectDBInterface, run_id: UUID) -> None:
    """Start a run that has ended again, as the button in the UI does."""

    async def write() -> None:
        async with db.session_context(begin_transaction=True) as session:
            again = State(type=StateType.SCHEDULED, name="AwaitingRetry")
            await models.flow_runs.set_flow_run_state(session, run_id, again, force=True)
        await (await db.engine()).dispose()

    asyncio.run(write())
