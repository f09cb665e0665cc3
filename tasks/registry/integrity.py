"""Checksums of a registered model: written with its files, tagged on its version, compared at every use of a copy."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from tickerforge.tasks.base.disk import file_sha256, tree_hashes
from tickerforge.tasks.base.paths import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FOLDER,
    ADAPTER_WEIGHTS_FILE,
    BASE_MODEL_FOLDER,
    BASE_PATH_SETTING,
    CARD_FILE,
)

CHECKSUMS_FILE = "checksums.json"
CHECKSUMS_TAG = "checksums_sha256"
NEEDED = (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, CARD_FILE)


def write_checksums(staged: Path) -> str:
    """Write the SHA-256 of every file of a staged model into its adapter's folder, and return that of the list.

    Args:
        staged: Holds `adapter`, the code, and perhaps `base_model`.
    """
    path = staged / ADAPTER_FOLDER / CHECKSUMS_FILE
    path.write_text(json.dumps(tree_hashes(staged), indent=2) + "\n", encoding="utf-8")
    return file_sha256(path)


def damage(folders: Mapping[str, Path], *, tag: str | None = None) -> str:
    """Return what differs from the files that were registered, in words; "" if nothing does.

    Args:
        folders: Where the staged files and folders are now, by name; one that is left out is not checked.
        tag: The version's tag `CHECKSUMS_TAG`. Without it, the list in the adapter's folder is believed; without that
            list, the files must only be there.
    """
    adapter = folders[ADAPTER_FOLDER]
    listed = adapter / CHECKSUMS_FILE
    if not listed.is_file():
        needed = (*NEEDED, CHECKSUMS_FILE) if tag else NEEDED
        return next((f"{name} is missing" for name in needed if not (adapter / name).is_file()), "")
    if tag and file_sha256(listed) != tag:
        return f"{CHECKSUMS_FILE} has changed"
    try:
        recorded = dict(json.loads(listed.read_bytes()))
    except (ValueError, TypeError):
        return f"{CHECKSUMS_FILE} cannot be read"
    return next(_differences(recorded, folders), "")


def is_verifiable(adapter: Path) -> bool:
    """Return whether a copy's files can be compared with those that were registered; early versions have no list."""
    return (adapter / CHECKSUMS_FILE).is_file()


def pulled_folders(folder: Path) -> dict[str, Path]:
    """Return where the parts of a pulled adapter are."""
    return {ADAPTER_FOLDER: folder, BASE_MODEL_FOLDER: folder / BASE_MODEL_FOLDER}


def named_base_model(config: str, location: str) -> str:
    """Return the text of a PEFT configuration with another place of the base model."""
    return json.dumps(json.loads(config) | {BASE_PATH_SETTING: location}, indent=2)


def _differences(recorded: Mapping[str, str], folders: Mapping[str, Path]) -> Iterator[str]:
    for name, digest in recorded.items():
        part, _, inside = name.partition("/")
        if part not in folders:
            continue
        path = folders[part] / inside
        if not path.is_file():
            yield f"{name} is missing"
        elif _sha256(path) != digest:
            yield f"{name} has changed"


def _sha256(path: Path) -> str:
    """Hash a file; a PEFT configuration as it was before a pull wrote the place of the base model beside it."""
    if path.name != ADAPTER_CONFIG_FILE or not (path.parent / BASE_MODEL_FOLDER).is_dir():
        return file_sha256(path)
    try:
        registered = named_base_model(path.read_text(encoding="utf-8"), f"../{BASE_MODEL_FOLDER}")
    except (ValueError, TypeError):
        return file_sha256(path)
    return hashlib.sha256(registered.encode()).hexdigest()
