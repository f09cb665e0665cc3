"""Files that appear under their name only when they are whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

PARTIAL_SUFFIX = ".partial"


@contextmanager
def atomic_path(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Give a temporary path to write to, which is flushed and renamed to `path` at the end.

    After a crash at any moment, `path` holds the former content or the new one. If the block fails, the temporary file
    is removed. A killed process leaves it behind; the next write replaces it, so that a resumed stage leaves no traces.

    Args:
        path: Final name; its folder exists.
        shared: Whether others may write the same file at the same time. The temporary name is then a unique one.
    """
    writer = f".{uuid4().hex}" if shared else ""
    partial = path.with_name(f".{path.name}{writer}{PARTIAL_SUFFIX}")
    try:
        yield partial
        flush_to_disk(partial)
        os.replace(partial, path)
        flush_to_disk(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file, or replace it; text is written as UTF-8."""
    with atomic_path(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def flush_to_disk(path: Path | str) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
