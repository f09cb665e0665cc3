"""Prefect's API for one command: the server that `PREFECT_API_URL` names, or an embedded one that ends with it."""

import atexit
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tickerforge.flows.errors import PrefectUnavailable
from tickerforge.flows.server.logs import send_to_prefect
from tickerforge.tasks.base.disk import os_errors_as_store_error
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.base.service import running_service, server_lock

logger = logging.getLogger(__name__)

API_VARIABLE = "PREFECT_API_URL"
STARTUP_VARIABLE = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
LOG_FILE = "server.log"
STOP_SECONDS = 5
CONFIGURED_SECONDS = 10
PENDING_CONNECTIONS = 64


class EmbeddedServer:
    """A Prefect server in a process of its own, on a free port of the loopback interface.

    Prefect can start such a server by itself. That one shares the terminal's process group, so that Ctrl-C ends it
    before the run could be reported as stopped; it outlives a parent that was killed; and it starts only after
    everything else has been imported. This one does none of the three.

    Args:
        log: Where it writes.
        keep: Descriptors that stay open as long as it lives.
    """

    def __init__(self, log: Path, *, keep: tuple[int, ...] = ()) -> None:
        self._log = log
        with socket.socket() as listener, log.open("wb") as output:
            listener.bind(("127.0.0.1", 0))
            listener.listen(PENDING_CONNECTIONS)
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tickerforge.flows.server.embedded_process", str(listener.fileno())],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=[listener.fileno(), *keep],
            )

    def wait(self, *, timeout: float) -> None:
        """Return as soon as the server answers.

        Raises:
            PrefectUnavailable: If it ended or did not answer within `timeout` seconds.
        """
        started = time.monotonic()
        try:
            # The socket listens already: the request waits in its queue until the server is up.
            with urllib.request.urlopen(f"{self.url}/health", timeout=timeout):
                logger.debug("the embedded Prefect answered after %.1f s more", time.monotonic() - started)
        except OSError as error:
            raise PrefectUnavailable(
                f"the embedded Prefect server did not start ({self._last_words() or error}). Its log is {self._log}. "
                f"Check the free disk and your rights there, wait longer with {STARTUP_VARIABLE}=300, or start one "
                f"with `prefect server start` and set {API_VARIABLE}=http://127.0.0.1:4200/api."
            ) from error

    def stop(self) -> None:
        """End the server; where it does not end within seconds it will do so by itself."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            logger.debug("the embedded Prefect is still busy; it ends by itself")

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.is_file() else []
        told = [line.strip() for line in lines if "Error" in line]
        return told[-1] if told else ""


_server: EmbeddedServer | None = None


def is_shared() -> bool:
    """Whether other processes and machines may use the same Prefect server: it is not this command's own."""
    return bool(os.environ.get(API_VARIABLE)) and _server is None


def start_prefect() -> None:
    """Begin to start the embedded server, unless there is an API already; `wait_for_prefect` waits for it.

    Call it before Prefect is imported, and import what the command needs meanwhile. The server ends with this process.

    Raises:
        StoreError: If its folder cannot be made.
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
            # It was started a moment ago.
            os.environ.update(service.variables())
            return
        with os_errors_as_store_error(workspace.root, doing="starting the embedded Prefect"):
            _server = EmbeddedServer(workspace.prefect_home / LOG_FILE, keep=(lock,))
    # Registered before Prefect registers its own, so it runs after Prefect has sent its last log lines and events.
    atexit.register(_server.stop)
    os.environ[API_VARIABLE] = _server.url


def wait_for_prefect() -> None:
    """Return as soon as the embedded server answers, or the one that `PREFECT_API_URL` names.

    Raises:
        PrefectUnavailable: If it does not.
    """
    if _server is not None:
        _server.wait(timeout=float(os.environ.get(STARTUP_VARIABLE, "120")))
    elif url := os.environ.get(API_VARIABLE):
        _check_configured(url)


def _check_configured(url: str) -> None:
    from tickerforge.tasks.tracking.stage_runs import without_credentials

    shown = without_credentials(url)
    try:
        with urllib.request.urlopen(f"{shown.rstrip('/')}/health", timeout=CONFIGURED_SECONDS):
            return
    except urllib.error.HTTPError:
        # It answers; what it thinks of us is for Prefect to find out.
        return
    except (OSError, ValueError) as error:
        service = running_service(Workspace.current())
        if service is not None and service.prefect_api == url:
            raise PrefectUnavailable(
                f"the service's Prefect does not answer at {shown} ({getattr(error, 'reason', error)}): it may be "
                "starting again; `tickerforge status` says what it does and where its log is"
            ) from error
        raise PrefectUnavailable(
            f"Prefect does not answer at {API_VARIABLE}={shown} ({getattr(error, 'reason', error)}): start it with "
            f"`prefect server start`, or unset {API_VARIABLE} to use the embedded one"
        ) from error


def is_embedded() -> bool:
    """Whether this process talks to its own embedded server."""
    return _server is not None
