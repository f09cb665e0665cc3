"""The Prefect server of one command: the one at `PREFECT_API_URL`, or an embedded one that ends with the command."""

import atexit
import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError

from tickerforge.features.probe import probe
from tickerforge.flows.errors import PrefectUnavailable
from tickerforge.flows.server.logs import send_to_prefect
from tickerforge.tasks.base.disk import os_errors_as_store_error
from tickerforge.tasks.base.gate import new_login
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.base.service import running_service, server_lock

logger = logging.getLogger(__name__)

API_VARIABLE = "PREFECT_API_URL"
_STARTUP_VARIABLE = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
_LOG_FILE = "server.log"
_STOP_SECONDS = 5
_CONFIGURED_SECONDS = 10
_PENDING_CONNECTIONS = 64


class EmbeddedServer:
    """A Prefect server in its own process, on a free port of the loopback interface, with a login of its own.

    Prefect's own temporary server has three faults that this one avoids. It shares the terminal's process group, so
    Ctrl-C ends it before the run is reported as stopped. It survives a parent that was killed. It starts only after
    everything else has been imported.

    Args:
        log: File for its output.
        keep: Descriptors that stay open as long as the server lives.
    """

    def __init__(self, log: Path, *, keep: tuple[int, ...] = ()) -> None:
        self._log = log
        self.login = new_login()
        with socket.socket() as listener, log.open("wb") as output:
            listener.bind(("127.0.0.1", 0))
            listener.listen(_PENDING_CONNECTIONS)
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
            self._process = subprocess.Popen(
                # `-P`: a `random.py` in the working folder must not replace Python's own.
                [sys.executable, "-P", "-m", "tickerforge.flows.server.embedded_process", str(listener.fileno())],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, "PREFECT_SERVER_API_AUTH_STRING": self.login},
                pass_fds=[listener.fileno(), *keep],
            )

    def wait(self, *, timeout: float) -> None:
        """Return as soon as the server answers.

        Raises:
            PrefectUnavailable: If the server ended or did not answer within `timeout` seconds.
        """
        started = time.monotonic()
        try:
            # The socket listens already, so the request waits in its queue until the server is ready.
            probe(f"{self.url}/health", timeout=timeout)
            logger.debug("the embedded Prefect answered after %.1f s more", time.monotonic() - started)
        except URLError as error:
            raise PrefectUnavailable(
                f"the embedded Prefect server did not start ({self._last_error() or error.reason}). Its log is "
                f"{self._log}. Check the free disk space and your permissions there, wait longer with "
                f"{_STARTUP_VARIABLE}=300, or run `prefect server start` and set "
                f"{API_VARIABLE}=http://127.0.0.1:4200/api."
            ) from error

    def stop(self) -> None:
        """End the server; if it is busy it ends a little later by itself."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            logger.debug("the embedded Prefect is still busy; it ends by itself")

    def _last_error(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.is_file() else []
        errors = [line.strip() for line in lines if "Error" in line]
        return errors[-1] if errors else ""


_server: EmbeddedServer | None = None


def is_shared() -> bool:
    """Return whether other processes and machines may use the same Prefect server, so it is not embedded."""
    return bool(os.environ.get(API_VARIABLE)) and _server is None


def start_prefect() -> None:
    """Begin to start the embedded server, unless there is an API already; `wait_for_prefect` waits for it.

    Call it before Prefect is imported, and import everything else while the server starts. The server ends with this
    process.

    Raises:
        StoreError: If its folder cannot be created.
    """
    global _server
    send_to_prefect()
    if os.environ.get(API_VARIABLE) or "prefect" in sys.modules:
        return
    workspace = Workspace.current()
    first = "" if workspace.prefect_db.exists() else "; the first start takes up to a minute"
    logger.info("starting the embedded Prefect%s", first)
    with os_errors_as_store_error(workspace.root, doing="starting the embedded Prefect"):
        workspace.prefect_home.mkdir(parents=True, exist_ok=True)
    with server_lock(workspace, alone=False) as lock:
        if service := running_service(workspace):
            # Another command started it a moment ago.
            os.environ.update(service.variables())
            return
        with os_errors_as_store_error(workspace.root, doing="starting the embedded Prefect"):
            _server = EmbeddedServer(workspace.prefect_home / _LOG_FILE, keep=(lock,))
    # Exit handlers run in reverse order: this one, registered before Prefect's, runs after Prefect has sent its last
    # log lines and events.
    atexit.register(_server.stop)
    os.environ |= {API_VARIABLE: _server.url, "PREFECT_API_AUTH_STRING": _server.login}


def wait_for_prefect() -> None:
    """Return as soon as the embedded server answers, or the one at `PREFECT_API_URL`.

    Raises:
        PrefectUnavailable: If the server does not answer.
    """
    if _server is not None:
        _server.wait(timeout=float(os.environ.get(_STARTUP_VARIABLE, "120")))
    elif url := os.environ.get(API_VARIABLE):
        _check_configured(url)


def _check_configured(url: str) -> None:
    from tickerforge.tasks.tracking.stage_runs import without_credentials

    shown = without_credentials(url)
    try:
        # Any status is an answer; Prefect itself will report a refusal.
        probe(f"{shown.rstrip('/')}/health", timeout=_CONFIGURED_SECONDS)
    except URLError as error:
        service = running_service(Workspace.current())
        if service is not None and service.prefect_api == url:
            raise PrefectUnavailable(
                f"the service's Prefect does not answer at {shown} ({error.reason}): it may be "
                "restarting; `tickerforge status` shows its state and its log"
            ) from error
        raise PrefectUnavailable(
            f"Prefect does not answer at {API_VARIABLE}={shown} ({error.reason}): start it with "
            f"`prefect server start`, or unset {API_VARIABLE} to use the embedded one"
        ) from error


def is_embedded() -> bool:
    """Return whether this process uses its own embedded server."""
    return _server is not None
