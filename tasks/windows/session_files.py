"""The files of a ticker's sessions: settled ones taken over where the bars behind them are the same, the rest made."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tickerforge.features.config import FeatureConfig
from tickerforge.features.prices.schemas import Columns
from tickerforge.features.windowfile import SessionsHeader, sessions_table, settled_rows
from tickerforge.features.windows import origins_by_split, session_columns, usable_sessions
from tickerforge.tasks.base.disk import file_sha256, link_or_copy
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.base.parquet import write_table
from tickerforge.tasks.base.paths import SESSIONS_FILE, SETTLED_FILE
from tickerforge.tasks.store.manifest import Manifest, Scalar

TRAIN_END = "train_end"
SETTLED_BARS = "settled_bars"
UNUSABLE = "unusable"


def write_sessions(
    folder: Path,
    bars: Columns,
    *,
    ticker: str,
    config: FeatureConfig,
    latest: tuple[Path, Manifest] | None,
) -> dict[str, Scalar]:
    """Write the files of a ticker's sessions.

    Args:
        folder: The new artifact's.
        bars: All of them.
        ticker: Whose they are.
        config: How windows are cut.
        latest: Folder and manifest of an artifact of the same ticker, configuration and code, to take over from.

    Returns:
        The artifact's meta: `ticker`, `train_end`, the counts `train`, `validation` and `test`, and for the next
        artifact the hash of the bars behind the settled sessions, and the rows of sessions that are no origins though
        they are past the warm-up.

    Raises:
        InsufficientHistoryError: If the ticker has too few sessions.
    """
    settled = settled_rows(len(bars["date"]))
    behind = _digest(bars, settled)
    taken = settled > 0 and latest is not None and _take_over(folder, *latest, behind=behind, ticker=ticker)
    start = settled if taken else 0
    sessions = session_columns(bars, config=config, start=start)
    usable = np.concatenate([_usable_before(start, latest), usable_sessions(sessions)])
    origins, split = origins_by_split(usable, ticker=ticker, config=config)
    if settled and not taken:
        write_table(sessions_table({name: each[:settled] for name, each in sessions.items()}), folder / SETTLED_FILE)
    header = SessionsHeader(ticker=ticker, config=config, settled=SETTLED_FILE if settled else "")
    newest = {name: each[settled - start :] for name, each in sessions.items()}
    write_table(sessions_table(newest, header), folder / SESSIONS_FILE)
    last = bars["date"][origins[split == "train"][-1] + config.horizon]
    return {
        "ticker": ticker,
        TRAIN_END: str(last.astype("datetime64[D]")),
        **{name: int((split == name).sum()) for name in ("train", "validation", "test")},
        SETTLED_BARS: behind,
        UNUSABLE: json.dumps(np.flatnonzero(~usable).tolist()),
    }


def _digest(bars: Columns, rows: int) -> str:
    """One hash of the first rows of bars."""
    values = sha256()
    for each in bars.values():
        values.update(np.ascontiguousarray(each[:rows]).tobytes())
    return values.hexdigest()


def _take_over(folder: Path, former: Path, manifest: Manifest, *, behind: str, ticker: str) -> bool:
    """Whether the settled sessions of a former artifact are those of these bars, and now lie in the folder."""
    if manifest.meta.get(SETTLED_BARS) != behind:
        return False
    target = folder / SETTLED_FILE
    try:
        link_or_copy(former / SETTLED_FILE, target)
        if file_sha256(target) == manifest.files[SETTLED_FILE]:
            return True
        fault = "has changed"
    except FileNotFoundError:
        fault = "is missing"
    target.unlink(missing_ok=True)
    run_logger(__name__).warning("%s: %s in %s %s: making all sessions anew", ticker, SETTLED_FILE, former, fault)
    return False


def _usable_before(start: int, latest: tuple[Path, Manifest] | None) -> NDArray[np.bool_]:
    usable = np.ones(start, dtype=bool)
    if start and latest:
        rows = np.array(json.loads(str(latest[1].meta[UNUSABLE])), dtype=int)
        usable[rows[rows < start]] = False
    return usable
