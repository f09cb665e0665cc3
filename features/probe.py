"""Whether an HTTP server answers."""

import ipaddress
import socket
import urllib.request
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

# A proxy that the environment names cannot reach this machine. `tasks.base.environment` says so to other clients.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def probe(url: str, *, timeout: float) -> int:
    """Request an address, on this machine never through a proxy, and return the HTTP status of the answer.

    Other machines are asked as MLflow's and Prefect's clients ask them: by the proxies of the environment.

    Args:
        url: `http://` or `https://`, without credentials: they would be taken for a part of the host's name.
        timeout: Seconds to wait for the connection and for the answer.

    Raises:
        URLError: If there is no answer; its `reason` says why.
    """
    try:
        opener = _DIRECT if is_here(urlsplit(url).hostname or "") else urllib.request.build_opener()
        with opener.open(url, timeout=timeout) as answer:
            return int(answer.status)
    except HTTPError as error:
        error.close()
        return error.code
    except (OSError, ValueError, HTTPException) as error:
        raise URLError(getattr(error, "reason", None) or error) from error


def is_here(host: str) -> bool:
    """Return whether an address is one of this machine's own, or `localhost`; of other names nothing is known."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    if address.is_loopback:
        return True
    with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as own:
        try:
            own.bind((host, 0))
        except OSError:
            return False
    return True
