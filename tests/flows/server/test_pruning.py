"""Nights and old runs in a database of Prefect with its real tables."""

import asyncio
import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from prefect.server.database import PrefectDBInterface
from prefect.server.schemas.states import StateType

from prefect_rows import make_empty, retry, run, used
from tickerforge.flows.server.pruning import log_place, prefect_place, read_flow_runs

DAY = timedelta(days=1)
FIRST = datetime(2026, 11, 2, 4, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def empty(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prefect") / "prefect.db"
    make_empty(path)
    return path


@pytest.fixture
def database(empty: Path, tmp_path: Path) -> Iterator[PrefectDBInterface]:
    with used(Path(shutil.copy(empty, tmp_path))) as db:
        yield db


def counts(db: PrefectDBInterface) -> dict[str, int]:
    tables: dict[str, Any] = {
        "runs": db.FlowRun,
        "tasks": db.TaskRun,
        "states": db.FlowRunState,
        "logs": db.Log,
        "artifacts": db.Artifact,
        "events": db.Event,
    }

    async def read() -> dict[str, int]:
        async with db.session_context() as session:
            found = {
                name: (await session.execute(sa.select(sa.func.count()).select_from(table))).scalar_one()
                for name, table in tables.items()
            }
        await (await db.engine()).dispose()
        return found

    return asyncio.run(read())


def test_nights_are_days_on_which_the_night_or_a_scheduled_ticker_ran(database: PrefectDBInterface) -> None:
    run(database, "nightly", FIRST)
    run(database, "nightly", FIRST + timedelta(hours=10))
    run(database, "nightly", FIRST + 5 * DAY, name="Skipped")
    run(database, "train-ticker", FIRST + 2 * DAY)
    run(database, "train-ticker", FIRST + 1 * DAY, scheduled=True)
    run(database, "nightly", FIRST + 3 * DAY, state=StateType.FAILED)
    found = read_flow_runs(alone=False)
    assert found.nights == {
        date(2026, 11, 2): FIRST,
        date(2026, 11, 3): FIRST + 1 * DAY,
        date(2026, 11, 5): FIRST + 3 * DAY,
    }
    assert (found.total, found.active_since) == (6, None)
    assert [found.limit(keep_nights=nights) for nights in (2, 3, 4)] == [FIRST + DAY, FIRST, None]


def test_old_runs_go_with_their_children_tasks_logs_artifacts_and_events_and_the_latest_artifact_is_shown(
    database: PrefectDBInterface,
) -> None:
    old = run(database, "nightly", FIRST)
    run(database, "train-batch", FIRST, parent=old)
    run(database, "retrain", FIRST - 9 * DAY, parent=run(database, "nightly", FIRST + DAY))
    found = read_flow_runs(alone=False)
    before = FIRST + DAY
    assert len(found.stale(before=before)) == 2
    place = prefect_place(before=before, alone=False)
    steps: list[int] = []
    assert (place.items, place.stale, place.remove(steps.append), steps) == (4, 2, 2, [2])
    # The child that ended early stays with its parent; its event is older than all.
    assert counts(database) == {"runs": 2, "tasks": 3, "states": 2, "logs": 2, "artifacts": 2, "events": 1}
    assert read_flow_runs(alone=False).stale(before=before) == ()


def test_a_run_at_work_counts_until_nothing_can_be_at_work(database: PrefectDBInterface) -> None:
    night = run(database, "nightly", FIRST, state=StateType.RUNNING)
    run(database, "retrain", FIRST, parent=night)
    found = read_flow_runs(alone=False)
    assert found.active_since == FIRST
    assert found.stale(before=FIRST + 9 * DAY) == ()
    run(database, "nightly", FIRST + DAY)
    assert read_flow_runs(alone=False).limit(keep_nights=1) == FIRST


def test_a_run_that_is_started_again_before_the_removal_stays(database: PrefectDBInterface) -> None:
    again = run(database, "nightly", FIRST)
    run(database, "nightly", FIRST)
    place = prefect_place(before=FIRST + DAY, alone=False)
    retry(database, again)
    assert (place.stale, place.remove(lambda done: None)) == (2, 1)
    assert counts(database)["runs"] == 1


def test_what_an_interrupted_removal_leaves_goes_with_the_next(
    database: PrefectDBInterface, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.server.services import db_vacuum

    old = run(database, "nightly", FIRST)
    run(database, "train-batch", FIRST, parent=old)
    run(database, "nightly", FIRST + DAY)

    async def killed(**_: object) -> None:
        raise KeyboardInterrupt

    before = FIRST + DAY
    for patched in (True, False):
        with monkeypatch.context() as patch:
            if patched:
                patch.setattr("tickerforge.flows.server.pruning._BATCH", 1)
                patch.setattr(db_vacuum, "vacuum_orphaned_logs", killed)
            place = prefect_place(before=before, alone=False)
            if patched:
                with pytest.raises(KeyboardInterrupt):
                    place.remove(lambda done: None)
            else:
                place.remove(lambda done: None)
    assert counts(database) == {"runs": 1, "tasks": 1, "states": 1, "logs": 1, "artifacts": 1, "events": 1}


def test_closed_logs_of_the_service_go_and_the_current_one_stays(tmp_path: Path) -> None:
    import os

    for name in ("prefect.log", "prefect.log.1", "prefect.log.2"):
        (tmp_path / name).touch()
    for name in ("prefect.log", "prefect.log.2"):
        os.utime(tmp_path / name, (0, 0))
    place = log_place(tmp_path, before=datetime.now(UTC) - DAY)
    assert (place.items, place.stale, place.remove(lambda done: None)) == (3, 1, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prefect.log", "prefect.log.1"]
