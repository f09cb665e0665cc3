"""Results folders that no longer show a night or a version that stays, and the last look at all that can go."""

import re
from collections.abc import Collection
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pydantic import AwareDatetime

from tickerforge.features.config import FrozenModel
from tickerforge.tasks.base.growth import Place, discard, folders, is_leftover
from tickerforge.tasks.base.paths import RUN_TIMESTAMP
from tickerforge.tasks.store.records import read_record, write_record

_KIND, _NAME = "prune", "last-look"
_RUN = re.compile(r".+_(\d{8}_\d{6})")


class Prunable(FrozenModel):
    """What a prune would have removed at an instant: `things` that only times `before` needed, and bytes `freed`."""

    at: AwareDatetime
    keep_nights: int
    before: AwareDatetime
    things: int
    freed: int

    @property
    def text(self) -> str:
        """A sentence for the desk; empty if nothing would go."""
        if not self.things:
            return ""
        things = f"{self.things:,} things" if self.things > 1 else "One thing"
        return (
            f"{things} in runs, results and caches, {self.freed / 1e6:,.0f} MB, served only nights before "
            f"{self.before.astimezone(UTC):%Y-%m-%d}: tickerforge prune --keep-nights {self.keep_nights} removes them "
            f"(as of {self.at.astimezone(UTC):%Y-%m-%d %H:%M} UTC)."
        )


def keep_prunable(found: Prunable) -> None:
    """Keep the last look, for the desk.

    Raises:
        StoreError: If it cannot be written.
    """
    write_record(_KIND, _NAME, found)


def read_prunable() -> Prunable | None:
    """Return the last look; `None` if there was none.

    Raises:
        StoreError: If it cannot be read.
    """
    return read_record(_KIND, _NAME, Prunable)


def results_place(results: Path, *, before: datetime, keep: Collection[str]) -> Place:
    """Return the results of runs; those that began before an instant are stale, except the ones that are named.

    Only folders called `{STOCK}_{TIMESTAMP}` count.
    """
    found = [folder for folder in sorted(results.iterdir()) if folder.is_dir()] if results.is_dir() else []
    began = {folder: _began(folder.name) for folder in found}
    stale = {
        folder: partial(discard, folder)
        for folder, instant in began.items()
        if is_leftover(folder) or (instant is not None and instant < before and folder.name not in keep)
    }
    runs = [folder for folder, instant in began.items() if instant is not None or folder in stale]
    return folders("results of runs", tuple(runs), stale, items=len(runs))


def _began(name: str) -> datetime | None:
    match = _RUN.fullmatch(name)
    try:
        return datetime.strptime(match[1], RUN_TIMESTAMP).replace(tzinfo=UTC) if match else None
    except ValueError:
        return None
