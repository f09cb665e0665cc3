"""The command `prune`: removes what only nights before the latest ones need."""

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import typer
from rich.console import RenderableType
from rich.table import Table

from tickerforge.flows.cli.terminal import show
from tickerforge.flows.errors import ConfigError
from tickerforge.flows.night.growth import database_file, keep_look, places
from tickerforge.tasks.base.errors import ServiceError
from tickerforge.tasks.base.growth import Place, Usage, usage
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.base.service import Service, running_service, server_lock

logger = logging.getLogger(__name__)


def prune(workspace: Workspace, *, prefect: str, mlflow: str, keep_nights: int, dry_run: bool, yes: bool) -> None:
    """Show what is no longer needed, ask, remove it, and show what was removed.

    Args:
        workspace: The home.
        prefect: URL of Prefect's database.
        mlflow: URL of MLflow's database.
        keep_nights: Number of the latest nights whose runs stay.
        dry_run: Whether to stop before anything is removed.
        yes: Whether to remove without a question.

    Raises:
        ConfigError: If the environment names servers whose databases are not here.
    """
    service = running_service(workspace)
    _check_servers(service)
    os.environ["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = prefect
    with ExitStack() as held:
        alone = service is None and _is_alone(workspace, held)
        before = _limit(prefect, alone=alone, keep_nights=keep_nights)
        if before is None:
            return
        folder = Path(service.working_dir) if service else Path.cwd()

        def look() -> list[Place]:
            return places(workspace, folder, prefect=prefect, mlflow=mlflow, before=before, alone=alone)

        planned = look()
        held_before = usage(planned)
        look_kept = partial(keep_look, keep_nights=keep_nights, before=before)
        look_kept(planned, held_before, at=datetime.now(UTC))
        show(_plan(planned, held_before, before=before))
        if dry_run:
            return
        if not (yes or _agreed()):
            show("nothing was removed")
            return
        removed = _remove(planned)
        left = look()
        held_after = usage(left)
        look_kept(left, held_after, at=datetime.now(UTC))
        show(_outcome(planned, held_before, left, held_after))
    logger.info("removed %d of %d", removed, sum(place.stale for place in planned))


def _agreed() -> bool:
    try:
        return typer.confirm("Remove this?", err=True)
    except typer.Abort:
        raise ConfigError("nothing was removed: answer with y, or add --yes if nobody can answer") from None


def _check_servers(service: Service | None) -> None:
    own = service.variables() if service else {}
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        if os.environ.get(name) and os.environ[name] != own.get(name):
            raise ConfigError(
                f"{name} names a server whose database is not in this home: run `tickerforge prune` with the "
                f"TICKERFORGE_HOME, or the TICKERFORGE_DATABASE, of that server and without {name}"
            )


def _is_alone(workspace: Workspace, held: ExitStack) -> bool:
    """Take the lock of Prefect's database, so that no command begins before the end; `False` if one is at work."""
    try:
        held.enter_context(server_lock(workspace, alone=True))
    except ServiceError:
        return False
    return True


def _limit(prefect: str, *, alone: bool, keep_nights: int) -> datetime | None:
    """Return the instant before which everything may go; `None`, with the reason on the terminal, if nothing may."""
    from tickerforge.flows.server.pruning import read_flow_runs

    database = database_file(prefect)
    runs = read_flow_runs(alone=alone) if database is None or database.is_file() else None
    before = runs.limit(keep_nights=keep_nights) if runs else None
    if runs is None or before is None:
        recorded = len(runs.nights) if runs else 0
        show(f"Prefect has a record of {recorded} nights, {keep_nights} are to be kept: nothing to remove.")
    elif before == runs.active_since:
        show(f"A run has been active since {_written(before)}: only what is older goes.")
    return before


def _remove(places: Sequence[Place]) -> int:
    from tickerforge.tasks.base.progress import progress_reporter
    from tickerforge.training.contracts import Progress

    removed = 0
    with progress_reporter() as report:
        for place in places:

            def step(done: int, place: Place = place) -> None:
                report(Progress(place.name, done, max(place.stale, 1)))

            removed += place.remove(step)
    return removed


def _plan(places: Sequence[Place], sizes: Sequence[Usage], *, before: datetime) -> RenderableType:
    table = Table(title=f"What nothing since {_written(before)} needs", title_justify="left")
    table.add_column("Place")
    for name in ("Items", "Go", "MB", "MB go"):
        table.add_column(name, justify="right")
    for place, size in zip(places, sizes, strict=True):
        table.add_row(place.name, _count(place.items), _count(place.stale), _mb(size.held), _mb(size.freed))
    freed = _mb(sum(size.freed for size in sizes))
    table.add_section()
    table.add_row("all", "", _count(sum(place.stale for place in places)), _mb(sum(s.held for s in sizes)), freed)
    return table


def _outcome(
    places: Sequence[Place], before: Sequence[Usage], left: Sequence[Place], after: Sequence[Usage]
) -> RenderableType:
    table = Table(title="Before and after", title_justify="left")
    table.add_column("Place")
    for name in ("Items", "after", "MB", "after"):
        table.add_column(name, justify="right")
    for place, was, now, size in zip(places, before, left, after, strict=True):
        table.add_row(place.name, _count(place.items), _count(now.items), _mb(was.held), _mb(size.held))
    table.add_section()
    table.add_row("all", "", "", _mb(sum(size.held for size in before)), _mb(sum(size.held for size in after)))
    return table


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f}"


def _written(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
