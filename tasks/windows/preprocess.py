"""Windows of one ticker as a stored artifact, and the published CSV layout on request."""

import shutil
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from prefect import task

from tickerforge.features.config import FeatureConfig
from tickerforge.features.pooling import POOL, pool_windows
from tickerforge.features.splits import SPLITS
from tickerforge.features.tables import read_frame, read_table, to_columns, to_table, write_table
from tickerforge.features.windowfile import train_rows_from_file, windows_from_file, write_sessions
from tickerforge.features.windows import origins_by_split, session_columns, usable_sessions
from tickerforge.tasks.base.disk import file_sha256, os_errors_as_publish_error
from tickerforge.tasks.base.errors import MarketDataError
from tickerforge.tasks.base.paths import BARS_FILE, SESSIONS_FILE, TRAIN_ROWS_FILE, WINDOWS_FILE
from tickerforge.tasks.base.retries import TASK_OPTIONS
from tickerforge.tasks.store.artifacts import ArtifactRef, Scalar, Store, code_version

_TRAIN_END = "train_end"
_LIBRARIES = ("pandas", "numpy", "pyarrow", "ta-lib")


@task(name="build-windows", **TASK_OPTIONS)
def store_windows(bars: ArtifactRef, *, config: FeatureConfig, store: Store) -> ArtifactRef:
    """Store what is known at each session of one ticker's bars, from which `read_windows` cuts the windows.

    Args:
        bars: Artifact of `fetch_bars`.
        config: Windows, indicators and splits. Units and the style of prompts and answers do not change the windows.
        store: Where the artifact goes.

    Returns:
        Artifact of the stage `windows`; its meta holds `ticker`, `train_end` and the counts `train`, `validation` and
        `test`.

    Raises:
        InsufficientHistoryError: If the ticker has too few sessions.
    """
    ticker = str(bars.meta["ticker"])
    relevant = config.model_dump(mode="json", exclude={"units", "prompt_style", "answer_style"})
    cut_by = FeatureConfig.model_validate(relevant)

    def build(folder: Path) -> Mapping[str, Scalar]:
        sessions = session_columns(to_columns(read_table(bars.path / BARS_FILE)), config=cut_by)
        origins, split = origins_by_split(usable_sessions(sessions), ticker=ticker, config=cut_by)
        write_sessions(sessions, folder / SESSIONS_FILE, ticker=ticker, config=cut_by)
        last = sessions["date"][origins[split == "train"][-1] + cut_by.horizon]
        return {"ticker": ticker, _TRAIN_END: str(last.astype("datetime64[D]"))} | {
            name: int((split == name).sum()) for name in SPLITS
        }

    return store.build("windows", {"bars": bars, "ticker": ticker, "config": relevant}, build, code=_code())


@task(name="pool-windows", **TASK_OPTIONS)
def store_pool(
    windows: Sequence[ArtifactRef], *, example: ArtifactRef, left_out: Sequence[str], store: Store
) -> ArtifactRef:
    """Store the windows of several tickers together, with common borders in calendar time.

    Args:
        windows: Artifacts of `store_windows`, one per ticker.
        example: Artifact of `fetch_bars` of any of them: the input example of the pool's model in the registry.
        left_out: Tickers that could not be used, for the record.
        store: Where the artifact goes.

    Returns:
        Artifact as `store_windows` returns it, of the ticker `ALL`, that holds `bars.parquet` too; its meta holds
        `pooled` and `left_out` (names) and in `borders` a text on the windows dropped for the common borders.
    """

    def build(folder: Path) -> Mapping[str, Scalar]:
        frame, borders = pool_windows([read_windows(ref) for ref in windows])
        rows = [read_train_rows(ref).assign(ticker=ref.meta["ticker"]) for ref in windows]
        shutil.copyfile(example.path / BARS_FILE, folder / BARS_FILE)
        texts = [
            f"{border.dropped} {border.split} windows dropped for targets after {border.last.date()}, the last one of "
            f"{border.ticker}"
            for border in borders
            if border.dropped
        ]
        return _write(folder, _table(frame), pd.concat(rows, ignore_index=True), ticker=POOL) | {
            "pooled": ", ".join(str(ref.meta["ticker"]) for ref in windows),
            "left_out": ", ".join(left_out),
            "borders": "; ".join(texts),
        }

    inputs = {"pool": list(windows), "example": example, "left_out": list(left_out)}
    return store.build("windows", inputs, build, code=_code())


def import_published(
    train: tuple[Path, Path], test: tuple[Path, Path] | None, *, ticker: str, config: FeatureConfig, store: Store
) -> ArtifactRef:
    """Store the windows of published CSV files; render their prompts with `prompt_style="prices"`.

    A published train file holds the validation windows too, after its train windows. The border is the place at which
    the windows stop overlapping, or else follows from the fractions of `config`. The last `embargo` train windows are
    dropped.

    Args:
        train: `{STOCK}_train_x.csv` and `{STOCK}_train_y.csv`.
        test: `{STOCK}_test_x.csv` and `{STOCK}_test_y.csv`; without them there is no test split.
        ticker: Name of the ticker.
        config: Fractions and embargo.
        store: Where the artifact goes.

    Returns:
        Artifact as `store_windows` returns it.

    Raises:
        PublishedLayoutError: If a file cannot be read.
    """
    from tickerforge.features.export import published_sigma, read_published

    def build(folder: Path) -> Mapping[str, Scalar]:
        sigma = published_sigma(train[0])
        windows = read_published(*train, ticker=ticker, split="train", sigma=sigma)
        border, given_up = _published_border(windows, config)
        rows = _joined(windows.iloc[:border])
        windows.loc[windows.index >= border, "split"] = "validation"
        kept = [windows.drop(index=windows.index[max(border - given_up, 0) : border])]
        if test is not None:
            kept.append(read_published(*test, ticker=ticker, split="test", sigma=sigma))
        return _write(folder, _table(pd.concat(kept, ignore_index=True)), rows, ticker=ticker)

    try:
        files = [file_sha256(path) for path in (*train, *(test or ()))]
    except OSError as error:
        raise MarketDataError(f"cannot read {error.filename}: {error.strerror}. Check the path.") from error
    fractions = config.model_dump(mode="json", include={"train_fraction", "test_fraction", "horizon"})
    return store.build("windows", {"files": files, "ticker": ticker, "config": fractions}, build, code=_code())


def export_published(bars: ArtifactRef, out_dir: Path, *, config: FeatureConfig) -> list[Path]:
    """Write one ticker's bars in the published layout, `{STOCK}_{train,test,full}_{x,y}.csv`.

    Returns:
        The files written.

    Raises:
        FeaturesError: If the ticker has too few sessions.
        PublishError: If the folder cannot be written.
    """
    from tickerforge.features.export import published_tables, write_published

    ticker = str(bars.meta["ticker"])
    tables = published_tables(read_bars(bars), ticker=ticker, config=config)
    with os_errors_as_publish_error(out_dir, doing=f"writing the published layout of {ticker}"):
        return write_published(tables, out_dir, ticker=ticker)


def read_bars(bars: ArtifactRef) -> pd.DataFrame:
    """Read the bars of an artifact of `fetch_bars`."""
    return read_frame(bars.path / BARS_FILE)


def read_windows(windows: ArtifactRef, *, splits: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read the windows of an artifact of the stage `windows`, of all splits or of those named, with a new index."""
    frame = windows_from_file(_sessions_or(windows, WINDOWS_FILE))
    return frame[frame["split"].isin(splits)].reset_index(drop=True) if splits else frame


def read_train_rows(windows: ArtifactRef) -> pd.DataFrame:
    """Read the prices of exactly the train split, `date` and `adj_close`, to fit baselines on.

    The prices of a pool have a column `ticker` too.
    """
    return train_rows_from_file(_sessions_or(windows, TRAIN_ROWS_FILE))


def _sessions_or(windows: ArtifactRef, file: str) -> Path:
    """Name the file of sessions or, if the artifact holds none, the given file."""
    sessions = windows.path / SESSIONS_FILE
    return sessions if sessions.is_file() else windows.path / file


def _write(folder: Path, windows: pa.Table, train_rows: pd.DataFrame, *, ticker: str) -> dict[str, Scalar]:
    write_table(windows, folder / WINDOWS_FILE)
    columns = [column for column in ("ticker", "date", "adj_close") if column in train_rows]
    write_table(to_table({name: train_rows[name].to_numpy() for name in columns}), folder / TRAIN_ROWS_FILE)
    split = windows["split"].to_numpy()
    in_train = pc.equal(windows["split"], "train")
    last = pc.max(pc.list_flatten(windows["target_dates"].filter(in_train))).as_py()
    return {"ticker": ticker, _TRAIN_END: last and last.date().isoformat()} | {
        name: int((split == name).sum()) for name in SPLITS
    }


def _table(frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame, preserve_index=False)


def train_end(windows: ArtifactRef) -> date | None:
    """Read the last session of the train targets; `None` without train windows."""
    last = windows.meta.get(_TRAIN_END)
    return date.fromisoformat(str(last)) if last else None


def _published_border(windows: pd.DataFrame, config: FeatureConfig) -> tuple[int, int]:
    """Index of the first validation window in a published train file, and how many train windows before it to drop."""
    history = np.stack(list(windows["history"]))
    jumps = np.flatnonzero(~np.isclose(history[1:, :-1], history[:-1, 1:]).all(axis=1)) + 1
    if len(jumps) == 1:
        return int(jumps[0]), config.embargo
    share = config.train_fraction / (1 - config.test_fraction)
    return int(len(windows) * share), config.embargo + config.horizon - 1


def _joined(windows: pd.DataFrame) -> pd.DataFrame:
    """Join windows that follow each other session by session to one price series."""
    first, last = windows.iloc[0], windows.iloc[-1]
    between = [history[-1] for history in windows["history"].iloc[1:]]
    prices = np.concatenate([first["history"], between, last["target"]])
    dates = pd.bdate_range(end=pd.Timestamp(last["target_dates"][-1]), periods=len(prices)).as_unit("s")
    return pd.DataFrame({"date": dates, "adj_close": prices})


def _code() -> str:
    return code_version("tickerforge.features", "tickerforge.tasks.windows.preprocess", libraries=_LIBRARIES)
