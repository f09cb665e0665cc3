"""Where MLflow is and whether it answers; imports neither MLflow nor Prefect, so that a fault shows at once."""

import http.client
import os
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request

from tickerforge.tasks.base.errors import TrackingError
from tickerforge.tasks.base.paths import Workspace

TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
USER_VARIABLE, PASSWORD_VARIABLE = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
CONNECT_SECONDS = 5.0

_CREDENTIALS = re.compile(r"://[^/?#\s]*@")
_SECRET_PARAMETERS = re.compile(r"([?&][^=&\s]*(?:password|passwd|secret|token)[^=&\s]*=)[^&\s]+", re.IGNORECASE)


def without_credentials(text: str) -> str:
    """A URL, or a text with URLs in it, without the users' names and passwords."""
    return _SECRET_PARAMETERS.sub(r"\1***", _CREDENTIALS.sub("://", text))


def forget_credentials(error: BaseException) -> None:
    """Take the users' names and passwords out of the texts of an exception and of all that led to it.

    Log files and Prefect keep tracebacks, and those print every exception of the chain.
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
    """Whether a tracking address is that of a server, and not of a database."""
    return uri.startswith(("http://", "https://"))


def tracking_uri(workspace: Workspace) -> str:
    """`MLFLOW_TRACKING_URI`, or the workspace's own SQLite database.

    A server's user and password move into MLflow's variables for them, since it quotes addresses in its errors.
    """
    uri = os.environ.get(TRACKING_VARIABLE) or f"sqlite:///{workspace.mlflow_db}"
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
    """Refuse an `MLFLOW_TRACKING_URI` that names a server which does not answer.

    Raises:
        TrackingError: Says where it was looked for and what to do.
    """
    check_reachable(os.environ.get(TRACKING_VARIABLE, ""))


def check_reachable(uri: str) -> None:
    """Fail within seconds where no server answers; what it answers, and its certificate, is MLflow's own business.

    Raises:
        TrackingError: If a server does not answer; a database is not looked at.
    """
    if not is_server(uri):
        return
    try:
        # urllib takes a user's name and password for a part of the host's name.
        urllib.request.urlopen(f"{without_credentials(uri).rstrip('/')}/health", timeout=CONNECT_SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code >= 500:
            raise TrackingError(unreachable(uri, error)) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        if not isinstance(getattr(error, "reason", None), ssl.SSLError):
            raise TrackingError(unreachable(uri, error)) from error


def unreachable(uri: str, error: BaseException) -> str:
    """What is wrong with MLflow at an address, and the cure, for a stranger."""
    shown, reason = without_credentials(uri), without_credentials(" ".join(str(error).split()))[:300]
    if is_server(uri):
        cure = f"Start the server, correct {TRACKING_VARIABLE}, or unset it to use the database in TICKERFORGE_HOME."
    else:
        cure = f"Check that the folder can be written; {TRACKING_VARIABLE} or TICKERFORGE_HOME selects another place."
    return f"MLflow at {shown} cannot be used: {reason}. {cure}"
