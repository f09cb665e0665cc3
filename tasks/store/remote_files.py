"""Files that several machines share: in a folder mounted on each of them, or in a bucket of an S3-compatible store."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from tickerforge.features.atomic import PARTIAL_SUFFIX, atomic_path, flush_to_disk
from tickerforge.tasks.base.disk import FULL_DISK, NETWORK_ERRNOS
from tickerforge.tasks.base.errors import StoreError, StoreUnreachable, TasksError

STORE_VARIABLE = "TICKERFORGE_STORE"
_FILES_AT_ONCE = 4
_S3_ROUNDS = 2
_PLACES = "s3://bucket/prefix or /mnt/tickerforge"


@dataclass(frozen=True)
class RemoteFiles:
    """Files below a root, by relative POSIX names. A file is there with its whole content, or not at all.

    A bucket's address and credentials come from the environment, as for any S3 client. Every method raises
    `StoreUnreachable` for a fault that may be gone in a moment, and `StoreError` for any other.

    Attributes:
        protocol: `file` for a folder, `s3` for a bucket.
        root: A folder that exists (one whose disk is not mounted must not count as empty), or bucket and prefix.
        variable: The environment variable that names the root.
    """

    protocol: Literal["file", "s3"]
    root: str
    variable: str = STORE_VARIABLE

    @classmethod
    def at(cls, url: str) -> "RemoteFiles":
        """Return the files at `s3://bucket/prefix`, `file:///folder` or `/folder`.

        Raises:
            StoreError: If the URL is none of these, or holds credentials.
        """
        if Path(url).is_absolute():
            return cls("file", str(Path(url)))
        parts = urlsplit(url)
        if "@" in url or parts.query or parts.fragment:
            raise StoreError(
                f"{STORE_VARIABLE} must hold no credentials and no options, only a place such as {_PLACES}: give "
                "credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, another server's address in "
                "AWS_ENDPOINT_URL."
            )
        if parts.scheme == "s3" and parts.netloc:
            return cls("s3", url.removeprefix("s3://").rstrip("/"))
        if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path.startswith("/"):
            return cls("file", str(Path(unquote(parts.path))))
        raise StoreError(f"{STORE_VARIABLE} is {url!r}, which is not a place for a shared store: use {_PLACES}")

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, or `None` if it does not exist."""
        with self._faults():
            try:
                return bytes(self._files.cat_file(self._path(name)))
            except FileNotFoundError as error:
                _raise_without_bucket(error)
                return None

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, or replace it."""
        with self._faults():
            self._files.pipe_file(self._path(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """Write a small file, unless there is one of that name; return whether it was written."""
        with self._faults():
            try:
                self._files.pipe_file(self._path(name), content, mode="create")
            except FileExistsError:
                return False
            except Exception as error:
                if _code(error) == "PreconditionFailed":
                    return False
                raise
        return True

    def upload(self, folder: Path, names: Sequence[str], *, place: str) -> None:
        """Copy local files below `folder` to the same names below `place`."""
        local, remote = [str(folder / name) for name in names], [self._path(f"{place}/{name}") for name in names]
        with self._faults():
            self._files.put(local, remote, batch_size=_FILES_AT_ONCE)

    def download(self, place: str, names: Sequence[str], folder: Path) -> None:
        """Copy files below `place` to the same names below a local `folder`; leave out those that do not exist."""
        local, remote = [str(folder / name) for name in names], [self._path(f"{place}/{name}") for name in names]
        with self._faults(to_local_disk=True):
            try:
                self._files.get(remote, local, batch_size=_FILES_AT_ONCE)
            except FileNotFoundError as error:
                _raise_without_bucket(error)
                # Several files are copied at the same time, and the first missing one stops the others.
                there = set(self.list(f"{place}/"))
                left = [name for name in names if f"{place}/{name}" in there]
                if len(left) == len(names):
                    raise
                self.download(place, left, folder)

    def list(self, prefix: str) -> list[str]:
        """Return the sorted names of all files whose name begins with `prefix`."""
        with self._faults():
            found = self._files.find(self.root, prefix=prefix)
        names = (path.removeprefix(self._path("")) for path in found if not path.endswith(PARTIAL_SUFFIX))
        return sorted(name for name in names if name.startswith(prefix))

    def delete(self, name: str) -> None:
        """Remove a file if it exists."""
        with self._faults():
            try:
                self._files.rm_file(self._path(name))
            except FileNotFoundError as error:
                _raise_without_bucket(error)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    @property
    def _files(self) -> Any:
        if self.protocol == "file":
            return _folder_files()
        try:
            return _bucket_files(os.getpid())
        except ImportError as error:
            raise StoreError(
                f"{STORE_VARIABLE} names s3://{self.root}, which needs s3fs: pip install 'tickerforge[s3]'"
            ) from error

    @contextmanager
    def _faults(self, *, to_local_disk: bool = False) -> Iterator[None]:
        """Turn the errors of fsspec into ours."""
        try:
            if self.protocol == "file" and not Path(self.root).is_dir():
                raise StoreError(f"the folder {self.root} ({self.variable}) is not there: mount it, or create it.")
            yield
        except TasksError:
            raise
        except Exception as error:
            if to_local_disk and isinstance(error, OSError) and error.errno in FULL_DISK:
                raise
            if self.protocol == "file":
                if isinstance(error, OSError):
                    raise _folder_fault(error, f"the folder {self.root} ({self.variable})") from error
                raise
            fault = _bucket_fault(error, f"s3://{self.root}")
            if fault is None:
                raise
            # The client's texts may hold the server's address with credentials.
            raise fault from None


@cache
def _folder_files() -> Any:
    """Return fsspec's local file system, with files that appear whole."""
    from fsspec.implementations.local import LocalFileSystem

    class Folder(LocalFileSystem):
        def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
            if options.get("mode") != "create":
                with _whole(path) as partial:
                    partial.write_bytes(value)
                return
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            partial = Path(f"{path}.{uuid4().hex}{PARTIAL_SUFFIX}")
            try:
                partial.write_bytes(value)
                flush_to_disk(partial)
                # Unlike a rename, a link fails if the name is taken.
                os.link(partial, path)
                flush_to_disk(Path(path).parent)
            finally:
                partial.unlink(missing_ok=True)

        def put_file(self, path1: str, path2: str, **options: Any) -> None:
            with _whole(path2) as partial:
                shutil.copyfile(path1, partial)

        # fsspec's own versions of the next two take a network that does not answer for a file that is not there.
        def get_file(self, path1: str, path2: str, **options: Any) -> None:
            Path(path2).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path1, path2)

        def find(self, path: str, *, prefix: str = "", **options: Any) -> list[str]:
            top = f"{path}/{prefix.rpartition('/')[0]}"
            return [os.path.join(folder, name) for folder, _, names in os.walk(top, onerror=_raise) for name in names]

    return Folder(auto_mkdir=True, skip_instance_cache=True)


def _raise(error: OSError) -> None:
    """Raise an error of a listing; a folder that does not exist holds no files."""
    if not isinstance(error, FileNotFoundError):
        raise error


@contextmanager
def _whole(path: str) -> Iterator[Path]:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(Path(path), shared=True) as partial:
        yield partial


@cache
def _bucket_files(process: int) -> Any:
    """Return the S3 client of one process: a fork must not use its parent's event loop. Listings are not cached."""
    from s3fs import S3FileSystem

    client = S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    # botocore tries again as well (AWS_MAX_ATTEMPTS), and the two multiply.
    client.retries = _S3_ROUNDS
    return client


def _folder_fault(error: OSError, folder: str) -> StoreError | StoreUnreachable:
    if error.errno in NETWORK_ERRNOS:
        return StoreUnreachable(f"{folder} does not answer: {error}")
    cure = "free some space there" if error.errno in FULL_DISK else "check that you may read and write there"
    return StoreError(f"{folder} cannot be used: {error.strerror or error}; {cure}.")


def _response(error: BaseException) -> dict[str, Any]:
    """Return the server's answer, if it caused the error."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return response if isinstance(response, dict) else {}


def _code(error: BaseException) -> str:
    return str(_response(error).get("Error", {}).get("Code", ""))


def _raise_without_bucket(error: FileNotFoundError) -> None:
    """Raise the error again if it means the whole bucket, and not only a file."""
    if _code(error) == "NoSuchBucket":
        raise error


def _bucket_fault(error: Exception, url: str) -> StoreError | StoreUnreachable | None:
    """Return what an error of the S3 client means, or `None` if it has another origin.

    The client's texts may hold the server's address, so that only codes and classes are named.
    """
    from botocore.exceptions import BotoCoreError, HTTPClientError
    from botocore.exceptions import ConnectionError as NotConnected
    from s3fs.core import S3_RETRYABLE_ERRORS

    name = _code(error) or type(error).__name__
    status = int(_response(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    transient = (HTTPClientError, NotConnected, *S3_RETRYABLE_ERRORS, ConnectionError)
    if status >= 500 or status in {408, 429} or name in {"SlowDown", "RequestTimeout"} or isinstance(error, transient):
        return StoreUnreachable(
            f"the shared store {url} does not answer ({name}): check that its server runs and that AWS_ENDPOINT_URL "
            "names it if it is not Amazon's."
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
