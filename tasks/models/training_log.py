"""The training log of a stage, read from its `metrics.jsonl`."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NOT_METRICS = frozenset({"stage", "step", "total", "timestamp", "time"})


def read_metrics(path: Path) -> list[tuple[int, dict[str, float]]]:
    """Read step and finite numbers of every line of a `metrics.jsonl`, without lines that a crash cut short."""
    rows: list[tuple[int, dict[str, float]]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows.append((int(row.get("step", len(rows))), finite_numbers(row)))
    return rows


def finite_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers among named values, without those that only identify a row."""
    return {
        name: float(value)
        for name, value in values.items()
        if name not in NOT_METRICS and isinstance(value, int | float) and math.isfinite(value)
    }
