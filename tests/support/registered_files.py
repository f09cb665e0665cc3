"""Where the files of a registered version are: no copies, those of the registry itself."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow

from tickerforge.tasks.registry.registration import RegisteredModel
from tickerforge.tasks.registry.shared_base import BASE_MODEL_FILES
from tickerforge.tasks.registry.versions import find_version
from tickerforge.tasks.tracking.client import Tracking, client_of


def stored_files(registered: RegisteredModel) -> Path:
    """The folder of the version's model, with its code and `artifacts/adapter`."""
    return Path(mlflow.artifacts.download_artifacts(registered.uri))


def stored_base_model(registered: RegisteredModel, tracking: Tracking) -> Path:
    """The folder of the base model, which versions share."""
    tags = find_version(tracking, registered.name, alias=registered.version).tags
    _, run_id, name = tags[BASE_MODEL_FILES].split("/")
    return Path(unquote(urlsplit(client_of(tracking).get_run(run_id).info.artifact_uri).path)) / name
