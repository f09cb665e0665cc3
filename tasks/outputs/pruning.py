"""Results folders that no longer show a night or a version that stays."""

import re
from collections.abc import Collection
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tickerforge.tasks.base.growth import Place, discard, folders, is_leftover
from tickerforge.tasks.base.paths import RUN_TIMESTAMP

_RUN = re.compile(r".+_(\d{8}_\d{6})")


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
