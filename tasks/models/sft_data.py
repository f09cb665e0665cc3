"""Accepted answers from a file, as an artifact for fine-tuning."""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from tickerforge.features.errors import PublishedLayoutError
from tickerforge.features.stages import SFT_DATA
from tickerforge.tasks.base.disk import file_sha256
from tickerforge.tasks.base.paths import SFT_DATA_FILE
from tickerforge.tasks.store.artifacts import ArtifactRef, Scalar, Store, code_version


def store_sft_data(path: Path, *, store: Store) -> ArtifactRef:
    """Store accepted answers from a Parquet or CSV file in the form of `sample_answers`.

    Args:
        path: File with at least the columns `prompt` (JSON of the chat) and `answer`.
        store: Store of the artifact.

    Raises:
        PublishedLayoutError: If the file cannot be read or lacks a column.
    """

    def build(folder: Path) -> Mapping[str, Scalar]:
        accepted = read_sft_data(path)
        accepted.to_parquet(folder / SFT_DATA_FILE, index=False)
        return {"accepted": len(accepted)}

    _check_is_file(path)
    return store.build(
        SFT_DATA.name,
        {"file": file_sha256(path)},
        build,
        code=code_version("tickerforge.tasks.models.sft_data", libraries=("pandas", "pyarrow")),
    )


def read_sft_data(path: Path) -> pd.DataFrame:
    """Read accepted answers from a Parquet or CSV file.

    Returns:
        At least one row, with at least the columns `prompt` (JSON of the chat) and `answer`.

    Raises:
        PublishedLayoutError: If the file is missing, cannot be read, lacks a column or holds no answers.
    """
    _check_is_file(path)
    try:
        accepted = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise PublishedLayoutError(f"{path} cannot be read as accepted answers: {error}") from error
    missing = {"prompt", "answer"} - set(accepted.columns)
    if missing:
        raise PublishedLayoutError(
            f"{path} lacks {' and '.join(sorted(missing))}: it must hold `prompt` (a chat as JSON) and `answer`"
        )
    if accepted.empty:
        raise PublishedLayoutError(f"{path} holds no answers to fine-tune on: run `tickerforge stage sft-data` again")
    for row, (prompt, answer) in enumerate(zip(accepted["prompt"], accepted["answer"], strict=True), start=1):
        if not _is_chat(prompt) or not isinstance(answer, str):
            raise PublishedLayoutError(f"{path}, record {row}: `prompt` must be a chat as JSON and `answer` a string")
    return accepted


def _check_is_file(path: Path) -> None:
    if not path.is_file():
        raise PublishedLayoutError(f"no file {path}: --sft-data-path names the Parquet or CSV file of accepted answers")


def _is_chat(text: object) -> bool:
    try:
        chat = json.loads(str(text))
    except json.JSONDecodeError:
        return False
    if not isinstance(chat, list) or not chat:
        return False
    return all(isinstance(turn, dict) and {"role", "content"} <= set(turn) for turn in chat)
