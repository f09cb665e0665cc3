"""The health of the service: which servers and workers answer, and why others do not."""

import logging
import time
from http import HTTPStatus
from pathlib import Path
from urllib.error import URLError

from tickerforge.deployments.service.processes import SERVERS, WORKERS, Program, programs
from tickerforge.features.probe import probe
from tickerforge.tasks.base.errors import ServiceError
from tickerforge.tasks.base.service import POLL_SECONDS, Service

logger = logging.getLogger(__name__)

_HEALTH_SECONDS = 3.0
_SERVERS_START_SECONDS = 240
_LOG_EVERY_SECONDS = 10
_LAST_LINES = 15
_LOGIN = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}


def health(service: Service) -> dict[str, str]:
    """Return the fault of each server that does not answer; empty if both answer."""
    addresses = {"prefect": f"{service.prefect_api}/health", "mlflow": f"{service.mlflow}/health"}
    return {name: fault for name, url in addresses.items() if (fault := _fault(url))}


def wait_for_servers(service: Service) -> None:
    """Return as soon as both servers answer.

    Raises:
        ServiceError: If a server ends or does not answer in time; shows the end of its log.
    """
    started = logged = time.monotonic()
    pids: dict[str, int] = {}
    while faults := health(service):
        for program in programs(service):
            if program.name in SERVERS:
                _check_alive(program, pids)
        now = time.monotonic()
        if now - started > _SERVERS_START_SECONDS:
            name = next(iter(faults))
            log = next(program.log for program in programs(service) if program.name == name)
            raise ServiceError(
                f"{name} does not answer after {_SERVERS_START_SECONDS} s ({faults[name]}).\n{_tail(log)}"
            )
        if now - logged > _LOG_EVERY_SECONDS:
            logger.info("waiting for %s (%.0f s)", " and ".join(faults), now - started)
            logged = now
        time.sleep(POLL_SECONDS)


def wait_for_workers(service: Service) -> None:
    """Return as soon as both workers have stayed up for a moment.

    Raises:
        ServiceError: If a worker ends; shows the end of its log.
    """
    pids: dict[str, int] = {}
    while starting := [found for found in programs(service) if found.name in WORKERS and found.state != "RUNNING"]:
        for program in starting:
            _check_alive(program, pids)
        time.sleep(POLL_SECONDS)


def _check_alive(program: Program, pids: dict[str, int]) -> None:
    first = pids.setdefault(program.name, program.pid)
    if not program.runs or (first and program.pid not in (0, first)):
        raise ServiceError(f"{program.name} ended right after its start.\n{_tail(program.log)}")


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_LAST_LINES:] if log.is_file() else []
    return "\n".join([f"The end of its log, {log}:", *(f"  {line}" for line in lines)])


def _fault(url: str) -> str:
    try:
        status = probe(url, timeout=_HEALTH_SECONDS)
    except URLError as error:
        return str(error.reason)
    # A server that asks for a login answers, too.
    return "" if status < HTTPStatus.BAD_REQUEST or status in _LOGIN else f"HTTP {status}"
