"""Small JSON documents that all machines share: in the shared store, or in the home if there is none."""

import re
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from tickerforge.tasks.base.disk import os_errors_as_store_error
from tickerforge.tasks.base.errors import StoreError
from tickerforge.tasks.base.paths import HOME_VARIABLE, Workspace
from tickerforge.tasks.store.remote_files import RemoteFiles
from tickerforge.tasks.store.shared_store import SharedStore

Document = TypeVar("Document", bound=BaseModel)
SUFFIX = ".json"
_NAME = re.compile(r"[A-Za-z0-9_^=+-][A-Za-z0-9._^=+-]*(/[A-Za-z0-9_^=+-][A-Za-z0-9._^=+-]*)*")


def write_record(kind: str, name: str, document: BaseModel) -> None:
    """Write a document, or replace the one of that name; readers see either of them whole.

    Args:
        kind: Kind of document, also the folder's name, for example `night`.
        name: Its name within the kind; may have folders, for example `AAPL/2026-11-20`.
        document: What to write.

    Raises:
        ValueError: If kind or name hold anything but ASCII letters, digits and `. - _ ^ = +`, or a part begins with a
            dot.
        StoreError: If it cannot be written; `StoreUnreachable` if another attempt may succeed.
    """
    _files().write(_path(kind, name), document.model_dump_json(indent=2).encode())


def read_record(kind: str, name: str, model: type[Document]) -> Document | None:
    """Read the document of that name; `None` if there is none.

    Raises:
        ValueError: If kind or name are not valid, see `write_record`.
        StoreError: If the document does not fit `model`, or cannot be read.
    """
    content = _files().read(_path(kind, name))
    return None if content is None else parse_record(f"{kind}/{name}", content, model)


def parse_record(path: str, content: bytes, model: type[Document]) -> Document:
    """Return the document that the content of a record, `{kind}/{name}`, describes.

    Raises:
        StoreError: If the document does not fit `model`.
    """
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise StoreError(
            f"the record records/{path}{SUFFIX} cannot be read as {model.__name__}; another version of TickerForge may "
            f"have written it: {error}"
        ) from error


def list_records(kind: str, prefix: str = "") -> list[str]:
    """Return the sorted names of all documents of a kind that begin with `prefix`.

    Raises:
        ValueError: If kind is not valid, see `write_record`.
        StoreError: If they cannot be listed.
    """
    above = f"{_folder(kind)}/"
    names = _files().list(above + prefix)
    return [name.removeprefix(above).removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)]


def record_bytes(path: str) -> bytes | None:
    """Return the content of a record, `{kind}/{name}`, as it lies in the store; `None` if there is none.

    Raises:
        ValueError: If the name is not valid, see `write_record`.
        StoreError: If it cannot be read.
    """
    return _files().read(f"records/{_checked(path)}{SUFFIX}")


def create_record(kind: str, name: str, document: BaseModel) -> bool:
    """Write a document unless there is one of that name, also if others write at the same time.

    Returns:
        Whether it was written.

    Raises:
        ValueError: As `write_record`.
        StoreError: As `write_record`.
    """
    return _files().create(_path(kind, name), document.model_dump_json(indent=2).encode())


def _files() -> RemoteFiles:
    shared = SharedStore.current()
    if shared is not None:
        return shared.files
    folder = Workspace.current().state
    with os_errors_as_store_error(folder, doing="creating the folder of records"):
        folder.mkdir(parents=True, exist_ok=True)
    return RemoteFiles("file", str(folder), HOME_VARIABLE)


def _path(kind: str, name: str) -> str:
    return f"{_folder(kind)}/{_checked(name)}{SUFFIX}"


def _folder(kind: str) -> str:
    return f"records/{_checked(kind)}"


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name for a record: use ASCII letters, digits and . - _ ^ = +")
    return name
