"""Whether the servers of the service answer, and why not."""

import logging
import time
import urllib.error
import urllib.request
from pathlib import Path

from tickerforge.deployments.service.processes import SERVERS, WORKERS, Program, programs
from tickerforge.tasks.base.errors import ServiceError
from tickerforge.tasks.base.service import Service

logger = logging.getLogger(__name__)

HEALTH_SECONDS = 3.0
START_SECONDS = 240
TOLD_EVERY_SECONDS = 10
POLL_SECONDS = 0.25
LAST_LINES = 15


def health(service: Service) -> dict[str, str]:
    """What is wrong with each server that does not answer; empty where all is well."""
    addresses = {"prefect": f"{service.prefect_api}/health", "mlflow": f"{service.mlflow}/health"}
    return {name: fault for name, url in addresses.items() if (fault := _fault(url))}


def wait_for_servers(service: Service) -> None:
    """Return as soon as both servers answer.

    Raises:
        ServiceError: If one ends, or does not answer in time, with the end of its log.
    """
    started = told = time.monotonic()
    pids: dict[str, int] = {}
    while faults := health(service):
        for program in programs(service):
            if program.name in SERVERS:
                _check_alive(program, pids)
        now = time.monotonic()
        if now - started > START_SECONDS:
            name = next(iter(faults))
            log = next(program.log for program in programs(service) if program.name == name)
            raise ServiceError(f"{name} does not answer after {START_SECONDS} s ({faults[name]}).\n{_tail(log)}")
        if now - told > TOLD_EVERY_SECONDS:
            logger.info("waiting for %s (%.0f s)", " and ".join(faults), now - started)
            told = now
        time.sleep(POLL_SECONDS)


def wait_for_workers(service: Service) -> None:
    """Return as soon as both workers have stayed up for a moment.

    Raises:
        ServiceError: If one ends, with the end of its log.
    """
    pids: dict[str, int] = {}
    while starting := [found for found in programs(service) if found.name in WORKERS and found.state != "RUNNING"]:
        for program in starting:
            _check_alive(program, pids)
        time.sleep(POLL_SECONDS)


def _check_alive(program: Program, pids: dict[str, int]) -> None:
    first = pids.setdefault(program.name, program.pid)
    if not program.runs or (first and program.pid not in (0, first)):
        raise ServiceError(f"{program.name} ended as soon as it was started.\n{_tail(program.log)}")


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:] if log.is_file() else []
    return "\n".join([f"The end of its log, {log}:", *(f"  {line}" for line in lines)])


def _fault(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=HEALTH_SECONDS):
            return ""
    except urllib.error.HTTPError as error:
        # With a login of its own it answers nevertheless.
        return "" if error.code in {401, 403} else f"HTTP {error.code}"
    except OSError as error:
        return str(getattr(error, "reason", error))
