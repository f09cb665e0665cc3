"""The processes of the service: started through a process manager, asked how they are, and ended without a rest."""

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
from tickerforge.tasks.base.service import Service

if TYPE_CHECKING:
    import psutil

logger = logging.getLogger(__name__)

CONFIG = Path(__file__).with_name("supervisord.conf")
SERVERS = ("prefect", "mlflow")
WORKERS = ("cpu-worker", "gpu-worker")
RUNNING = {"STARTING", "RUNNING"}
START_SECONDS = 30
KILL_SECONDS = 5
POLL_SECONDS = 0.2
RUN_MODULE = "prefect.engine"


@dataclass(frozen=True)
class Program:
    """One program of the service, as the process manager sees it.

    Attributes:
        name: `prefect`, `mlflow`, `cpu-worker` or `gpu-worker`.
        state: The process manager's word, `RUNNING` where all is well.
        pid: The process, 0 where there is none.
        started: When it started, seconds since 1970 UTC; 0 if never.
        log: Where it writes.
    """

    name: str
    state: str
    pid: int
    started: int
    log: Path

    @property
    def runs(self) -> bool:
        """Whether it runs, or is about to."""
        return self.state in RUNNING


def start_manager(environment: Mapping[str, str], *, folder: Path) -> None:
    """Start the process manager, and with it the servers, detached from this terminal; runs go on in `folder`.

    Raises:
        ServiceError: If it does not start.
    """
    here = str(Path(sys.executable).parent)
    found = os.pathsep.join([here, environment.get("PATH", os.defpath)])
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(CONFIG)],
        cwd=folder,
        env={**environment, "PATH": found},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise ServiceError(f"the process manager (supervisord) did not start: {done.stdout.strip()[-2000:]}")


@contextmanager
def manager(service: Service) -> Iterator[Any]:
    """The process manager's remote interface.

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
    """All programs of the service, servers first.

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
    """Start those of these programs that do not run, and return their names."""
    stopped = [program.name for program in programs(service) if program.name in names and not program.runs]
    with manager(service) as remote:
        for name in stopped:
            try:
                remote.startProcess(name, False)
            except xmlrpc.client.Fault as fault:
                # It came back by itself meanwhile, or its next attempt is due: the state says which.
                logger.debug("starting %s: %s", name, fault.faultString)
    return stopped


def stop_programs(service: Service, names: Sequence[str]) -> None:
    """Send SIGTERM to these programs and everything in their process groups; return when they have ended."""
    with manager(service) as remote:
        for name in names:
            try:
                remote.stopProcess(name, False)
            except xmlrpc.client.Fault as fault:
                logger.debug("stopping %s: %s", name, fault.faultString)
    # The process manager itself sends SIGKILL in the end.
    while any(program.name in names and program.state == "STOPPING" for program in programs(service)):
        time.sleep(POLL_SECONDS)


def end(processes: "Sequence[psutil.Process]", *, patience: float = KILL_SECONDS) -> None:
    """Send SIGTERM to these processes, and SIGKILL to what is there after `patience` seconds."""
    import psutil

    for process in processes:
        terminate(process)
    _, alive = psutil.wait_procs(processes, timeout=patience)
    for process in alive:
        _signal(process, "kill")
    psutil.wait_procs(alive, timeout=KILL_SECONDS)


def terminate(process: "psutil.Process") -> None:
    """Send SIGTERM to a process, if it is still there."""
    _signal(process, "terminate")


def is_run(process: "psutil.Process") -> bool:
    """Whether a process is the one in which a worker has a flow run executed."""
    import psutil

    try:
        return RUN_MODULE in process.cmdline()
    except psutil.Error:
        return False


def _signal(process: "psutil.Process", how: str) -> None:
    import psutil

    try:
        getattr(process, how)()
    except psutil.NoSuchProcess:
        logger.debug("process %d ended by itself", process.pid)
