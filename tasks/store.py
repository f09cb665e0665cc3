"""Content-addressed artifacts: built once, atomically, resumably, and verified at every use."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from features.config import FrozenModel
from tasks.disk import (
    combined_sha256,
    file_sha256,
    fsync_tree,
    full_disk_as_store_error,
    locked,
    os_errors_as_store_error,
    rename_durably,
    tree_hashes,
    write_durably,
)
from tasks.environment import git_revision
from tasks.errors import StoreError
from tasks.logs import run_logger
from tasks.paths import MANIFEST_FILE

Scalar = str | int | float | bool | None
Builder = Callable[[Path], Mapping[str, Scalar] | None]
KEY_LENGTH = 32
RECORDED_PACKAGES = (
    *("tickerforge", "numpy", "pandas", "pyarrow", "ta-lib", "torch", "transformers", "trl", "peft"),
    *("unsloth", "vllm", "mlflow", "prefect"),
)


class ArtifactRef(FrozenModel):
    """A finished artifact: small enough to pass between tasks, enough to find and verify it.

    `key` names what it was made from, `sha256` what is in it. `cached` says whether the call that returned this
    reference found the artifact finished; it is no part of the artifact.
    """

    stage: str
    key: str
    path: Path
    sha256: str
    meta: dict[str, Scalar] = Field(default_factory=dict)
    cached: bool = False


class Manifest(FrozenModel):
    """What stands beside an artifact's files; `files` maps relative paths to SHA-256."""

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


@dataclass(frozen=True)
class Store:
    """Artifacts below one folder: `{root}/{stage}/{key}`, unfinished ones under `{root}/partial`."""

    root: Path

    def folder(self, stage: str, key: str) -> Path:
        """Where the artifact of a stage and key stands once finished."""
        return self.root / stage / key

    def build(
        self,
        stage: str,
        inputs: Mapping[str, Any],
        builder: Builder,
        *,
        code: str,
        seed: int | None = None,
        resumable: bool = False,
    ) -> ArtifactRef:
        """The artifact made from `inputs`, built now or found finished and verified.

        A finished artifact whose files do not match their hashes is rebuilt with a warning. The build holds a lock on
        the key, works in a folder of a stable name and renames it at the end, so that an artifact is whole or absent.

        Args:
            stage: Kind of artifact, also its folder's name.
            inputs: What the artifact depends on: artifact references (their content counts), configurations, plain
                values, and mappings or sequences of these.
            builder: Writes the files into the folder it is given; returns what `ArtifactRef.meta` shall hold.
            code: Version of the code that builds, see `code_version`.
            seed: Seed of the build; counts as an input.
            resumable: Whether the builder can go on from what an interrupted build left in its folder. Where not,
                such remains are removed before and after.

        Raises:
            StoreError: If the disk is full or the store cannot be written; nothing appears under the final name.
        """
        described = {name: _describe(value, name) for name, value in inputs.items()}
        key = artifact_key(stage, described, code=code, seed=seed)
        found, _ = self._find(stage, key)
        if found is None:
            with locked(self.root / "locks" / f"{stage}-{key}.lock", waiting_for=stage):
                found, damage = self._find(stage, key)
                if found is None:
                    if damage:
                        self._discard(stage, key, damage)
                    recipe = {"stage": stage, "key": key, "inputs": described, "code": code, "seed": seed}
                    return self._build(recipe, builder, resumable=resumable)
        run_logger(__name__).info("%s: cached (%s)", stage, key[:12])
        return found

    def _find(self, stage: str, key: str) -> tuple[ArtifactRef | None, str]:
        """The verified artifact, or `None` and what is wrong with the one that is there ("" where none is)."""
        folder = self.folder(stage, key)
        with os_errors_as_store_error(self.root, doing=f"reading {stage}"):
            if not folder.exists():
                return None, ""
            manifest, damage = _verified(folder, key)
        return (_reference(manifest, folder, cached=True), "") if manifest else (None, damage)

    def _discard(self, stage: str, key: str, damage: str) -> None:
        folder = self.folder(stage, key)
        run_logger(__name__).warning("%s: the stored artifact %s is damaged (%s): rebuilding it", stage, folder, damage)
        with os_errors_as_store_error(self.root, doing=f"removing a damaged {stage}"):
            shutil.rmtree(folder)

    def _build(self, recipe: dict[str, Any], builder: Builder, *, resumable: bool) -> ArtifactRef:
        stage, key = recipe["stage"], recipe["key"]
        final, partial = self.folder(stage, key), self.root / "partial" / f"{stage}-{key}"
        doing = f"storing {stage}"
        built = False
        try:
            with os_errors_as_store_error(self.root, doing=doing):
                if not resumable:
                    shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True, exist_ok=True)
                manifest, _ = _verified(partial, key)
            if manifest is None:
                with full_disk_as_store_error(self.root, doing=doing):
                    meta = builder(partial)
                with os_errors_as_store_error(self.root, doing=doing):
                    manifest = _write_manifest(partial, recipe, dict(meta or {}))
            with os_errors_as_store_error(self.root, doing=doing):
                fsync_tree(partial)
                final.parent.mkdir(parents=True, exist_ok=True)
                rename_durably(partial, final)
            built = True
        finally:
            if not built and not resumable:
                shutil.rmtree(partial, ignore_errors=True)
        return _reference(manifest, final, cached=False)


def artifact_key(stage: str, inputs: Mapping[str, Any], *, code: str, seed: int | None) -> str:
    """The key of what a stage makes from these inputs, as JSON-able values: 32 hexadecimal digits."""
    recipe = {"stage": stage, "inputs": dict(inputs), "code": code, "seed": seed}
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def read_manifest(ref: ArtifactRef) -> Manifest:
    """The manifest of a finished artifact.

    Raises:
        StoreError: If it has gone or cannot be read.
    """
    try:
        return Manifest.model_validate_json((ref.path / MANIFEST_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise StoreError(f"the {ref.stage} artifact {ref.path} cannot be read: run again to rebuild it") from error


def part_sha256(ref: ArtifactRef, part: str) -> str:
    """Hash of one file or sub-folder of an artifact: what a later stage really depends on.

    Raises:
        StoreError: If the artifact holds nothing of that name.
    """
    files = read_manifest(ref).files
    if part in files:
        return files[part]
    below = {name.removeprefix(f"{part}/"): digest for name, digest in files.items() if name.startswith(f"{part}/")}
    if not below:
        raise StoreError(f"the {ref.stage} artifact {ref.path} holds no {part}")
    return combined_sha256(below)


@cache
def code_version(*modules: str, libraries: tuple[str, ...] = ()) -> str:
    """A version of the code that makes an artifact: the source files of packages or modules, and library versions.

    Args:
        modules: Importable names; a package counts with everything below it.
        libraries: Distributions whose version changes the result; one that is not installed counts as absent.
    """
    sources: dict[str, str] = {}
    for module in modules:
        spec = util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ValueError(f"no source found for module {module!r}")
        origin = Path(spec.origin)
        if not spec.submodule_search_locations:
            sources[module] = file_sha256(origin)
            continue
        for path in origin.parent.rglob("*"):
            if path.suffix in {".py", ".j2"}:
                sources[f"{module}/{path.relative_to(origin.parent).as_posix()}"] = file_sha256(path)
    return combined_sha256(sources | {f"{name}==": installed_version(name) for name in libraries})[:16]


def _describe(value: Any, name: str) -> Any:
    """A JSON-able stand-in for one input; the content hash for an artifact."""
    match value:
        case ArtifactRef():
            return {"sha256": value.sha256}
        case BaseModel():
            return value.model_dump(mode="json")
        case None | str() | int() | float():
            return value
        case Mapping():
            return {str(key): _describe(item, f"{name}.{key}") for key, item in value.items()}
        case Sequence():
            return [_describe(item, name) for item in value]
    raise TypeError(f"input {name!r} of type {type(value).__name__} has no stable description for an artifact key")


def _verified(folder: Path, key: str) -> tuple[Manifest | None, str]:
    """The manifest of a folder whose files all match it, or `None` and what is wrong."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
    except FileNotFoundError:
        return None, "no manifest"
    except ValidationError:
        return None, "unreadable manifest"
    if manifest.key != key:
        return None, "manifest of another artifact"
    for name, digest in manifest.files.items():
        path = folder / name
        if not path.is_file():
            return None, f"{name} is missing"
        if file_sha256(path) != digest:
            return None, f"{name} has changed"
    return manifest, ""


def _write_manifest(folder: Path, recipe: dict[str, Any], meta: dict[str, Scalar]) -> Manifest:
    files = {name: digest for name, digest in tree_hashes(folder).items() if name != MANIFEST_FILE}
    versions = {name: installed_version(name) for name in RECORDED_PACKAGES}
    manifest = Manifest(
        **recipe,
        files=files,
        meta=meta,
        git_revision=git_revision(),
        packages={name: version for name, version in versions.items() if version},
        created=datetime.now(UTC),
    )
    write_durably(folder / MANIFEST_FILE, manifest.model_dump_json(indent=2))
    return manifest


def _reference(manifest: Manifest, folder: Path, *, cached: bool) -> ArtifactRef:
    return ArtifactRef(
        stage=manifest.stage,
        key=manifest.key,
        path=folder,
        sha256=combined_sha256(manifest.files),
        meta=manifest.meta,
        cached=cached,
    )


def installed_version(name: str) -> str:
    """Version of an installed distribution, or "" where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
