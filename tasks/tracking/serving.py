"""MLflow's server as an app in this process, without the processes that `mlflow server` starts."""

import os
from typing import Any


def mlflow_app(*, database: str, artifacts: str) -> Any:
    """Open or create the database and return the ASGI app; all its own checks of hosts and origins are off.

    Args:
        database: URL of the database.
        artifacts: URL under which clients, not the server, read and write the artifacts of new experiments.
    """
    # Its checks let every page on this machine and every name such as `10.example.com` pass; `Gate` is stricter.
    os.environ["MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE"] = "true"
    from mlflow.server import constants
    from mlflow.server.handlers import initialize_backend_stores

    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = database
    os.environ[constants.REGISTRY_STORE_URI_ENV_VAR] = database
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = artifacts
    initialize_backend_stores(database, database, artifacts)
    from mlflow.server.fastapi_app import app

    return app
