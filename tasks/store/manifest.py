"""The manifest beside an artifact's files: what the artifact was made from, and whether the files match it."""

from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field, ValidationError, field_validator

from tickerforge.features.config import FrozenModel
from tickerforge.tasks.base.disk import combined_sha256, file_sha256
from tickerforge.tasks.base.paths import MANIFEST_FILE

Scalar = str | int | float | bool | None


class ArtifactRef(FrozenModel):
    """A reference to a finished artifact, small enough to pass between tasks.

    `key` identifies what it was made from, `sha256` its content. `cached` says whether the call that returned this
    reference found the artifact finished; it is not a part of the artifact.
    """

    stage: str
    key: str
    path: Path
    sha256: str
    meta: dict[str, Scalar] = Field(default_factory=dict)
    cached: bool = False


class Manifest(FrozenModel):
    """The record beside an artifact's files; `files` maps relative paths to SHA-256."""

    stage: str
    key: str
    files: dict[str, str]
    meta: dict[str, Scalar]
    inputs: dict[str, Any]
    code: str
    seed: int | None
    git_revision: str
    packages: dict[str, str]
    created: datetime

    @field_validator("files")
    @classmethod
    def _below_the_folder(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{name!r} lies outside of the artifact")
        return files

    @property
    def sha256(self) -> str:
        """Hash of the artifact's content: the names and contents of all its files."""
        return combined_sha256(self.files)

    def reference(self, folder: Path, *, cached: bool) -> ArtifactRef:
        """Return a reference to the artifact with this manifest, in `folder`."""
        return ArtifactRef(
            stage=self.stage, key=self.key, path=folder, sha256=self.sha256, meta=self.meta, cached=cached
        )


def load_manifest(folder: Path) -> Manifest | None:
    """Read the manifest in a folder; `None` if there is none or it cannot be read."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def verified(folder: Path, key: str) -> tuple[Manifest | None, str]:
    """Return the manifest of a folder if all files match it, else `None` and what is wrong."""
    manifest = load_manifest(folder)
    if manifest is None:
        return None, "unreadable manifest" if (folder / MANIFEST_FILE).exists() else "no manifest"
    if manifest.key != key:
        return None, "manifest of another artifact"
    for name, digest in manifest.files.items():
        path = folder / name
        if not path.is_file():
            return None, f"{name} is missing"
        if file_sha256(path) != digest:
            return None, f"{name} has changed"
    return manifest, ""
