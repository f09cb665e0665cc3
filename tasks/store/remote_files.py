"""Files that several machines reach: in a folder mounted on each of them, or in a bucket of an S3-compatible store."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from tickerforge.tasks.base.disk import FULL_DISK, NETWORK_ERRNOS, fsync_tree, rename_durably
from tickerforge.tasks.base.errors import StoreError, StoreUnreachable, TasksError

STORE_VARIABLE = "TICKERFORGE_STORE"
UNFINISHED_SUFFIX = ".unfinished"
RETRIED_STATUS = frozenset({408, 429})
FILES_AT_ONCE = 4
S3_ROUNDS = 2
EXAMPLES = "s3://bucket/prefix or /mnt/tickerforge"


class RemoteFiles(Protocol):
    """Files below one root, by relative POSIX names. A file is there with its whole content, or not at all.

    Every method raises `StoreUnreachable` for a fault that may well be gone in a moment, `StoreError` for any other.
    """

    def read(self, name: str) -> bytes | None:
        """Content of a file, or `None` where there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, in the place of a former one."""

    def upload(self, folder: Path, names: Sequence[str], *, place: str) -> None:
        """Copy local files below `folder` to the same names below `place`."""

    def download(self, place: str, names: Sequence[str], folder: Path) -> None:
        """Copy files to the same names below a local `folder`, but for those that are not there."""

    def list(self, prefix: str) -> list[str]:
        """Sorted names of all files whose name begins with `prefix`."""

    def delete(self, name: str) -> None:
        """Remove a file; nothing happens where there is none."""


def remote_files(url: str) -> RemoteFiles:
    """The files at `s3://bucket/prefix`, `file:///folder` or `/folder`.

    Raises:
        StoreError: If the URL is none of these, or holds credentials.
    """
    if Path(url).is_absolute():
        return Folder(Path(url))
    parts = urlsplit(url)
    if "@" in url or parts.query or parts.fragment:
        raise StoreError(
            f"{STORE_VARIABLE} must hold no credentials and no options, only a place such as {EXAMPLES}: give "
            "credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, another server's address in AWS_ENDPOINT_URL."
        )
    if parts.scheme == "s3" and parts.netloc:
        return Bucket(url.rstrip("/"))
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path.startswith("/"):
        return Folder(Path(unquote(parts.path)))
    raise StoreError(f"{STORE_VARIABLE} is {url!r}, which is no place for a shared store: use {EXAMPLES}")


@dataclass(frozen=True)
class Folder:
    """Files below a folder that exists; one whose disk is not mounted must not be taken for an empty one."""

    root: Path
    variable: str = STORE_VARIABLE

    def read(self, name: str) -> bytes | None:
        """See `RemoteFiles`."""
        with self._faults():
            try:
                return (self.root / name).read_bytes()
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """See `RemoteFiles`."""
        with self._faults(), self._unfinished(name) as unfinished:
            unfinished.write_bytes(content)

    def upload(self, folder: Path, names: Sequence[str], *, place: str) -> None:
        """See `RemoteFiles`."""
        for name in names:
            with self._faults(), self._unfinished(f"{place}/{name}") as unfinished:
                shutil.copyfile(folder / name, unfinished)

    def download(self, place: str, names: Sequence[str], folder: Path) -> None:
        """See `RemoteFiles`."""
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with self._faults(writing=False), suppress(FileNotFoundError):
                shutil.copyfile(self.root / place / name, folder / name)

    def list(self, prefix: str) -> list[str]:
        """See `RemoteFiles`."""
        with self._faults():
            below = self.root / prefix.rpartition("/")[0]
            files = [path for path in below.rglob("*") if path.is_file() and path.suffix != UNFINISHED_SUFFIX]
        names = (path.relative_to(self.root).as_posix() for path in files)
        return sorted(name for name in names if name.startswith(prefix))

    def delete(self, name: str) -> None:
        """See `RemoteFiles`."""
        with self._faults():
            (self.root / name).unlink(missing_ok=True)

    @contextmanager
    def _unfinished(self, name: str) -> Iterator[Path]:
        """A path to write; at the end it gets its name in one step."""
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        path = target.with_name(f".{target.name}.{uuid4().hex}{UNFINISHED_SUFFIX}")
        try:
            yield path
            fsync_tree(path)
            rename_durably(path, target)
        finally:
            path.unlink(missing_ok=True)

    @contextmanager
    def _faults(self, *, writing: bool = True) -> Iterator[None]:
        try:
            if not self.root.is_dir():
                raise StoreError(f"the folder {self.root} ({self.variable}) is not there: mount it, or create it.")
            yield
        except OSError as error:
            if error.errno in FULL_DISK and not writing:
                raise
            if error.errno in NETWORK_ERRNOS:
                raise StoreUnreachable(f"the folder {self.root} ({self.variable}) does not answer: {error}") from error
            cure = "free some space there" if error.errno in FULL_DISK else "check that you may read and write there"
            raise StoreError(
                f"the folder {self.root} ({self.variable}) cannot be used: {error.strerror or error}; {cure}."
            ) from error


@dataclass(frozen=True)
class Bucket:
    """Files in a bucket, `s3://bucket/prefix`; address and credentials come from the environment, as for any client."""

    url: str

    def read(self, name: str) -> bytes | None:
        """See `RemoteFiles`."""
        with self._faults():
            try:
                return self._s3.cat_file(self._path(name))
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                return None

    def write(self, name: str, content: bytes) -> None:
        """See `RemoteFiles`."""
        with self._faults():
            self._s3.pipe_file(self._path(name), content)

    def upload(self, folder: Path, names: Sequence[str], *, place: str) -> None:
        """See `RemoteFiles`."""
        local, remote = [str(folder / name) for name in names], [self._path(f"{place}/{name}") for name in names]
        with self._faults():
            self._s3.put(local, remote, batch_size=FILES_AT_ONCE)

    def download(self, place: str, names: Sequence[str], folder: Path) -> None:
        """See `RemoteFiles`."""
        local, remote = [str(folder / name) for name in names], [self._path(f"{place}/{name}") for name in names]
        with self._faults():
            try:
                self._s3.get(remote, local, batch_size=FILES_AT_ONCE)
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                # The files come side by side, and the first that is not there ends the others under way.
                there = set(self.list(f"{place}/"))
                left = [name for name in names if f"{place}/{name}" in there]
                if len(left) < len(names):
                    self.download(place, left, folder)

    def list(self, prefix: str) -> list[str]:
        """See `RemoteFiles`."""
        with self._faults():
            found = self._s3.find(self._path(""), prefix=prefix)
        return sorted(path.removeprefix(self._path("")) for path in found)

    def delete(self, name: str) -> None:
        """See `RemoteFiles`."""
        with self._faults():
            self._s3.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self.url.removeprefix('s3://')}/{name}"

    @property
    def _s3(self) -> Any:
        try:
            return _s3_client(os.getpid())
        except ImportError as error:
            raise StoreError(
                f"{STORE_VARIABLE} names {self.url}, which needs s3fs: pip install 'tickerforge[s3]'"
            ) from error

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Sort the client's errors. Their own texts may hold the server's address, so codes and classes are named."""
        try:
            yield
        except TasksError:
            raise
        except Exception as error:
            fault = _fault(error, self.url)
            if fault is None:
                raise
            raise fault from None


@cache
def _s3_client(process: int) -> Any:
    """The client of one process: a fork must not use its parent's event loop, and listings must never be old ones."""
    from s3fs import S3FileSystem

    client = S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    # botocore tries again as well (AWS_MAX_ATTEMPTS), and the two multiply.
    client.retries = S3_ROUNDS
    return client


def _response(error: BaseException) -> dict[str, Any]:
    """What the server answered, where that led to the error."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return response if isinstance(response, dict) else {}


def _code(error: BaseException) -> str:
    return str(_response(error).get("Error", {}).get("Code", ""))


def _fault(error: Exception, url: str) -> StoreError | StoreUnreachable | None:
    """What an error of the S3 client means, or `None` where it comes from somewhere else."""
    from botocore.exceptions import BotoCoreError, HTTPClientError
    from botocore.exceptions import ConnectionError as NotConnected
    from s3fs.core import S3_RETRYABLE_ERRORS

    name = _code(error) or type(error).__name__
    status = int(_response(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    passing = (HTTPClientError, NotConnected, *S3_RETRYABLE_ERRORS, ConnectionError)
    if (
        status >= 500
        or status in RETRIED_STATUS
        or name in {"SlowDown", "RequestTimeout"}
        or isinstance(error, passing)
    ):
        return StoreUnreachable(
            f"the shared store {url} does not answer ({name}): check that its server runs and that AWS_ENDPOINT_URL "
            "names it where it is not Amazon's."
        )
    if name == "NoSuchBucket":
        return StoreError(f"the shared store {url} has no such bucket: create it, or correct {STORE_VARIABLE}.")
    if status in {401, 403} or "Credentials" in name:
        return StoreError(
            f"the shared store {url} refuses access ({name}): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and "
            "that they may list, read, write and delete there."
        )
    if status or isinstance(error, BotoCoreError | ValueError):
        return StoreError(
            f"the shared store {url} cannot be used ({name}): check {STORE_VARIABLE} and AWS_ENDPOINT_URL."
        )
    return None
