"""Published CSV files as windows, and forecasts of all of them in the format of the published scripts."""

from pathlib import Path

import numpy as np
import pandas as pd

from tickerforge.features.atomic import write_atomically
from tickerforge.features.tables import read_frame
from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.flows.settings.files import StageFiles, check_names_ticker, check_pairs
from tickerforge.tasks.base.disk import os_errors_as_publish_error
from tickerforge.tasks.base.paths import FORECASTS_FILE
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.windows.preprocess import import_published, read_windows

DECIMALS = 6


def windows_from_files(files: StageFiles, *, config: PipelineConfig, store: Store) -> ArtifactRef | None:
    """Store the windows of explicit files; `None` if no files are given.

    Raises:
        ConfigError: As `flows.settings.files.check_pairs` and `check_names_ticker`.
        FeaturesError: If a file cannot be read.
        MarketDataError: If a file is missing.
    """
    check_pairs(files)
    train = files.pair("train")
    if train is None:
        return None
    check_names_ticker(config)
    return import_published(train, files.pair("test"), ticker=config.stock, config=config.features, store=store)


def full_windows(files: StageFiles, *, config: PipelineConfig, store: Store) -> ArtifactRef | None:
    """Store windows whose test split is the whole of the full files; `None` if these are not given."""
    train, full = files.pair("train"), files.pair("full")
    if train is None or full is None:
        return None
    return import_published(train, full, ticker=config.stock, config=config.features, store=store)


def write_full_forecasts(forecasts: ArtifactRef, windows: ArtifactRef, path: Path) -> Path:
    """Write the forecasts of all windows of the full files as CSV, in z-scores like the files themselves.

    Args:
        forecasts: One model's forecasts of the artifact of `full_windows`.
        windows: That artifact.
        path: The CSV file: `window` (row of the full files, from 0), `true_values`, `predicted_values` (lists of
            z-scores) and `n_valid` (answers that parsed).

    Raises:
        PublishError: If the file cannot be written.
    """
    truth = read_windows(windows, splits=("test",))
    answers = read_frame(forecasts.path / FORECASTS_FILE)
    answers = answers[answers["split"] == "test"].set_index("origin").loc[list(truth["origin"])]
    mean, deviation = truth["train_mean"].to_numpy(), truth["train_std"].to_numpy()

    def standardised(values: pd.Series) -> list[list[float]]:
        rows = (np.stack(list(values)) - mean[:, None]) / deviation[:, None]
        return [[round(float(value), DECIMALS) for value in row] for row in rows]

    table = pd.DataFrame(
        {
            "window": range(len(truth)),
            "true_values": standardised(truth["target"]),
            "predicted_values": standardised(answers["median"]),
            "n_valid": answers["n_valid"].to_numpy(),
        }
    )
    with os_errors_as_publish_error(path.parent, doing=f"writing {path.name}"):
        write_atomically(path, table.to_csv(index=False, lineterminator="\n"))
    return path
