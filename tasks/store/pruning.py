"""What the store and the records no longer need: artifacts that no run has used for long, checkpoints, answers."""

from datetime import datetime
from functools import partial
from pathlib import Path

from tickerforge.tasks.base.disk import locked
from tickerforge.tasks.base.errors import LockTimeout
from tickerforge.tasks.base.growth import Place, Step, discard, folders, is_leftover
from tickerforge.tasks.base.paths import Workspace

_NOTES, _LOCKS, _PARTIAL = "latest", "locks", "partial"
_OTHER_FOLDERS = frozenset({_NOTES, _LOCKS, _PARTIAL})


def store_places(workspace: Workspace, *, before: datetime) -> list[Place]:
    """Return the finished artifacts, the unfinished ones with their checkpoints, and the locks.

    An artifact is stale if no run has used it since an instant, an unfinished one if nobody builds it and its newest
    file is older. What is removed is built again when a run needs it.
    """
    root, limit = workspace.store, before.timestamp()
    kinds = [folder for folder in _below(root) if folder.is_dir() and folder.name not in _OTHER_FOLDERS]
    artifacts = [folder for kind in kinds for folder in _below(kind)]
    used = {folder: _used(folder) for folder in artifacts}
    stale = {
        folder: partial(_discard_locked, root, f"{folder.parent.name}-{folder.name}", folder, limit)
        for folder in artifacts
        if is_leftover(folder) or used[folder] < limit
    }
    unfinished = _below(root / _PARTIAL)
    left = {
        folder: partial(_discard_locked, root, folder.name.removesuffix(".fetched"), folder, limit)
        for folder in unfinished
        if is_leftover(folder) or _newest(folder) < limit
    }
    kept = {f"{folder.parent.name}-{folder.name}" for folder in artifacts} | {folder.name for folder in unfinished}
    locks = _below(root / _LOCKS)
    idle = [lock for lock in locks if lock.stem not in kept and _used(lock) < limit]
    return [
        folders("stored artifacts", tuple(kinds), stale, items=len(artifacts)),
        folders("unfinished stages and checkpoints", (root / _PARTIAL,), left, items=len(unfinished)),
        Place("locks of the store", (root / _LOCKS,), len(locks), len(idle), partial(_remove_locks, idle), tuple(idle)),
    ]


def answer_place(workspace: Workspace, kind: str, *, before: datetime) -> Place:
    """Return the records of a kind that nothing reads after its run, in this home."""
    root = workspace.state / "records" / kind
    records = _below(root)
    old = [record for record in records if _used(record) < before.timestamp()]

    def remove(step: Step) -> int:
        for done, record in enumerate(old, start=1):
            record.unlink(missing_ok=True)
            step(done)
        return len(old)

    return Place(f"{kind} of stages", (root,), len(records), len(old), remove, tuple(old))


def _below(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _used(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _newest(folder: Path) -> float:
    return max(map(_used, (folder, *folder.rglob("*"))))


def _discard_locked(root: Path, name: str, folder: Path, limit: float) -> bool:
    """Remove an artifact's folder and lock, if nobody has the lock and nobody has used the folder meanwhile."""
    if is_leftover(folder):
        return discard(folder)
    try:
        with locked(root / _LOCKS / f"{name}.lock", waiting_for=name, timeout=0):
            if not folder.is_dir():
                return False
            # A run may be reading it just now, without the lock; it has set the time before.
            gone = discard(folder, unless=lambda renamed: _used(renamed) >= limit)
            if gone and not (root / _PARTIAL / name).exists():
                (root / _LOCKS / f"{name}.lock").unlink()
            return gone
    except LockTimeout:
        return False


def _remove_locks(locks: list[Path], step: Step) -> int:
    removed = 0
    for done, lock in enumerate(locks, start=1):
        try:
            with locked(lock, waiting_for=lock.stem, timeout=0):
                lock.unlink()
                removed += 1
        except LockTimeout:
            pass
        step(done)
    return removed
