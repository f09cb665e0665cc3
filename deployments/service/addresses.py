"""Where the servers of the service listen, and whether they may."""

import errno
import ipaddress
import logging
import os
import socket

from tickerforge.flows.errors import ConfigError
from tickerforge.tasks.base.service import Service

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
PREFECT_PORT, MLFLOW_PORT = 4200, 5000
CURE = "give --host an IPv4 address of this machine, or 0.0.0.0 for all, and ports above 1023"


def check_environment(service: Service) -> None:
    """Refuse an environment that names other servers than the service's.

    Raises:
        ConfigError: If it does.
    """
    for name, value in service.variables().items():
        if os.environ.get(name, value) != value:
            raise ConfigError(
                f"{name} is set to another server than this service's {value}: unset it, so that `tickerforge` "
                "and the service mean the same one"
            )


def local_address(host: str) -> str:
    """Where a server that listens at `host` is reached from this machine; warns where others reach it too.

    Raises:
        ConfigError: If it is no address.
    """
    try:
        place = ipaddress.IPv4Address(host)
    except ValueError:
        raise ConfigError(f"--host {host!r} is no address: {CURE}") from None
    if not place.is_loopback:
        logger.warning(
            "Prefect and MLflow listen at %s without a login: whoever reaches these ports can run code here. Let only "
            "a trusted network reach them, or put a proxy with a login before them",
            host,
        )
    return LOOPBACK if place.is_unspecified else str(place)


def check_port(host: str, port: int, *, option: str, name: str) -> None:
    """Refuse a port where nothing can listen.

    Raises:
        ConfigError: If it is taken, or the host is not of this machine; names the option that chooses another.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            cure = f"choose another port with {option}, or stop what listens there" if taken else CURE
            raise ConfigError(f"{name} cannot listen at {host}:{port} ({error.strerror}): {cure}") from error
