"""The store of finished artifacts that all machines share: copied there whole, and verified when they are fetched.

An artifact lies at `artifacts/{stage}/{key}/{sha256}/`. Its manifest is written last, so that an artifact with a
manifest is whole. The hash of the content in the path separates what two machines made at the same time from the same
inputs.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.base.paths import MANIFEST_FILE
from tickerforge.tasks.store.manifest import Manifest, verified
from tickerforge.tasks.store.remote_files import STORE_VARIABLE, RemoteFiles


@dataclass(frozen=True)
class SharedStore:
    """Artifacts below a URL, `s3://bucket/prefix`, or a folder that is mounted on every machine.

    Raises:
        StoreError: If the URL is neither, or holds credentials.
    """

    url: str

    def __post_init__(self) -> None:
        RemoteFiles.at(self.url)

    @classmethod
    def current(cls) -> "SharedStore | None":
        """Return the shared store that `TICKERFORGE_STORE` names; `None` if it is unset or empty."""
        url = os.environ.get(STORE_VARIABLE, "").rstrip("/")
        return cls(url) if url else None

    @property
    def files(self) -> RemoteFiles:
        """The files of the store."""
        return RemoteFiles.at(self.url)

    def fetch(self, stage: str, key: str, into: Path, *, sha256: str | None = None) -> Manifest | None:
        """Copy a whole artifact into a local folder, and verify every file against its manifest.

        A damaged artifact, or a part of one, counts as absent, with a warning; the next `push` replaces it.

        Args:
            stage: Kind of artifact.
            key: Its key.
            into: A folder of the caller's own; emptied first.
            sha256: Hash of the content to fetch; any content by default.

        Returns:
            Its manifest, which is also written into `into`, or `None` if the store has no such artifact.

        Raises:
            StoreUnreachable: If the store does not answer; worth another attempt.
            StoreError: If it cannot be used as it is.
        """
        for content in self._contents(stage, key):
            place = _place(stage, key, content)
            if sha256 in {None, content}:
                manifest, damage = self._fetched(place, key, into)
                if manifest is not None and manifest.sha256 == content:
                    run_logger(__name__).info("%s: fetched (%s) from %s", stage, key[:12], self.url)
                    return manifest
                run_logger(__name__).warning(
                    "%s: the artifact %s/%s is damaged (%s): not used",
                    stage,
                    self.url,
                    place,
                    damage or "other content",
                )
                self.files.delete(f"{place}/{MANIFEST_FILE}")
        return None

    def push(self, folder: Path, stage: str, key: str) -> None:
        """Copy a finished local artifact to the shared store; do nothing if it is there.

        Args:
            folder: The artifact, verified.
            stage: Kind of artifact.
            key: Its key.

        Raises:
            StoreUnreachable: If the store does not answer; worth another attempt.
            StoreError: If it cannot be written.
        """
        written = (folder / MANIFEST_FILE).read_bytes()
        manifest = Manifest.model_validate_json(written)
        place = _place(stage, key, manifest.sha256)
        if self.files.read(f"{place}/{MANIFEST_FILE}") is None:
            self.files.upload(folder, list(manifest.files), place=place)
            self.files.write(f"{place}/{MANIFEST_FILE}", written)
            run_logger(__name__).info("%s: pushed (%s) to %s", stage, key[:12], self.url)

    def _contents(self, stage: str, key: str) -> list[str]:
        """Return the hashes of the contents that are whole."""
        above = f"artifacts/{stage}/{key}/"
        names = {name.removeprefix(above) for name in self.files.list(above)}
        whole = []
        for content in sorted({name.partition("/")[0] for name in names}):
            if f"{content}/{MANIFEST_FILE}" in names:
                whole.append(content)
            else:
                run_logger(__name__).warning(
                    "%s: the artifact %s/%s%s is half there, its upload was interrupted or still runs: not used",
                    *(stage, self.url, above, content),
                )
        return whole

    def _fetched(self, place: str, key: str, into: Path) -> tuple[Manifest | None, str]:
        written = self.files.read(f"{place}/{MANIFEST_FILE}")
        if written is None:
            return None, "no manifest"
        try:
            manifest = Manifest.model_validate_json(written)
        except ValidationError:
            return None, "unreadable manifest"
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir(parents=True)
        self.files.download(place, list(manifest.files), into)
        (into / MANIFEST_FILE).write_bytes(written)
        return verified(into, key)


def _place(stage: str, key: str, content: str) -> str:
    return f"artifacts/{stage}/{key}/{content}"
