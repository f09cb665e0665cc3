"""The service that `tickerforge up` starts in a home: its addresses, whether it runs, and its processes."""

import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tickerforge.features.atomic import atomic_path
from tickerforge.tasks.base.disk import locked
from tickerforge.tasks.base.errors import LockTimeout, ServiceError, StoreError
from tickerforge.tasks.base.gate import new_login
from tickerforge.tasks.base.paths import Workspace

if TYPE_CHECKING:
    import psutil

# Every process of the service has the service's folder in this variable, so that it can always be found again.
MARK = "TICKERFORGE_SERVICE"
PROGRAM_MARK = "SUPERVISOR_PROCESS_NAME"
RECORD_FILE = "service.json"
LOGIN_FILE = "login"
LOCK_FILE = "prefect-server.lock"
RELEASE_SECONDS = 15.0
POLL_SECONDS = 0.2
_CONNECT_SECONDS = 2.0
_LOGIN = re.compile(r"[^:\s]+:\S+")


@dataclass(frozen=True)
class Service:
    """The record of the service that `tickerforge up` started.

    Attributes:
        prefect_api: Address of Prefect's API.
        mlflow: Address of MLflow.
        socket: Address of the process manager.
        working_dir: Folder in which runs leave results and models.
        database: Where the databases are, without credentials.
        host: Address at which both servers listen; `0.0.0.0` stands for all.
        login: `user:password` of Prefect and MLflow; empty if they have none.
    """

    prefect_api: str
    mlflow: str
    socket: str
    working_dir: str
    database: str
    host: str = "127.0.0.1"
    login: str = field(default="", repr=False)

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
        """Return the environment variables with which Prefect and MLflow find the service and log in."""
        return self.variables_beside({})

    def variables_beside(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the variables without those of a server that the environment replaces: no other gets the login."""
        found = {}
        if environment.get("PREFECT_API_URL", self.prefect_api) == self.prefect_api:
            found["PREFECT_API_URL"] = self.prefect_api
            if self.login:
                found["PREFECT_API_AUTH_STRING"] = self.login
        if environment.get("MLFLOW_TRACKING_URI", self.mlflow) == self.mlflow:
            found["MLFLOW_TRACKING_URI"] = self.mlflow
            if self.login:
                user, _, password = self.login.partition(":")
                found |= {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
        return found

    def answers(self) -> bool:
        """Return whether its process manager accepts connections."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_CONNECT_SECONDS)
            try:
                connection.connect(self.socket)
            except OSError:
                return False
        return True


def service_folder(workspace: Workspace) -> Path:
    """Return the folder of the service's record, its logs and, if the path is short enough, its socket."""
    return workspace.state / "service"


def read_service(workspace: Workspace) -> Service | None:
    """Read the record of the service of this home; `None` if it was never started, or was stopped.

    Raises:
        ServiceError: If the record is damaged.
        StoreError: If it cannot be read.
    """
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
    """Write the service's record; only its owner may read it."""
    _write_private(service_folder(workspace) / RECORD_FILE, json.dumps(asdict(service), indent=2))


def service_login(workspace: Workspace) -> str:
    """Return the login of this home's service, `user:password`, and create it the first time.

    Raises:
        ServiceError: If the file has something else.
    """
    path = service_folder(workspace) / LOGIN_FILE
    if not path.exists():
        _write_private(path, new_login() + "\n")
    login = path.read_text(encoding="utf-8").strip()
    if not _LOGIN.fullmatch(login):
        raise ServiceError(f"{path} does not hold `user:password`: correct it, or delete it for a new password")
    return login


def _write_private(path: Path, content: str) -> None:
    with atomic_path(path) as partial:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)


def running_service(workspace: Workspace) -> Service | None:
    """Return the service of this home if it runs.

    Raises:
        ServiceError: If its process manager was killed while its servers still run and hold the databases.
    """
    service = read_service(workspace)
    if service is None or service.answers():
        return service
    if any(service_processes(workspace)):
        raise ServiceError(
            "the service's process manager was killed, and its servers still hold the databases: `tickerforge up` "
            "starts the service again, `tickerforge down` ends what is left of it"
        )
    return None


def service_processes(workspace: Workspace, *, program: str | None = None) -> "Iterator[psutil.Process]":
    """Yield the running processes of this home's service, without this process and its parents.

    Args:
        workspace: The home.
        program: Yield only the processes of this program of the service, and those that they started.
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
            # It has ended, or belongs to another user.
            continue
        if environment.get(MARK) == folder and program in (None, environment.get(PROGRAM_MARK)):
            yield process


@contextmanager
def server_lock(workspace: Workspace, *, alone: bool) -> Iterator[int]:
    """Prevent that a service and embedded servers use the same SQLite file.

    Args:
        workspace: The home.
        alone: `True` to start the service, `False` for a command with an embedded server.

    Yields:
        The file descriptor; a child process that inherits it holds the lock until it ends.

    Raises:
        ServiceError: If `alone`, and embedded servers still run after some seconds.
        StoreError: If the lock file cannot be created.
    """
    path, database = workspace.locks / LOCK_FILE, "Prefect's database"
    # The embedded server of a command that has just ended ends some seconds later.
    lock = locked(path, waiting_for=database, shared=not alone, timeout=RELEASE_SECONDS if alone else None)
    with ExitStack() as held:
        try:
            descriptor = held.enter_context(lock)
        except LockTimeout as error:
            raise ServiceError(
                f"a tickerforge command runs in {workspace.root} with a Prefect of its own, and two must not share one "
                "database: wait until it has ended, or stop it (it resumes), and try again"
            ) from error
        yield descriptor
