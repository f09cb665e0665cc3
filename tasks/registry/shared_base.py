"""Base models that were built here: each content once in MLflow, and not inside of every version that needs it."""

import tempfile
from pathlib import Path
from typing import Any

from tickerforge.tasks.base.disk import combined_sha256, folder_sha256, tree_hashes
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.base.paths import BASE_MODEL_FOLDER
from tickerforge.tasks.tracking.client import Tracking, client_of
from tickerforge.tasks.tracking.runs import open_run

# A version's tag, and the name in its model's configuration: the address of the base model's files.
BASE_MODEL_FILES = "base_model_files"
_CONTENT_TAG = "base_model_sha256"
_SHOWN_DIGITS = 12


def keep_base_model(tracking: Tracking, folder: Path) -> str:
    """Return the address in MLflow of a base model's files; upload them if no whole copy is there.

    The copy is found by the hash of its content, and verified. Raises MLflow's errors.
    """
    client, content = client_of(tracking), combined_sha256(tree_hashes(folder))
    wanted = f"tags.{_CONTENT_TAG} = '{content}' and attributes.status = 'FINISHED'"
    for run in client.search_runs([tracking.experiment_id], filter_string=wanted):
        address = _address(run.info.run_id)
        if _is_whole(tracking, address, content):
            return address
        run_logger(__name__).warning("the base model at %s is damaged in MLflow: storing it again", address)
    name = f"base model {content[:_SHOWN_DIGITS]}"
    run_id = open_run(client, tracking.experiment_id, name, found_by={_CONTENT_TAG: content}, tags={}, new=True)
    client.log_artifacts(run_id, str(folder), BASE_MODEL_FOLDER)
    client.set_terminated(run_id)
    return _address(run_id)


def fetch_base_model(tracking: Tracking, address: str, *, into: Path) -> None:
    """Download a base model's files to `into/base_model`; not verified, and nothing if MLflow has none there."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=str(into), tracking_uri=tracking.uri)
    except (MlflowException, OSError) as error:
        if not _is_absent(error):
            raise


def _address(run_id: str) -> str:
    return f"runs:/{run_id}/{BASE_MODEL_FOLDER}"


def _is_whole(tracking: Tracking, address: str, content: str) -> bool:
    with tempfile.TemporaryDirectory(prefix="tickerforge-") as temporary:
        fetch_base_model(tracking, address, into=Path(temporary))
        return folder_sha256(Path(temporary, BASE_MODEL_FOLDER)) == content


def _is_absent(error: Any) -> bool:
    return isinstance(error, FileNotFoundError) or getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST"
