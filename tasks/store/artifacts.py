"""Content-addressed artifacts: built once, atomically and resumably, and verified at every use."""

import ast
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel

from tickerforge.tasks.base.disk import (
    combined_sha256,
    file_sha256,
    fsync_tree,
    full_disk_as_store_error,
    locked,
    os_errors_as_store_error,
    rename_durably,
    tree_hashes,
)
from tickerforge.tasks.base.environment import git_revision
from tickerforge.tasks.base.errors import NotFinished, StoreError
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.base.paths import MANIFEST_FILE, Workspace
from tickerforge.tasks.store.manifest import ArtifactRef, Manifest, Scalar, load_manifest, verified
from tickerforge.tasks.store.remote_files import STORE_VARIABLE
from tickerforge.tasks.store.shared_store import SharedStore

Builder = Callable[[Path], Mapping[str, Scalar] | None]
KEY_LENGTH = 32
RECORDED_PACKAGES = (
    *("tickerforge", "numpy", "pandas", "pyarrow", "ta-lib", "torch", "transformers", "trl", "peft"),
    *("unsloth", "vllm", "mlflow", "prefect"),
)


@dataclass(frozen=True)
class Store:
    """Artifacts below a local folder, `{root}/{stage}/{key}`, and the store that other machines share.

    Unfinished artifacts are in `{root}/partial`.
    """

    root: Path
    shared: SharedStore | None = None

    @classmethod
    def current(cls) -> Self:
        """Return the store in `TICKERFORGE_HOME`, with the shared one if `TICKERFORGE_STORE` is set.

        Raises:
            StoreError: If `TICKERFORGE_STORE` is not a valid place for a store.
        """
        return cls(Workspace.current().store, SharedStore.current())

    def folder(self, stage: str, key: str) -> Path:
        """Return the folder of a finished artifact."""
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
        """Return the verified artifact made from `inputs`: found here or in the shared store, else built now.

        A finished artifact whose files do not match their hashes is rebuilt with a warning. The build holds a lock on
        the key, works in a folder of a stable name and renames it at the end, so that an artifact is whole or absent.
        Then it is copied to the shared store. If that fails, the artifact stays here, and the next call copies it.

        Args:
            stage: Kind of artifact, also its folder's name.
            inputs: What the artifact depends on: artifact references (their content counts), configurations, plain
                values, and mappings or sequences of these.
            builder: Writes the files into the folder that it is given; returns the content of `ArtifactRef.meta`.
            code: Version of the code that builds, see `code_version`.
            seed: Seed of the build; counts as an input.
            resumable: Whether the builder can continue from the files that an interrupted build left in its folder.
                If not, such files are removed before and after.

        Raises:
            StoreError: If the disk is full or the store cannot be written; nothing appears under the final name.
            StoreUnreachable: If the shared store does not answer.
        """
        plain = {name: _json_value(value, name) for name, value in inputs.items()}
        key = _key(stage, plain, code=code, seed=seed)
        final = self.folder(stage, key)
        found, _ = self._find(final, stage, key)
        if found is None:
            with self._locked(stage, key):
                found, damage = self._find(final, stage, key)
                found = found or self._fetch(final, stage, key, damage=damage)
                if found is None:
                    if damage:
                        self._discard(final, stage, damage)
                    recipe = {"stage": stage, "key": key, "inputs": plain, "code": code, "seed": seed}
                    found = self._build(recipe, builder, resumable=resumable)
        if found.cached:
            run_logger(__name__).info("%s: cached (%s)", stage, key[:12])
        if self.shared is not None:
            with os_errors_as_store_error(self.root, doing=f"sharing {stage}"):
                self.shared.push(found.path, stage, key)
        return found

    def here(self, ref: ArtifactRef) -> ArtifactRef:
        """Return the same artifact, verified, at its place in this store; fetch it if it is missing or damaged.

        Raises:
            StoreError: If neither this store nor the shared one holds it.
            StoreUnreachable: If the shared store does not answer.
        """
        place = self._place(ref)
        found, _ = self._find(place, ref.stage, ref.key)
        if found is None:
            with self._locked(ref.stage, ref.key):
                place = self._place(ref)
                found, damage = self._find(place, ref.stage, ref.key)
                found = found or self._fetch(place, ref.stage, ref.key, damage=damage, sha256=ref.sha256)
        if found is None:
            shared = f"the shared store {self.shared.url}" if self.shared else "a shared store, since none is set"
            raise StoreError(
                f"the {ref.stage} artifact {ref.key} is neither in {self.root} nor in {shared}. Set {STORE_VARIABLE} "
                "to a place that both this machine and the one that made the artifact can reach, and run again."
            )
        return ref.model_copy(update={"path": found.path})

    def latest(self, stage: str, name: str) -> tuple[Path, Manifest] | None:
        """Return folder and manifest of the artifact last noted by a name, not verified; `None` if there is none."""
        try:
            folder = self.folder(stage, str(self._note(stage, name).readlink()))
            manifest = load_manifest(folder)
        except OSError:
            return None
        return (folder, manifest) if manifest else None

    def note(self, ref: ArtifactRef, name: str) -> None:
        """Note an artifact by a name as the latest of its stage, for a comparison with the next one.

        The note is a symbolic link to a key. It is not an input: without it, the same artifacts are built.
        """
        note = self._note(ref.stage, name)
        with os_errors_as_store_error(self.root, doing=f"noting {ref.stage}"):
            if note.is_symlink() and str(note.readlink()) == ref.key:
                return
            note.parent.mkdir(parents=True, exist_ok=True)
            partial = note.with_name(f".{note.name}.{os.getpid()}-{threading.get_ident()}")
            partial.unlink(missing_ok=True)
            partial.symlink_to(ref.key)
            partial.replace(note)

    def _note(self, stage: str, name: str) -> Path:
        return self.root / "latest" / f"{stage}-{name}"

    def _place(self, ref: ArtifactRef) -> Path:
        """Return an artifact's folder here: another one than the key's if that holds other content."""
        place = self.folder(ref.stage, ref.key)
        with os_errors_as_store_error(self.root, doing=f"reading {ref.stage}"):
            there = load_manifest(place)
        return place if there is None or there.sha256 == ref.sha256 else place.with_name(f"{ref.key}-{ref.sha256[:12]}")

    def _locked(self, stage: str, key: str) -> AbstractContextManager[int]:
        return locked(self.root / "locks" / f"{stage}-{key}.lock", waiting_for=stage)

    def _find(self, folder: Path, stage: str, key: str) -> tuple[ArtifactRef | None, str]:
        """Return the verified artifact, or `None` and what is wrong with the one there ("" if there is none)."""
        with os_errors_as_store_error(self.root, doing=f"reading {stage}"):
            if not folder.exists():
                return None, ""
            with suppress(OSError):
                # The time of the last use: `tasks.store.pruning` removes what no run has used for long.
                os.utime(folder)
            manifest, damage = verified(folder, key)
        return (manifest.reference(folder, cached=True), "") if manifest else (None, damage)

    def _discard(self, folder: Path, stage: str, damage: str) -> None:
        run_logger(__name__).warning("%s: the stored artifact %s is damaged (%s): replacing it", stage, folder, damage)
        with os_errors_as_store_error(self.root, doing=f"removing a damaged {stage}"):
            shutil.rmtree(folder)

    def _fetch(
        self, final: Path, stage: str, key: str, *, damage: str, sha256: str | None = None
    ) -> ArtifactRef | None:
        """Copy the artifact from the shared store to `final`; return `None` if it is not there."""
        if self.shared is None:
            return None
        partial = self._partial(stage, f"{key}.fetched")
        try:
            with os_errors_as_store_error(self.root, doing=f"fetching {stage}"):
                manifest = self.shared.fetch(stage, key, partial, sha256=sha256)
                if manifest is None:
                    return None
                if damage:
                    self._discard(final, stage, damage)
                _finish(partial, final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        # The files of an interrupted build are useless now.
        shutil.rmtree(self._partial(stage, key), ignore_errors=True)
        return manifest.reference(final, cached=True)

    def _partial(self, stage: str, key: str) -> Path:
        return self.root / "partial" / f"{stage}-{key}"

    def _build(self, recipe: dict[str, Any], builder: Builder, *, resumable: bool) -> ArtifactRef:
        stage, key = recipe["stage"], recipe["key"]
        final, partial = self.folder(stage, key), self._partial(stage, key)
        doing = f"storing {stage}"
        built = False
        try:
            with os_errors_as_store_error(self.root, doing=doing):
                if not resumable:
                    shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True, exist_ok=True)
                manifest, _ = verified(partial, key)
            if manifest is None:
                with full_disk_as_store_error(self.root, doing=doing):
                    meta = builder(partial)
                with os_errors_as_store_error(self.root, doing=doing):
                    manifest = _write_manifest(partial, recipe, dict(meta or {}))
            with os_errors_as_store_error(self.root, doing=doing):
                _finish(partial, final)
            built = True
        finally:
            if not built and not resumable:
                shutil.rmtree(partial, ignore_errors=True)
        return manifest.reference(final, cached=False)


@dataclass(frozen=True)
class FinishedOnly(Store):
    """A store that finds artifacts and builds none."""

    def _build(self, recipe: dict[str, Any], builder: Builder, *, resumable: bool) -> ArtifactRef:
        """Refuse to build; the files of an interrupted build stay in their folder.

        Raises:
            NotFinished: Always.
        """
        raise NotFinished(f"{recipe['stage']} is not in the store with these inputs")


def _finish(partial: Path, final: Path) -> None:
    fsync_tree(partial)
    final.parent.mkdir(parents=True, exist_ok=True)
    rename_durably(partial, final)


def read_manifest(ref: ArtifactRef) -> Manifest:
    """Read the manifest of a finished artifact.

    Raises:
        StoreError: If it is missing or cannot be read.
    """
    try:
        manifest = load_manifest(ref.path)
    except OSError as error:
        raise StoreError(f"the {ref.stage} artifact {ref.path} cannot be read: {error.strerror}") from error
    if manifest is None:
        raise StoreError(f"the {ref.stage} artifact {ref.path} cannot be read: run again to rebuild it")
    return manifest


def part_sha256(ref: ArtifactRef, part: str) -> str:
    """Return the hash of a file or sub-folder of an artifact, on which a later stage really depends.

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
    """Return a version of the code that makes an artifact: it changes with the code, not with its prose or layout.

    Args:
        modules: Importable names; a package counts with everything below it. Of `.py` files the syntax tree counts,
            of `.j2` templates the content.
        libraries: Distributions whose version changes the result; one that is not installed counts as absent.

    Raises:
        ValueError: If a module has no source.
    """
    sources: dict[str, str] = {}
    for module in modules:
        spec = util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ValueError(f"no source found for module {module!r}")
        origin = Path(spec.origin)
        if not spec.submodule_search_locations:
            sources[module] = _code_sha256(origin)
            continue
        for path in origin.parent.rglob("*"):
            if path.suffix in {".py", ".j2"}:
                sources[f"{module}/{path.relative_to(origin.parent).as_posix()}"] = _code_sha256(path)
    return combined_sha256(sources | {f"{name}==": installed_version(name) for name in libraries})[:16]


@cache
def _code_sha256(path: Path) -> str:
    if path.suffix != ".py":
        return file_sha256(path)
    return hashlib.sha256(_syntax(ast.parse(path.read_bytes())).encode()).hexdigest()


def _syntax(node: object) -> str:
    """Return a syntax tree as text, without docstrings, comments, positions and empty fields.

    `ast.dump` does not serve: Python 3.12 added fields to functions and classes, and 3.13 leaves out empty ones.
    """
    if isinstance(node, ast.AST):
        values = [(name, getattr(node, name, None)) for name in node._fields]
        if isinstance(node, ast.JoinedStr):
            # Python 3.12 and later put an empty text behind a nested format.
            values = [("values", [part for part in node.values if getattr(part, "value", None) != ""])]
        filled = [f"{name}={_syntax(value)}" for name, value in values if value is not None and value != []]
        return f"{type(node).__name__}({', '.join(filled)})"
    if isinstance(node, list):
        return f"[{', '.join(_syntax(item) for item in node if not _is_prose(item))}]"
    return repr(node)


def _is_prose(node: object) -> bool:
    """Return whether a statement is a text alone: a docstring of a module, class, function or constant."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _key(stage: str, inputs: Mapping[str, Any], *, code: str, seed: int | None) -> str:
    """Return the key of what a stage makes from inputs that are JSON values: 32 hexadecimal digits."""
    recipe = {"stage": stage, "inputs": dict(inputs), "code": code, "seed": seed}
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def _json_value(value: Any, name: str) -> Any:
    """Return a JSON value that stands for an input; the content hash for an artifact."""
    match value:
        case ArtifactRef():
            return {"sha256": value.sha256}
        case BaseModel():
            return value.model_dump(mode="json")
        case None | str() | int() | float():
            return value
        case Mapping():
            return {str(key): _json_value(item, f"{name}.{key}") for key, item in value.items()}
        case Sequence():
            return [_json_value(item, name) for item in value]
    raise TypeError(f"input {name!r} of type {type(value).__name__} has no stable description for an artifact key")


def _write_manifest(folder: Path, recipe: dict[str, Any], meta: dict[str, Scalar]) -> Manifest:
    files = {name: digest for name, digest in tree_hashes(folder).items() if name != MANIFEST_FILE}
    manifest = Manifest(
        **recipe,
        files=files,
        meta=meta,
        git_revision=git_revision(),
        packages=_recorded_versions(),
        created=datetime.now(UTC),
    )
    # It is flushed with all other files before the folder gets its name.
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
    return manifest


@cache
def _recorded_versions() -> dict[str, str]:
    versions = {name: installed_version(name) for name in RECORDED_PACKAGES}
    return {name: version for name, version in versions.items() if version}


@cache
def installed_version(name: str) -> str:
    """Return the version of an installed distribution, or "" if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
