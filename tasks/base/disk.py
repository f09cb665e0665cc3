"""Files and folders on disk: hashes, locks, replacement of whole folders, and errors that name the cure."""

import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tickerforge.features.atomic import flush_to_disk
from tickerforge.tasks.base.errors import LockTimeout, PublishError, StoreError, TasksError
from tickerforge.tasks.base.logs import run_logger

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})
NETWORK_ERRNOS = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.EPIPE,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.EAGAIN,
        errno.ESTALE,
    }
)
FULL_DISK_WORDS = ("no space left on device", "os error 28", "disk is full", "disk quota exceeded")
NEARLY_FULL_BYTES = 64 * 1024
LOCK_POLL_SECONDS = 0.2


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by relative POSIX path, sorted."""
    above = len(os.fspath(folder)) + 1
    files = sorted(Path(path[above:]) for path in _below(folder) if os.path.isfile(path))
    return {path.as_posix(): file_sha256(folder / path) for path in files}


def combined_sha256(hashes: dict[str, str]) -> str:
    """Return one hash for a set of named files: two are equal exactly when all names and contents are equal."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def folder_sha256(folder: Path) -> str:
    """Return one hash for everything below a folder."""
    return combined_sha256(tree_hashes(folder))


_NOT_ALLOWED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR})


def is_full_disk(error: BaseException, *, near: Path) -> bool:
    """Return whether an exception, or one that caused it, comes from a full disk or an exhausted quota.

    Libraries not written in Python report a full disk in their own words or as an unspecific failure. So the message
    and the space left around `near` count too.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in FULL_DISK:
            return True
        if any(words in str(seen).lower() for words in FULL_DISK_WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    wrote = isinstance(error, OSError | RuntimeError) and getattr(error, "errno", None) not in _NOT_ALLOWED
    return wrote and free_bytes(near) < NEARLY_FULL_BYTES


def free_bytes(path: Path) -> int:
    """Return the bytes left for us on the file system of `path`, or of its nearest existing parent."""
    # `Path.exists` fails in a folder of another user.
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


@contextmanager
def full_disk_as_store_error(folder: Path, *, doing: str) -> Iterator[None]:
    """Turn any error that a full disk causes into a `StoreError`; every other exception passes unchanged."""
    try:
        yield
    except Exception as error:
        if isinstance(error, TasksError) or not is_full_disk(error, near=folder):
            raise
        raise StoreError(
            f"{_full(folder, doing)}, or set TICKERFORGE_HOME to a folder on a larger disk, and run again: finished "
            "stages are kept."
        ) from error


@contextmanager
def os_errors_as_store_error(folder: Path, *, doing: str) -> Iterator[None]:
    """Turn an `OSError` of the store's own work into a `StoreError` that names folder and cure."""
    with full_disk_as_store_error(folder, doing=doing):
        try:
            yield
        except OSError as error:
            if is_full_disk(error, near=folder):
                raise
            raise StoreError(
                f"{doing} in {folder} failed: {error.strerror or error}. Check that the folder exists, that you may "
                "write there, and that TICKERFORGE_HOME names the folder that you want."
            ) from error


@contextmanager
def os_errors_as_publish_error(folder: Path, *, doing: str) -> Iterator[None]:
    """Turn an `OSError` while writing a folder for people into a `PublishError` that names folder and cure."""
    try:
        yield
    except OSError as error:
        if is_full_disk(error, near=folder):
            raise PublishError(f"{_full(folder, doing)} and run again: finished stages are kept.") from error
        raise PublishError(
            f"{doing} in {folder} failed: {error.strerror or error}. Check that you may write there, or run from "
            "another working folder."
        ) from error


def _full(folder: Path, doing: str) -> str:
    return f"the disk is full while {doing} in {folder} ({free_bytes(folder) / 1e6:.0f} MB left). Free some space"


@contextmanager
def locked(
    path: Path, *, waiting_for: str, shared: bool = False, timeout: float | None = None, create: bool = True
) -> Iterator[int]:
    """Hold a lock among threads and processes; the system releases it when its holder ends, also after `kill -9`.

    Args:
        path: Lock file; created if missing. Only a process that holds the lock may remove it.
        waiting_for: What the log says is being waited for, once, if the lock is taken.
        shared: Whether other holders of a shared lock may hold it at the same time.
        timeout: Seconds to wait; without a limit by default.
        create: Whether a missing lock file is created.

    Yields:
        The file descriptor; a child process that inherits it holds the lock until it ends.

    Raises:
        StoreError: If the lock file cannot be created or opened.
        LockTimeout: If somebody else holds the lock longer than `timeout`.
    """
    began, logged = time.monotonic(), False
    descriptor = _open_lock(path, waiting_for=waiting_for, create=create)
    try:
        while True:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if timeout is not None and time.monotonic() - began >= timeout:
                    raise LockTimeout(f"another process holds the lock {path} of {waiting_for}") from error
                if timeout is None and not logged:
                    run_logger(__name__).info("another run is at %s: waiting for it", waiting_for)
                    logged = True
                time.sleep(LOCK_POLL_SECONDS)
            else:
                if _is_at(path, descriptor):
                    break
                # Its last holder removed the file: others lock a new one.
                os.close(descriptor)
                descriptor = -1
                descriptor = _open_lock(path, waiting_for=waiting_for, create=create)
        yield descriptor
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _open_lock(path: Path, *, waiting_for: str, create: bool) -> int:
    with os_errors_as_store_error(path.parent, doing=f"locking {waiting_for}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | (os.O_CREAT if create else 0) | os.O_CLOEXEC, 0o644)


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether a path still names an open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def fsync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder`, and the folder itself, to the disk."""
    for path in _below(folder):
        flush_to_disk(path)
    flush_to_disk(folder)


def _below(folder: Path) -> Iterator[str]:
    """Yield every file and folder below one; with thousands of artifacts, pathlib would be slow."""
    for above, folders, files in os.walk(folder):
        yield from (os.path.join(above, name) for name in (*folders, *files))


def rename_durably(source: Path, target: Path) -> None:
    """Give a finished file or folder its final name and flush the parent."""
    source.rename(target)
    flush_to_disk(target.parent)


def replace_folder(target: Path, fill: Callable[[Path], None], *, marker: str) -> Path:
    """Fill a new folder and replace `target` by it in one step, so that nobody sees a half-filled one.

    Args:
        target: New or empty folder, or one that this function wrote before.
        fill: Writes the content into the folder that it is given.
        marker: File that shows that TickerForge wrote the former content; any other content is not touched.

    Raises:
        PublishError: If the folder cannot be written or holds something else; `target` is then as it was.
    """
    check_replaceable(target, marker=marker)
    target = target.resolve()
    fresh = target.with_name(f".{target.name}.new-{os.getpid()}")
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    try:
        with os_errors_as_publish_error(target.parent, doing=f"writing {target.name}"):
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            fill(fresh)
            if target.exists():
                target.rename(old)
            fresh.rename(target)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return target


def check_replaceable(target: Path, *, marker: str) -> None:
    """Refuse to replace what TickerForge did not write.

    Raises:
        PublishError: If `target` is a file, or a folder with content but without `marker`.
    """
    with os_errors_as_publish_error(target.parent, doing=f"looking at {target.name}"):
        foreign = target.exists() and not (
            target.is_dir() and ((target / marker).is_file() or not any(target.iterdir()))
        )
    if foreign:
        raise PublishError(f"{target} exists and was not written by TickerForge: name a new or an empty folder")


def copy_tree(source: Path, target: Path, *, leave_out: frozenset[str] = frozenset()) -> None:
    """Copy a folder's files into `target`, except those at the top whose name is in `leave_out`.

    Every user may read the copies; libraries write weights that only their owner may read.
    """
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.name in leave_out:
            continue
        if path.is_dir():
            shutil.copytree(path, target / path.name, copy_function=_copy_readable)
        else:
            _copy_readable(path, target / path.name)


def _copy_readable(source: Path | str, target: Path | str) -> None:
    shutil.copy2(source, target)
    os.chmod(target, 0o644)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, so that it takes no space again; copy it to another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
