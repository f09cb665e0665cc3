"""Accepted answers from a file, as an artifact that fine-tuning can start from."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from tasks.disk import file_sha256
from tasks.errors import TasksError
from tasks.paths import SFT_DATA_FILE
from tasks.store import ArtifactRef, Scalar, Store, code_version

LIBRARIES = ("pandas", "pyarrow")


def store_sft_data(path: Path, *, store: Store) -> ArtifactRef:
    """Store accepted answers from a Parquet or CSV file as `sample_answers` would have left them.

    Args:
        path: File with at least the columns `prompt` (JSON of the chat) and `answer`.
        store: Where the artifact goes.

    Raises:
        TasksError: If the file cannot be read or lacks a column.
    """

    def build(folder: Path) -> Mapping[str, Scalar]:
        accepted = _read_sft_data(path)
        accepted.to_parquet(folder / SFT_DATA_FILE, index=False)
        return {"accepted": len(accepted)}

    if not path.is_file():
        raise TasksError(f"no file {path}: --sft-data-path names the Parquet or CSV file of accepted answers")
    return store.build(
        "sft_data",
        {"file": file_sha256(path)},
        build,
        code=code_version("tasks.sft_data", libraries=LIBRARIES),
    )


def _read_sft_data(path: Path) -> pd.DataFrame:
    try:
        accepted = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise TasksError(f"{path} cannot be read as accepted answers: {error}") from error
    missing = {"prompt", "answer"} - set(accepted.columns)
    if missing:
        raise TasksError(
            f"{path} lacks {' and '.join(sorted(missing))}: it must hold `prompt` (a chat as JSON) and `answer`"
        )
    return accepted
