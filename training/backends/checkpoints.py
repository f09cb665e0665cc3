"""Checkpoints of a training, and the marker of those that were written completely."""

import os
import shutil
from pathlib import Path

COMPLETE = "COMPLETE"


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def checkpoint_of(out_dir: Path | str, step: int) -> Path:
    """Return the folder of the checkpoint of a step."""
    return Path(out_dir) / f"checkpoint-{step}"


def mark_complete(checkpoint: Path) -> None:
    """Flush a new checkpoint to disk, and mark it as complete."""
    for file in (path for path in checkpoint.rglob("*") if path.is_file()):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    (checkpoint / COMPLETE).touch()


def complete_checkpoints(out_dir: Path) -> list[Path]:
    """List the checkpoints that were written completely, oldest first."""
    found = [path for path in out_dir.glob("checkpoint-*") if (path / COMPLETE).exists()]
    return sorted(found, key=step_of)


def last_complete_checkpoint(out_dir: Path) -> Path | None:
    """Return the newest complete checkpoint, and delete the incomplete ones."""
    for path in out_dir.glob("checkpoint-*"):
        if not (path / COMPLETE).exists():
            shutil.rmtree(path)
    found = complete_checkpoints(out_dir)
    return found[-1] if found else None


def remove_checkpoints(out_dir: Path) -> None:
    """Delete all checkpoints; call it after the result is saved."""
    for path in out_dir.glob("checkpoint-*"):
        (path / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(path)
