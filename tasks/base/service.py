"""The service that `tickerforge up` starts in a home: where it listens, whether it runs, and what is left of it."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tickerforge.tasks.base.disk import os_errors_as_store_error
from tickerforge.tasks.base.errors import ServiceError, StoreError
from tickerforge.tasks.base.paths import Workspace

if TYPE_CHECKING:
    import psutil

# Everything that the service starts carries its folder in this variable: so it is found again, whoever lost it.
MARK = "TICKERFORGE_SERVICE"
PROGRAM_MARK = "SUPERVISOR_PROCESS_NAME"
RECORD_FILE = "service.json"
LOCK_FILE = "prefect-server.lock"
CONNECT_SECONDS = 2.0
RELEASE_SECONDS = 15.0
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Service:
    """What `tickerforge up` wrote down about the service that it started.

    Attributes:
        prefect_api: Address of Prefect's API.
        mlflow: Address of MLflow.
        socket: Where the process manager is asked.
        working_dir: Folder in which runs leave results and models.
        database: Where the databases are, without credentials.
    """

    prefect_api: str
    mlflow: str
    socket: str
    working_dir: str
    database: str

    @property
    def prefect_ui(self) -> str:
        """Address of Prefect's UI."""
        return self.prefect_api.removesuffix("/api")

    @property
    def address(self) -> str:
        """Host under which this machine reaches both servers."""
        return str(urlsplit(self.mlflow).hostname)

    @property
    def prefect_port(self) -> int | None:
        """Port of Prefect."""
        return urlsplit(self.prefect_api).port

    @property
    def mlflow_port(self) -> int | None:
        """Port of MLflow."""
        return urlsplit(self.mlflow).port

    def variables(self) -> dict[str, str]:
        """The variables with which Prefect and MLflow find the service."""
        return {"PREFECT_API_URL": self.prefect_api, "MLFLOW_TRACKING_URI": self.mlflow}

    def answers(self) -> bool:
        """Whether its process manager is there."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(CONNECT_SECONDS)
            try:
                connection.connect(self.socket)
            except OSError:
                return False
        return True


def service_folder(workspace: Workspace) -> Path:
    """Where the service keeps its record, its logs and, if the path is short enough, its socket."""
    return workspace.root / "service"


def read_service(workspace: Workspace) -> Service | None:
    """What is written down about the service of this home; `None` if it was never started, or was stopped."""
    try:
        return Service(**json.loads((service_folder(workspace) / RECORD_FILE).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError) as error:
        path = service_folder(workspace) / RECORD_FILE
        raise ServiceError(f"{path} cannot be read ({error}): delete it and run `tickerforge up` again") from error
    except OSError as error:
        path = service_folder(workspace) / RECORD_FILE
        raise StoreError(f"reading {path} failed: {error.strerror or error}. Check whose file it is.") from error


def write_service(workspace: Workspace, service: Service) -> None:
    """Write down what was started; only the owner may read it."""
    path = service_folder(workspace) / RECORD_FILE
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(service), file, indent=2)
    temporary.replace(path)


def running_service(workspace: Workspace) -> Service | None:
    """The service of this home if it runs.

    Raises:
        ServiceError: If its process manager was killed while its servers live on: they hold the databases.
    """
    service = read_service(workspace)
    if service is None or service.answers():
        return service
    if any(service_processes(workspace)):
        raise ServiceError(
            "the service's process manager was killed, and its servers still hold the databases: `tickerforge up` "
            "starts the service anew, `tickerforge down` ends what is left of it"
        )
    return None


def service_processes(workspace: Workspace, *, program: str | None = None) -> "Iterator[psutil.Process]":
    """Living processes that the service of this home started, this one and its parents excluded.

    Args:
        workspace: The home.
        program: Only those of one program of the service, and what these started.
    """
    import psutil

    folder = str(service_folder(workspace))
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter():
        try:
            if process.pid in own or process.status() == psutil.STATUS_ZOMBIE:
                continue
            environment = process.environ()
        except (psutil.Error, OSError):
            # Gone meanwhile, or somebody else's.
            continue
        if environment.get(MARK) == folder and program in (None, environment.get(PROGRAM_MARK)):
            yield process


@contextmanager
def server_lock(workspace: Workspace, *, alone: bool) -> Iterator[int]:
    """Keep a service and embedded servers from the same SQLite file.

    Args:
        workspace: The home.
        alone: `True` for who starts the service, `False` for a command with an embedded server.

    Yields:
        The descriptor; a process that inherits it holds the lock until it ends.

    Raises:
        ServiceError: If `alone`, and embedded servers are still at work after some seconds.
        StoreError: If the lock file cannot be made.
    """
    with os_errors_as_store_error(workspace.root, doing="locking Prefect's database"):
        folder = workspace.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if alone:
            _lock_alone(descriptor, workspace)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock_alone(descriptor: int, workspace: Workspace) -> None:
    # The embedded server of a command that has just ended takes some seconds to follow.
    deadline = time.monotonic() + RELEASE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"a tickerforge command is at work in {workspace.root} with a Prefect of its own, and two "
                    "must not share one database: wait until it has ended, or stop it (it resumes), and try again"
                ) from error
            time.sleep(POLL_SECONDS)
