"""The processes of the service: their start through a process manager, their state, and their end."""

import logging
import os
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tickerforge.tasks.base.errors import ServiceError
from tickerforge.tasks.base.service import POLL_SECONDS, Service

if TYPE_CHECKING:
    import psutil

logger = logging.getLogger(__name__)

CONFIG = Path(__file__).with_name("supervisord.conf")
SERVERS = ("prefect", "mlflow")
WORKERS = ("cpu-worker", "gpu-worker")
_ALIVE = {"STARTING", "RUNNING"}
_MANAGER_START_SECONDS = 30
_KILL_SECONDS = 5
_RUN_MODULE = "prefect.engine"


@dataclass(frozen=True)
class Program:
    """One program of the service, as the process manager sees it.

    Attributes:
        name: `prefect`, `mlflow`, `cpu-worker` or `gpu-worker`.
        state: State in supervisord's words, normally `RUNNING`.
        pid: Process id; 0 if there is no process.
        started: When it started, seconds since 1970 UTC; 0 if never.
        log: Its log file.
    """

    name: str
    state: str
    pid: int
    started: int
    log: Path

    @property
    def runs(self) -> bool:
        """Whether it runs or starts."""
        return self.state in _ALIVE


def start_manager(environment: Mapping[str, str], *, folder: Path) -> None:
    """Start the process manager with the servers, detached from this terminal; workers run in `folder`.

    Raises:
        ServiceError: If it does not start.
    """
    here = str(Path(sys.executable).parent)
    found = os.pathsep.join([here, environment.get("PATH", os.defpath)])
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(CONFIG)],
        cwd=folder,
        # Workers and their runs start in the user's folder: a `random.py` there must not replace Python's own.
        env={**environment, "PATH": found, "PYTHONSAFEPATH": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_MANAGER_START_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise ServiceError(f"the process manager (supervisord) did not start: {done.stdout.strip()[-2000:]}")


@contextmanager
def manager(service: Service) -> Iterator[Any]:
    """Connect to the process manager's remote interface.

    Raises:
        ServiceError: If it does not answer.
    """
    from supervisor.xmlrpc import SupervisorTransport

    transport = SupervisorTransport("", "", f"unix://{service.socket}")
    try:
        yield xmlrpc.client.ServerProxy("http://localhost", transport=transport).supervisor
    except OSError as error:
        raise ServiceError(f"the service's process manager does not answer at {service.socket} ({error})") from error
    finally:
        transport.close()


def programs(service: Service) -> list[Program]:
    """List all programs of the service, servers first.

    Raises:
        ServiceError: If the process manager does not answer.
    """
    with manager(service) as remote:
        found = {each["name"]: each for each in remote.getAllProcessInfo()}
    return [
        Program(
            name=name,
            state=found[name]["statename"],
            pid=found[name]["pid"],
            started=found[name]["start"],
            log=Path(found[name]["stdout_logfile"]),
        )
        for name in (*SERVERS, *WORKERS)
    ]


def start_missing(service: Service, names: Sequence[str]) -> list[str]:
    """Start those of the named programs that do not run, and return their names."""
    stopped = [program.name for program in programs(service) if program.name in names and not program.runs]
    with manager(service) as remote:
        for name in stopped:
            try:
                remote.startProcess(name, False)
            except xmlrpc.client.Fault as fault:
                # supervisord has restarted it meanwhile or is about to; its state says which.
                logger.debug("starting %s: %s", name, fault.faultString)
    return stopped


def stop_programs(service: Service, names: Sequence[str]) -> None:
    """Send SIGTERM to these programs and their process groups, and return when they have ended."""
    with manager(service) as remote:
        for name in names:
            try:
                remote.stopProcess(name, False)
            except xmlrpc.client.Fault as fault:
                logger.debug("stopping %s: %s", name, fault.faultString)
    # After `stopwaitsecs` the process manager sends SIGKILL.
    while any(program.name in names and program.state == "STOPPING" for program in programs(service)):
        time.sleep(POLL_SECONDS)


def end(processes: "Sequence[psutil.Process]", *, patience: float = _KILL_SECONDS) -> None:
    """Send SIGTERM to these processes, and SIGKILL to those that still live after `patience` seconds."""
    import psutil

    for process in processes:
        terminate(process)
    _, alive = psutil.wait_procs(processes, timeout=patience)
    for process in alive:
        _signal(process, "kill")
    psutil.wait_procs(alive, timeout=_KILL_SECONDS)


def terminate(process: "psutil.Process") -> None:
    """Send SIGTERM to a process, if it is still there."""
    _signal(process, "terminate")


def is_run(process: "psutil.Process") -> bool:
    """Return whether a worker started this process to execute a flow run."""
    import psutil

    try:
        return _RUN_MODULE in process.cmdline()
    except psutil.Error:
        return False


def _signal(process: "psutil.Process", how: str) -> None:
    import psutil

    try:
        getattr(process, how)()
    except psutil.NoSuchProcess:
        logger.debug("process %d ended by itself", process.pid)
