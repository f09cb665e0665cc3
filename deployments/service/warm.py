"""A process that has imported everything once, and forks for each flow run; and the client that a worker starts.

A fresh interpreter needs seconds to import Prefect, MLflow and the model libraries. A fork of a process that has
imported them needs none. The worker starts `warm.py client SOCKET` instead of `python -m prefect.engine`. The
client sends its environment, folder and output to this process, passes signals on, and exits with the run's status.

The client imports the standard library only, so that it starts in some milliseconds.
"""

import array
import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

# At most 15 characters, which is what Linux keeps of a process's name.
RUN_NAME = "tickerforge-run"
_ENGINE = "prefect.engine"
_FLOWS = (
    "prefect.flow_engine",
    "prefect.task_engine",
    "prefect.deployments",
    "prefect.concurrency.sync",
    "tickerforge.flows.train.pipeline",
    "tickerforge.flows.night.nightly",
    "tickerforge.flows.night.batches",
    "tickerforge.flows.night.forecast",
    "tickerforge.flows.stages.single",
    "tickerforge.flows.remote.worker",
    "mlflow",
    "mlflow.pyfunc",
    "matplotlib.pyplot",
)
_MODELS = ("torch", "transformers", "peft", "trl")
# A child of a process that has started the CUDA driver cannot use it, and an import may start it.
_NVIDIA = Path("/proc/driver/nvidia")
_HEADER_BYTES = 8
_REQUEST_SECONDS = 10.0
_STANDARD_STREAMS = 3
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


def command(path: Path) -> list[str]:
    """Return the command that starts a flow run in the warm process, which listens at a socket.

    It names Prefect's engine, so that people and `ps` recognise a run.
    """
    return [sys.executable, "-I", "-S", __file__, "client", str(path), _ENGINE]


def _client(path: str) -> int:
    """Start a run in the warm process, pass signals on to it, and return its exit status."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        order = json.dumps({"environment": dict(os.environ), "folder": os.getcwd()}).encode()
        streams = array.array("i", range(_STANDARD_STREAMS))
        header = len(order).to_bytes(_HEADER_BYTES, "big")
        connection.sendmsg([header], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
        # A signal that arrives before the run exists is passed on as soon as it does.
        early: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _: early.append(received))
        connection.sendall(order)
        answers = connection.makefile()
        run = int(answers.readline() or 0)
        if not run:
            return 1
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _: _send(run, received))
        for received in early:
            _send(run, received)
        status = answers.readline()
    if status:
        return int(status)
    # The warm process was killed, and the run with it.
    return 1


def _send(process: int, number: int) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return


class WarmProcess:
    """The process that forks for each client; it ends when its worker has ended and no run is left."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._runs: dict[int, tuple[socket.socket, int]] = {}
        self._sources = _sources()

    def serve(self) -> dict[str, Any] | None:
        """Fork for each request until the worker ends; return the request in a child, and `None` at the end."""
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(sys.stdin, selectors.EVENT_READ, self._worker_ended)
        while self._listener.fileno() >= 0 or self._runs:
            for key, _ in self._selector.select():
                request = key.data(key.fileobj)
                if request is not None:
                    return dict(request)
        return None

    def is_outdated(self) -> bool:
        """Return whether code has changed since its import, so that a run needs a fresh interpreter."""
        return _sources() != self._sources

    def _worker_ended(self, stdin: Any) -> None:
        self._selector.unregister(stdin)
        self._selector.unregister(self._listener)
        self._listener.close()

    def _accept(self, listener: socket.socket) -> dict[str, Any] | None:
        connection, _ = listener.accept()
        connection.settimeout(_REQUEST_SECONDS)
        try:
            request, streams = _read_request(connection)
        except (OSError, ValueError):
            connection.close()
            return None
        run = os.fork()
        if run == 0:
            self._become_child(connection, streams)
            return request
        for stream in streams:
            os.close(stream)
        handle = os.pidfd_open(run)
        self._runs[run] = (connection, handle)
        self._selector.register(handle, selectors.EVENT_READ, lambda _: self._run_ended(run))
        self._selector.register(connection, selectors.EVENT_READ, lambda _: self._client_ended(run))
        # If the client was killed meanwhile, the end of the connection ends the run.
        with suppress(OSError):
            connection.sendall(f"{run}\n".encode())
        return None

    def _run_ended(self, run: int) -> None:
        connection, handle = self._runs.pop(run)
        _, status = os.waitpid(run, 0)
        self._selector.unregister(handle)
        os.close(handle)
        if connection.fileno() >= 0:
            self._selector.unregister(connection)
            with connection:
                _answer(connection, os.waitstatus_to_exitcode(status))

    def _client_ended(self, run: int) -> None:
        """End a run whose client was killed: nobody could stop it any more."""
        connection, _ = self._runs[run]
        self._selector.unregister(connection)
        connection.close()
        _send(run, signal.SIGKILL)

    def _become_child(self, connection: socket.socket, streams: Iterable[int]) -> None:
        os.setsid()
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.prctl(_PR_SET_NAME, RUN_NAME.encode())
        for target, stream in enumerate(streams):
            os.dup2(stream, target)
            os.close(stream)
        for other, handle in self._runs.values():
            other.close()
            os.close(handle)
        connection.close()
        self._listener.close()
        self._selector.close()


def _read_request(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    header, streams, _, _ = socket.recv_fds(connection, _HEADER_BYTES, _STANDARD_STREAMS)
    try:
        with connection.makefile("rb") as body:
            return json.loads(body.read(int.from_bytes(header, "big"))), streams
    except (OSError, ValueError):
        for stream in streams:
            os.close(stream)
        raise


def _answer(connection: socket.socket, status: int) -> None:
    with suppress(OSError):
        # A process that a signal ended exits with 128 + its number, as a shell reports it.
        connection.sendall(f"{status if status >= 0 else 128 - status}\n".encode())


def _sources() -> dict[str, tuple[int, int]]:
    """Return time and size of our imported sources, and of the folders in which packages are installed."""
    own = [module.__file__ for name, module in sys.modules.items() if name.startswith("tickerforge.")]
    paths = {path for path in own if path} | {path for path in sys.path if path.endswith("-packages")}
    found = {path: os.stat(path) for path in paths if os.path.exists(path)}
    return {path: (stat.st_mtime_ns, stat.st_size) for path, stat in found.items()}


def _run(request: dict[str, Any], *, fresh: bool) -> None:
    """Run Prefect's engine with the environment and in the folder of the client."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()
    wait_for_prefect()
    if fresh:
        os.execve(sys.executable, [sys.executable, "-m", _ENGINE], dict(os.environ))
    sys.argv[:] = [_ENGINE]
    runpy.run_module(_ENGINE, run_name="__main__", alter_sys=True)


def wait_for_prefect() -> None:
    """Wait for a Prefect server that is starting again: its engine ends at once without one, and the run crashes."""
    from prefect.client.orchestration import get_client

    from tickerforge.tasks.base.retries import patiently

    def ask() -> None:
        with get_client(sync_client=True) as client:
            client.hello().raise_for_status()

    patiently(ask)


def _serve(path: str, listener: socket.socket, *, models: bool) -> None:
    def end(*_: object) -> None:
        _forget(Path(path))
        os._exit(0)

    # The worker gets the same signals. Before the imports are done, this process has no runs and ends with the worker.
    # Afterwards it ends when the worker and all runs have ended.
    _on_signals(end)
    for module in (*_FLOWS, *(_MODELS if models and not _NVIDIA.exists() else ())):
        importlib.import_module(module)
    _on_signals(signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    warm = WarmProcess(listener)
    request = warm.serve()
    if request is not None:
        _run(request, fresh=warm.is_outdated())
        return
    _forget(Path(path))


def _on_signals(action: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, action)


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.parent.rmdir()


if __name__ == "__main__":
    if sys.argv[1] == "client":
        sys.exit(_client(sys.argv[2]))
    _serve(sys.argv[2], socket.socket(fileno=int(sys.argv[3])), models=sys.argv[1] == "models")
