"""A simulated clock for a home: everything that it has recorded becomes older, as if that many days had passed."""

import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tickerforge.tasks.base.paths import RUN_TIMESTAMP, Workspace

DAY_SECONDS = 24 * 3600
PREFECT_TIMES = {
    "flow_run": ("created", "start_time", "end_time", "expected_start_time"),
    "task_run": ("start_time", "end_time"),
    "log": ("timestamp",),
    "artifact": ("created",),
    "events": ("occurred",),
    "event_resources": ("occurred",),
}
MLFLOW_TIMES = {
    "runs": ("start_time", "end_time"),
    "model_versions": ("creation_time",),
    "logged_models": ("creation_timestamp_ms",),
}


def make_older(workspace: Workspace, work: Path, *, days: float) -> None:
    """Make the runs, artifacts, versions and results of a home older; nothing may run."""
    if workspace.prefect_db.exists():
        shift = f"strftime('%Y-%m-%d %H:%M:%f', {{column}}, '-{round(days * DAY_SECONDS)} seconds')"
        _update(workspace.prefect_db, PREFECT_TIMES, shift + " || '000'")
    if workspace.mlflow_db.exists():
        _update(workspace.mlflow_db, MLFLOW_TIMES, f"{{column}} - {round(days * DAY_SECONDS * 1000)}")
    for root in (workspace.store, workspace.pulled, workspace.state / "records", workspace.state / "service" / "logs"):
        for path in sorted(root.rglob("*"), reverse=True):
            then = path.lstat().st_mtime - days * DAY_SECONDS
            os.utime(path, (then, then), follow_symlinks=False)
    for folder in sorted((work / "results").glob("*_*_*")):
        _rename(workspace, folder, days=days)


def _update(database: Path, times: dict[str, tuple[str, ...]], value: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, columns in times.items():
            there = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
            assert there.issuperset(columns), (table, there)
            assignments = ", ".join(f"{column} = {value.format(column=column)}" for column in columns)
            connection.execute(f"UPDATE {table} SET {assignments}")


def _rename(workspace: Workspace, folder: Path, *, days: float) -> None:
    stock, day, clock = folder.name.rsplit("_", 2)
    began = datetime.strptime(f"{day}_{clock}", RUN_TIMESTAMP).replace(tzinfo=UTC)
    then = began - timedelta(days=days)
    older = folder.with_name(f"{stock}_{then.strftime(RUN_TIMESTAMP)}")
    folder.rename(older)
    with closing(sqlite3.connect(workspace.mlflow_db)) as connection, connection:
        change = "UPDATE tags SET value = replace(value, ?, ?) WHERE key = 'results'"
        connection.execute(change, (folder.name, older.name))
