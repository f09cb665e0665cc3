"""Restart of servers that hang. The process manager does not notice a server that runs and does not answer."""

import logging
import threading
import time
import xmlrpc.client

from tickerforge.deployments.service.health import health
from tickerforge.deployments.service.processes import SERVERS, manager, programs
from tickerforge.tasks.base.errors import ServiceError
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.base.service import Service, read_service

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 5.0
# A look at a silent server takes `PAUSE_SECONDS` and the probe's 3 s: about a minute, and five for one that starts.
# Looks are counted and not seconds, because a machine that was suspended must not end its servers.
LOOKS, LOOKS_AT_START = 8, 40


class Watchdog:
    """Kills a server that did not answer at several looks in a row; the process manager then starts it again.

    Args:
        service: The service.
        looks: Number of looks, for a server that has answered before.
    """

    def __init__(self, service: Service, *, looks: int = LOOKS) -> None:
        self._service = service
        self._looks = looks
        # The looks that are left, by name and process of the server.
        self._left: dict[tuple[str, int], int] = {}

    def look(self) -> list[str]:
        """Ask both servers, and return the names of those that were killed.

        Raises:
            ServiceError: If the process manager does not answer.
        """
        faults, left, killed = health(self._service), dict[tuple[str, int], int](), list[str]()
        for server in programs(self._service):
            if server.name not in SERVERS or not server.pid:
                continue
            key = (server.name, server.pid)
            left[key] = self._left.get(key, LOOKS_AT_START) - 1 if server.name in faults else self._looks
            if left[key] == 0:
                logger.warning(
                    "%s (process %d) runs but does not answer (%s): killing it, and it starts again",
                    *(server.name, server.pid, faults[server.name]),
                )
                # A server that hangs ignores SIGTERM.
                with manager(self._service) as remote:
                    remote.signalProcess(server.name, "KILL")
                killed.append(server.name)
        self._left = left
        return killed


def start_watchdog(workspace: Workspace) -> None:
    """Watch the servers of this home's service in a thread of this process."""
    service = read_service(workspace)
    if service is None:
        raise ServiceError("the service's record is gone: start it with `tickerforge up`")
    threading.Thread(target=_watch, args=(Watchdog(service),), daemon=True).start()


def _watch(watchdog: Watchdog) -> None:
    while True:
        time.sleep(PAUSE_SECONDS)
        try:
            watchdog.look()
        # The manager may restart a server, or end itself, at this moment.
        except (ServiceError, xmlrpc.client.Error) as error:
            logger.warning("the servers are not watched for a moment: %s", error)
