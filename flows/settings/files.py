"""Explicit files of a single stage, as in the published scripts: data, adapters, accepted answers, results."""

import logging
from pathlib import Path

from pydantic import Field

from tickerforge.features.config import FrozenModel
from tickerforge.features.pooling import POOL
from tickerforge.features.stages import GRPO_1ST, GRPO_2ND, SFT
from tickerforge.flows.errors import ConfigError
from tickerforge.flows.settings.config import PipelineConfig

logger = logging.getLogger(__name__)


class StageFiles(FrozenModel):
    """Files that a single stage reads and writes; instead of a missing one, the store or the usual folder is used."""

    train_x_path: Path | None = Field(default=None, description="Histories to train on, {STOCK}_train_x.csv.")
    train_y_path: Path | None = Field(default=None, description="Targets to train on, {STOCK}_train_y.csv.")
    test_x_path: Path | None = Field(default=None, description="Histories to test on, {STOCK}_test_x.csv.")
    test_y_path: Path | None = Field(default=None, description="Targets to test on, {STOCK}_test_y.csv.")
    full_x_path: Path | None = Field(default=None, description="All histories, {STOCK}_full_x.csv.")
    full_y_path: Path | None = Field(default=None, description="All targets, {STOCK}_full_y.csv.")
    grpo_saved_lora_1st: Path | None = Field(
        default=None, description="Folder of the adapter of grpo1: grpo1 writes it, the later stages read it."
    )
    sft_saved_lora: Path | None = Field(
        default=None, description="Folder of the adapter of sft: sft writes it, the later stages read it."
    )
    grpo_saved_lora_2nd: Path | None = Field(
        default=None, description="Folder of the adapter of grpo2: grpo2 writes it, compare reads it."
    )
    sft_data_path: Path | None = Field(
        default=None, description="Accepted answers as CSV: sft-data writes the file, sft reads it."
    )
    results_dir: Path | None = Field(default=None, description="Folder for the results of the stage.")

    def saved_adapter(self, stage: str) -> Path | None:
        """Return the adapter folder that was given for a stage."""
        return {
            GRPO_1ST.name: self.grpo_saved_lora_1st,
            SFT.name: self.sft_saved_lora,
            GRPO_2ND.name: self.grpo_saved_lora_2nd,
        }[stage]

    def pair(self, split: str) -> tuple[Path, Path] | None:
        """Return the x and y file of `train`, `test` or `full`, or `None` if neither is given.

        Raises:
            ConfigError: If only one of the two is given.
        """
        x, y = getattr(self, f"{split}_x_path"), getattr(self, f"{split}_y_path")
        if x is None and y is None:
            return None
        if x is None or y is None:
            given, missing = ("x", "y") if y is None else ("y", "x")
            raise ConfigError(f"--{split}-{given}-path needs --{split}-{missing}-path too")
        return x, y


def check_pairs(files: StageFiles) -> None:
    """Refuse an x file without its y file (or the reverse), and test or full files without train files.

    Raises:
        ConfigError: If a file is missing.
    """
    pairs = {split: files.pair(split) for split in ("train", "test", "full")}
    others = [split for split in ("test", "full") if pairs[split] is not None]
    if pairs["train"] is None and others:
        raise ConfigError(f"--{others[0]}-x-path needs --train-x-path and --train-y-path: they define the units")


def check_names_ticker(config: PipelineConfig) -> None:
    """Refuse the name of the pool as the ticker of explicit files.

    Raises:
        ConfigError: If the stock is the pool.
    """
    if config.stock == POOL:
        raise ConfigError(f"--stock {POOL} means all tickers of a folder: name the ticker of the files")


def as_published(config: PipelineConfig, files: StageFiles) -> PipelineConfig:
    """Return the configuration for published files: they hold no indicators, so prompts show only prices."""
    if files.pair("train") is None or config.features.prompt_style == "prices":
        return config
    logger.info("published files hold no indicators for the prompt: using features.prompt_style = 'prices'")
    features = config.features.model_copy(update={"prompt_style": "prices"})
    return config.model_copy(update={"features": features})
