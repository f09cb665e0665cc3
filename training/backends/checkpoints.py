"""Checkpoints of a training: which are whole, which were written while all was well, and the metrics beside them."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

COMPLETE = "COMPLETE"
METRICS_FILE = "metrics.jsonl"


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def checkpoint_of(out_dir: Path | str, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return Path(out_dir) / f"checkpoint-{step}"


def mark_complete(checkpoint: Path) -> None:
    """Flush a checkpoint that has just been written, and mark it as whole."""
    for file in (path for path in checkpoint.rglob("*") if path.is_file()):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    (checkpoint / COMPLETE).touch()


def complete_checkpoints(out_dir: Path) -> list[Path]:
    """Checkpoints that were written to the end, oldest first."""
    found = [path for path in out_dir.glob("checkpoint-*") if (path / COMPLETE).exists()]
    return sorted(found, key=step_of)


def last_complete_checkpoint(out_dir: Path) -> Path | None:
    """The newest checkpoint written to the end; half-written ones are removed."""
    for path in out_dir.glob("checkpoint-*"):
        if not (path / COMPLETE).exists():
            shutil.rmtree(path)
    found = complete_checkpoints(out_dir)
    return found[-1] if found else None


def remove_checkpoints(out_dir: Path) -> None:
    """Delete the checkpoints, once the result is saved."""
    for path in out_dir.glob("checkpoint-*"):
        (path / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(path)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a last line that a kill cut short is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
