"""Places that grow with every run: how much they hold, what is no longer needed, and its removal.

A removal may end at any point, also by `kill -9`: a folder gets another name before its files go, and the next removal
takes what is left.
"""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tickerforge.tasks.base.logs import run_logger

_PRUNED = ".pruned-"
_BLOCK_BYTES = 512
_SQLITE_SECONDS = 60
# Rewriting a database for a few free pages is not worth the time in which others cannot write to it.
_FREE_SHARE = 0.05

Step = Callable[[int], None]


@dataclass(frozen=True)
class Place:
    """One place that grows.

    Attributes:
        name: What it holds, in the plural, for people.
        roots: Its files and folders on this machine.
        items: Number of things in it.
        stale: Number of those that are no longer needed.
        paths: The files and folders that go; empty if rows of a database go.
        remove: Removes them, calls its argument with the number done so far, and returns how many were removed.
    """

    name: str
    roots: tuple[Path, ...]
    items: int
    stale: int
    remove: Callable[[Step], int] = field(repr=False)
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Usage:
    """Bytes of a place on the disk, and those of them that its removal frees."""

    held: int
    freed: int


def usage(places: Sequence[Place]) -> list[Usage]:
    """Measure places; a file with several names counts in the first place, and is freed if all its names go."""
    seen: set[tuple[int, int]] = set()
    going: dict[tuple[int, int], int] = {}
    for place in places:
        for status in _files(place.paths):
            inode = (status.st_dev, status.st_ino)
            going[inode] = going.get(inode, 0) + 1
    found = []
    for place in places:
        held = freed = 0
        for status in _files(place.roots):
            inode = (status.st_dev, status.st_ino)
            if inode in seen:
                continue
            seen.add(inode)
            held += status.st_blocks * _BLOCK_BYTES
            if going.get(inode, 0) >= status.st_nlink:
                freed += status.st_blocks * _BLOCK_BYTES
        found.append(Usage(held, freed))
    return found


def _files(roots: Iterable[Path]) -> Iterable[os.stat_result]:
    for root in roots:
        names = [root] if not root.is_dir() or root.is_symlink() else _below(root)
        for name in names:
            try:
                yield os.lstat(name)
            except FileNotFoundError:
                continue


def _below(folder: Path) -> Iterable[str]:
    for above, _, files in os.walk(folder):
        yield from (os.path.join(above, name) for name in files)


def is_leftover(folder: Path) -> bool:
    """Return whether an interrupted removal left this folder."""
    return folder.name.startswith(_PRUNED)


def discard(folder: Path, *, unless: Callable[[Path], bool] = lambda renamed: False) -> bool:
    """Remove a folder: it disappears under its name in one step, then its files go.

    Args:
        folder: The folder; it may be one that an interrupted call left.
        unless: Called after the folder has another name; if it returns true, the folder gets its name back and stays.

    Returns:
        Whether it was removed.
    """
    gone = folder
    if not is_leftover(folder):
        gone = folder.with_name(f"{_PRUNED}{folder.name}")
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        if unless(gone):
            gone.rename(folder)
            return False
    shutil.rmtree(gone)
    return True


def folders(place: str, roots: tuple[Path, ...], stale: Mapping[Path, Callable[[], bool]], *, items: int) -> Place:
    """Return a place whose things are folders.

    Args:
        place: Its name.
        roots: Its folders.
        stale: The folders that are not needed, each with the function that removes it and returns whether it did.
        items: Number of all folders.
    """

    def remove(step: Step) -> int:
        removed = 0
        for done, discard_it in enumerate(stale.values(), start=1):
            removed += discard_it()
            step(done)
        return removed

    return Place(place, roots, items, len(stale), remove, tuple(stale))


def database_place(name: str, database: Path) -> Place:
    """Return an SQLite file, which gets smaller only if it is written again without its free pages."""

    def remove(step: Step) -> int:
        if not _shrink(database):
            run_logger(__name__).warning(
                "%s is in use and keeps its size for now. Its free pages hold new rows; the next prune tries again.",
                database,
            )
        step(1)
        return 0

    files = (database, *(database.with_name(f"{database.name}-{end}") for end in ("wal", "shm")))
    return Place(name, files, 0, 0, remove)


def _shrink(database: Path) -> bool:
    """Give the free pages of an SQLite database back to the file system; return whether that was possible.

    It is not possible while another process holds the database for a minute.
    """
    with closing(sqlite3.connect(database, timeout=_SQLITE_SECONDS, isolation_level=None)) as connection:
        try:
            (free,), (pages,) = (
                connection.execute(f"PRAGMA {name}").fetchone() for name in ("freelist_count", "page_count")
            )
            if free > _FREE_SHARE * pages:
                connection.execute("VACUUM")
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) and "busy" not in str(error):
                raise
            return False
    return not busy
