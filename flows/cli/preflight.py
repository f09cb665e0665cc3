"""Quick checks of bad input, before a command starts or writes anything."""

import os
import shutil
from pathlib import Path

from tickerforge.features.export import published_sigma, read_published
from tickerforge.features.pooling import POOL
from tickerforge.features.prices.bars import read_csv
from tickerforge.features.prices.jumps import check_jumps, find_jumps
from tickerforge.features.prices.schemas import bar_columns
from tickerforge.features.prices.tickers import validate_ticker
from tickerforge.features.stages import COMPARISON, SFT, stage_named
from tickerforge.features.synthetic import market
from tickerforge.features.windows import build_windows
from tickerforge.flows.errors import ConfigError
from tickerforge.flows.settings.config import PipelineConfig, check_source, pool_folder
from tickerforge.flows.settings.files import StageFiles, check_names_ticker, check_pairs
from tickerforge.tasks.base.errors import StoreError
from tickerforge.tasks.models.adapters import check_adapter
from tickerforge.tasks.prices.folders import csv_path, pool_tickers
from tickerforge.tasks.tracking.server import check_server
from tickerforge.training.backends import select
from tickerforge.training.models import check_model

_LEAST_FREE_BYTES = 64_000_000


def check_run(config: PipelineConfig, *, home: Path) -> None:
    """Refuse a run that cannot succeed: checks stock, prices, history, MLflow, base model, backend and disk.

    It does not import Prefect, so that a mistake shows within two seconds.

    Args:
        config: Configuration of the run.
        home: Folder of the store and the databases.

    Raises:
        ConfigError: If the stock has no prices, or the working folder cannot be written.
        FeaturesError: If the prices are faulty, jump as no market does, or are too few.
        MarketDataError: If the data folder has nothing for the stock.
        TrackingError: If `MLFLOW_TRACKING_URI` names a server that does not answer.
        BaseModelError: If the base model cannot be used.
        BackendUnavailable: If the backend cannot run here.
        StoreError: If the disk is full.
    """
    check_prices(config)
    _check_machine(config, home=home)


def check_stage(stage: str, config: PipelineConfig, files: StageFiles, *, home: Path) -> None:
    """Refuse a single stage that cannot succeed; errors as in `check_run`, and these.

    Args:
        stage: `grpo1`, `sft-data`, `sft`, `grpo2` or `compare`.
        config: Configuration of the stage.
        files: The explicit files.
        home: Folder of the store and the databases.

    Raises:
        AdapterError: If a folder that the stage reads is not a valid adapter.
        ConfigError: If test files are missing, windows have another length, or the results folder cannot be written.
        PublishedLayoutError: If published files or accepted answers are malformed.
    """
    check_pairs(files)
    answers = files.sft_data_path if stage == SFT.command else None
    if files.pair("train") is not None:
        _check_published(stage, config, files)
    elif answers is None:
        check_prices(config)
    for name in stage_named(stage).reads:
        check_adapter(files.saved_adapter(name))
    if answers is not None:
        from tickerforge.tasks.models.sft_data import read_sft_data

        read_sft_data(answers)
    if files.results_dir is not None:
        check_writable(files.results_dir, option="--results-dir")
    _check_machine(config, home=home)


def _check_published(stage: str, config: PipelineConfig, files: StageFiles) -> None:
    train, test, full = files.pair("train"), files.pair("test"), files.pair("full")
    if train is None:
        return
    check_names_ticker(config)
    if stage == COMPARISON.command and test is None:
        raise ConfigError("compare judges forecasts of the test files: give --test-x-path and --test-y-path too")
    sigma = published_sigma(train[0])
    for pair in (train, test, full):
        if pair is None:
            continue
        windows = read_published(*pair, ticker=config.stock, split="train", sigma=sigma).iloc[0]
        for path, column, setting in zip(pair, ("history", "target"), ("context", "horizon"), strict=True):
            there, wanted = len(windows[column]), getattr(config.features, setting)
            if there != wanted:
                raise ConfigError(
                    f"{path} holds sequences of {there} sessions, but features.{setting} is {wanted}: give other "
                    f"files, or --set features.{setting}={there}"
                )


def check_writable(folder: Path, *, option: str) -> None:
    """Refuse a folder that cannot be created or written; creates nothing.

    Raises:
        ConfigError: Names the folder and its option.
    """
    try:
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    except OSError as error:
        raise ConfigError(f"{option} {folder} cannot be used: {error.strerror}. Name another folder.") from error
    if not existing.is_dir():
        raise ConfigError(f"{option} {folder} cannot be used: {existing} is a file. Name another folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} {folder} cannot be used: {existing} is not writable. Name another folder.")


def check_working_folder() -> None:
    """Refuse a working folder in which results and models cannot be written.

    Raises:
        ConfigError: Names the folder that cannot be written.
    """
    here = Path.cwd()
    for folder in (here, here / "results", here / "models"):
        if folder.exists() and not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(
                f"{folder} is not writable: results and models go to the working folder. Change to a folder where you "
                "may write (cd), and name the prices with --data."
            )


def _check_machine(config: PipelineConfig, *, home: Path) -> None:
    check_working_folder()
    check_server()
    check_model(config.training.model, features=config.features)
    select(config.training.backend, model=config.training.model)
    check_disk(home)
    check_disk(Path.cwd())


def check_prices(config: PipelineConfig) -> None:
    """Refuse prices from which no windows can be cut; errors as in `check_run`.

    For a pool only the folder is checked: the run leaves out faulty tickers.
    """
    check_source(config)
    if config.stock == POOL:
        pool_tickers(pool_folder(config))
        return
    ticker = validate_ticker(config.stock)
    bars = market(config.synthetic) if config.data is None else read_csv(csv_path(config.data, ticker), ticker=ticker)
    if config.data is not None and config.quality.jumps != "accept":
        repairs = config.quality.jumps == "repair"
        found = [jump for jump in find_jumps(bar_columns(bars)) if not (repairs and jump.repair is not None)]
        check_jumps(found, ticker=ticker, where=f"{len(bars):,} sessions")
    build_windows(bars, ticker=ticker, config=config.features)


def check_disk(folder: Path) -> None:
    """Refuse to start on an almost full disk.

    Raises:
        StoreError: If fewer than `_LEAST_FREE_BYTES` are free.
    """
    existing = next(parent for parent in (folder, *folder.resolve().parents) if os.path.exists(parent))
    free = shutil.disk_usage(existing).free
    if free < _LEAST_FREE_BYTES:
        raise StoreError(
            f"the disk is full: {free / 1e6:.1f} MB are free at {existing}, a run needs "
            f"at least {_LEAST_FREE_BYTES / 1e6:.0f} MB. Free some space, or set TICKERFORGE_HOME "
            "to a folder on a larger disk."
        )
