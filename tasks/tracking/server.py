"""The address of MLflow and whether it answers; imports neither MLflow nor Prefect, so that a fault shows at once."""

import os
import re
import ssl
import urllib.parse
from urllib.error import URLError

from tickerforge.features.probe import probe
from tickerforge.tasks.base.errors import TrackingError
from tickerforge.tasks.base.paths import Workspace

TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
USER_VARIABLE, PASSWORD_VARIABLE = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
_CONNECT_SECONDS = 5.0

_CREDENTIALS = re.compile(r"://[^/?#\s]*@")
_SECRET_PARAMETERS = re.compile(r"([?&][^=&\s]*(?:password|passwd|secret|token)[^=&\s]*=)[^&\s]+", re.IGNORECASE)


def without_credentials(text: str) -> str:
    """Remove users' names and passwords from a URL, or from a text with URLs."""
    return _SECRET_PARAMETERS.sub(r"\1***", _CREDENTIALS.sub("://", text))


def forget_credentials(error: BaseException) -> None:
    """Remove users' names and passwords from the texts of an exception and of all its causes.

    Log files and Prefect keep tracebacks, and a traceback prints every exception of the chain.
    """
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        fault = waiting.pop()
        if not isinstance(fault, BaseException) or id(fault) in seen:
            continue
        seen.add(id(fault))
        waiting += [fault.__cause__, fault.__context__, *fault.args]
        fault.args = tuple(without_credentials(part) if isinstance(part, str) else part for part in fault.args)
        for name in ("message", "strerror", "filename"):
            if isinstance(text := getattr(fault, name, None), str):
                setattr(fault, name, without_credentials(text))


def is_server(uri: str) -> bool:
    """Return whether a tracking address is that of a server, and not of a database."""
    return uri.startswith(("http://", "https://"))


def tracking_uri(workspace: Workspace) -> str:
    """Return `MLFLOW_TRACKING_URI`, or the workspace's own SQLite database.

    A server's user and password move from the address into MLflow's own variables, because MLflow repeats addresses in
    its errors.
    """
    uri = os.environ.get(TRACKING_VARIABLE) or workspace.mlflow_url
    if not is_server(uri):
        return uri
    user, _, password = urllib.parse.urlsplit(uri).netloc.rpartition("@")[0].partition(":")
    if not password:
        return uri
    os.environ.setdefault(USER_VARIABLE, urllib.parse.unquote(user))
    os.environ.setdefault(PASSWORD_VARIABLE, urllib.parse.unquote(password))
    os.environ[TRACKING_VARIABLE] = without_credentials(uri)
    return os.environ[TRACKING_VARIABLE]


def check_server() -> None:
    """Check that a server named by `MLFLOW_TRACKING_URI` answers.

    Raises:
        TrackingError: If it does not; names the address and the cure.
    """
    check_reachable(os.environ.get(TRACKING_VARIABLE, ""))


def check_reachable(uri: str) -> None:
    """Fail within seconds if no server answers; MLflow itself judges the answer and the certificate.

    Raises:
        TrackingError: If a server does not answer, or answers with HTTP 5xx; a database is not checked.
    """
    if not is_server(uri):
        return
    try:
        status = probe(f"{without_credentials(uri).rstrip('/')}/health", timeout=_CONNECT_SECONDS)
    except URLError as error:
        if not isinstance(error.reason, ssl.SSLError):
            raise TrackingError(unreachable(uri, error)) from error
    else:
        if status >= 500:
            raise TrackingError(unreachable(uri, f"HTTP Error {status}"))


def unreachable(uri: str, error: BaseException | str) -> str:
    """Describe what is wrong with MLflow at an address, and the cure, without credentials."""
    shown, reason = without_credentials(uri), without_credentials(" ".join(str(error).split()))[:300]
    if is_server(uri):
        cure = f"Start the server, correct {TRACKING_VARIABLE}, or unset it to use the database in TICKERFORGE_HOME."
    else:
        cure = f"Check that the folder can be written; {TRACKING_VARIABLE} or TICKERFORGE_HOME selects another place."
    return f"MLflow at {shown} cannot be used: {reason}. {cure}"
