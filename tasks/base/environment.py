"""The embedded defaults of Prefect and MLflow, and the version of the running code."""

import os
import stat
import subprocess
import urllib.request
from functools import cache
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from tickerforge.features.probe import is_here
from tickerforge.tasks.base.disk import os_errors_as_store_error
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.base.service import running_service

EPHEMERAL_STARTUP_SECONDS = 120
REVISION_VARIABLE = "TICKERFORGE_REVISION"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def set_embedded_defaults(workspace: Workspace) -> None:
    """Set the environment variables with which Prefect and MLflow use the workspace and log little.

    Variables that are set already win, so `PREFECT_API_URL` and `MLFLOW_TRACKING_URI` still select a server. If they
    are unset and the service of this home runs (`tickerforge up`), they are set to its servers, with its login. Call it
    before Prefect or MLflow is imported: both read their settings at import.

    Raises:
        StoreError: If the home cannot be created.
        ServiceError: If the service was killed in part, so that its servers still hold the databases.
    """
    defaults: dict[str, object] = {
        "PREFECT_HOME": workspace.prefect_home,
        "PREFECT_LOCAL_STORAGE_PATH": workspace.prefect_home / "storage",
        "PREFECT_SERVER_MEMO_STORE_PATH": workspace.prefect_home / "memo_store.toml",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": workspace.prefect_url,
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": EPHEMERAL_STARTUP_SECONDS,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    # Prefect creates its own folder only if the parent exists.
    keep_private(workspace)
    if service := running_service(workspace):
        os.environ.update(service.variables_beside(os.environ))
    servers = (urlsplit(os.environ.get(name, "")).hostname for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"))
    reach_directly(*(host for host in servers if host and is_here(host)))
    if "HF_HOME" not in os.environ:
        defaults["HF_HUB_CACHE"] = workspace.base_models / "hub"
    for name, value in defaults.items():
        os.environ.setdefault(name, str(value))


def reach_directly(*own: str) -> None:
    """Add loopback to `NO_PROXY`: the clients of Prefect and MLflow would ask the proxy for it.

    Processes that this one starts inherit it. Without a proxy in the environment nothing changes.

    Args:
        own: Further addresses of this machine, at which the service listens.
    """
    if not set(urllib.request.getproxies_environment()) - {"no"}:
        return
    # Libraries differ in which of the two they read, so both get the names of both.
    named = ",".join(os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY")).split(",")
    direct = ",".join(dict.fromkeys([*filter(None, map(str.strip, named)), *LOOPBACK, *own]))
    os.environ.update(no_proxy=direct, NO_PROXY=direct)


def keep_private(workspace: Workspace) -> None:
    """Create the home, and take it and its databases from the other users of this machine.

    A folder that somebody else owns stays as it is, and so does one that many use, such as `/tmp`.

    Raises:
        StoreError: If the home cannot be created.
    """
    with os_errors_as_store_error(workspace.state, doing="preparing the working folder of Prefect and MLflow"):
        workspace.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        workspace.state.mkdir(mode=0o700, exist_ok=True)
        # SQLite gives its other files the mode of the database.
        private = (workspace.root, workspace.state, workspace.prefect_db, workspace.mlflow_db)
        for path in filter(os.path.exists, private):
            found = path.stat()
            shared = found.st_uid != os.geteuid() or found.st_mode & stat.S_ISVTX
            if found.st_mode & 0o077 and not shared and path != Path.home():
                path.chmod(found.st_mode & 0o700)


@cache
def git_revision() -> str:
    """Return the commit of the running code, with `-dirty` if files differ from it, or the installed version.

    `TICKERFORGE_REVISION` names the commit if there is no checkout, as in a container.
    """
    if stated := os.environ.get(REVISION_VARIABLE):
        return stated
    checkout = Path(__file__).resolve().parents[2]
    try:
        top = _git(checkout, "rev-parse", "--show-toplevel")
        if Path(top).resolve() == checkout:
            commit = _git(checkout, "rev-parse", "HEAD")
            return f"{commit}-dirty" if _git(checkout, "status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        pass
    return package_version()


def package_version() -> str:
    """Return the version of the installed distribution, or `0+unknown` if none is installed."""
    try:
        return metadata.version("tickerforge")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
