"""A server of the service, in one process and behind a gate: `python -m ...server prefect`, or `... mlflow`."""

import os
import sys
from typing import Any

_GRACE_SECONDS = 3


def _prefect(login: str) -> Any:
    # Prefect checks the login itself, also on WebSockets and for its page, which asks for it.
    if login:
        os.environ["PREFECT_SERVER_API_AUTH_STRING"] = login
    from prefect.server.api.server import create_app

    from tickerforge.flows.server.sqlite import wait_for_write_lock

    wait_for_write_lock()
    return create_app(final=True)


def _mlflow() -> Any:
    from tickerforge.tasks.tracking.serving import mlflow_app

    return mlflow_app(
        database=os.environ["MLFLOW_BACKEND_STORE_URI"], artifacts=os.environ["MLFLOW_DEFAULT_ARTIFACT_ROOT"]
    )


def _main() -> None:
    """Serve until SIGTERM."""
    # Other users must not read the databases and files that the servers write.
    os.umask(0o077)
    import uvicorn

    from tickerforge.deployments.service.addresses import known_names
    from tickerforge.tasks.base.gate import Gate
    from tickerforge.tasks.base.paths import Workspace
    from tickerforge.tasks.base.service import read_service

    (name,) = sys.argv[1:]
    service = read_service(Workspace.current())
    if service is None:
        raise SystemExit("the service's record is gone: start it with `tickerforge up`")
    hosts = known_names(service.host)
    if name == "prefect":
        gate, port = Gate(_prefect(service.login), hosts=hosts), service.prefect_port
    else:
        app = _mlflow()
        gate, port = Gate(app, hosts=hosts, login=service.login or None, open_path="/health"), service.mlflow_port
    uvicorn.run(gate, host=service.host, port=port or 0, log_level="warning", timeout_graceful_shutdown=_GRACE_SECONDS)


if __name__ == "__main__":
    _main()
