"""The addresses at which the servers of the service listen, and the checks of them."""

import errno
import ipaddress
import logging
import os
import socket
from dataclasses import dataclass

from tickerforge.flows.errors import ConfigError
from tickerforge.tasks.base.service import Service

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
PREFECT_PORT, MLFLOW_PORT = 4200, 5000
HOSTS_VARIABLE = "TICKERFORGE_HOSTS"
_ADDRESSES = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")
_FIX = "give --host an IPv4 address of this machine, or 0.0.0.0 for all, and ports above 1023"


@dataclass(frozen=True)
class Listening:
    """How the servers are wanted; `None` is the default, or the current value of a running service."""

    host: str | None = None
    prefect_port: int | None = None
    mlflow_port: int | None = None
    login: bool = True


def check_environment(service: Service) -> None:
    """Refuse an environment that names other servers than the service's.

    Raises:
        ConfigError: Names the variable.
    """
    for name, value in service.variables().items():
        if os.environ.get(name, value) != value:
            # The other variables are parts of the login.
            other = f"server than this service's {value}" if name in _ADDRESSES else "login than this service's"
            raise ConfigError(
                f"{name} is set to another {other}: unset it, so that commands and the service use the same server"
            )


def known_names(host: str) -> set[str]:
    """Return the names under which others know servers that listen at `host`, with those of `TICKERFORGE_HOSTS`."""
    names = {name.strip() for name in os.environ.get(HOSTS_VARIABLE, "").split(",")} - {""}
    return names if ipaddress.IPv4Address(host).is_loopback else names | {socket.gethostname()}


def warn_of_others(service: Service) -> None:
    """Say who else can reach the servers, and what that means."""
    here = ipaddress.IPv4Address(service.host).is_loopback
    if service.login and not here:
        logger.warning(
            "Prefect and MLflow listen at %s, for other machines too. Everyone with the login can run code here, and "
            "HTTP shows it to the network: put a proxy with TLS before both ports (docs/security.md)",
            service.host,
        )
    elif not service.login:
        logger.warning(
            "Prefect and MLflow listen at %s without a login: %s can run code here as you. Use --no-login only where "
            "you are alone",
            service.host,
            "every user of this machine" if here else "everyone who can reach these ports",
        )


def local_address(host: str) -> str:
    """Return the address at which this machine reaches a server that listens at `host`.

    Raises:
        ConfigError: If `host` is not an IPv4 address.
    """
    try:
        place = ipaddress.IPv4Address(host)
    except ValueError:
        raise ConfigError(f"--host {host!r} is not an address: {_FIX}") from None
    return LOOPBACK if place.is_unspecified else str(place)


def check_port(host: str, port: int, *, option: str, name: str) -> None:
    """Refuse a port at which the server cannot listen.

    Raises:
        ConfigError: If the port is in use, or the host is not an address of this machine; names the option to change.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            fix = f"choose another port with {option}, or stop the program that uses it" if taken else _FIX
            raise ConfigError(f"{name} cannot listen at {host}:{port} ({error.strerror}): {fix}") from error
