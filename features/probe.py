"""Whether an HTTP server answers."""

import urllib.request
from http.client import HTTPException
from urllib.error import HTTPError, URLError

# A proxy that the environment names cannot reach servers on this machine and in this network.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def probe(url: str, *, timeout: float) -> int:
    """Request an address, never through a proxy, and return the HTTP status of the answer.

    Args:
        url: `http://` or `https://`, without credentials: they would be taken for a part of the host's name.
        timeout: Seconds to wait for the connection and for the answer.

    Raises:
        URLError: If there is no answer; its `reason` says why.
    """
    try:
        with _OPENER.open(url, timeout=timeout) as answer:
            return int(answer.status)
    except HTTPError as error:
        error.close()
        return error.code
    except (OSError, ValueError, HTTPException) as error:
        raise URLError(getattr(error, "reason", None) or error) from error
