"""The folders of a run and of the home, and the names of shared files.

`features/stages.py` has the names of the stages' folders.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tickerforge.features.prices.bars import validate_ticker
from tickerforge.features.stages import ADAPTERS, stage_named
from tickerforge.training.contracts import ADAPTER_CONFIG_FILE as ADAPTER_CONFIG_FILE
from tickerforge.training.contracts import ADAPTER_FOLDER as ADAPTER_FOLDER
from tickerforge.training.contracts import ADAPTER_WEIGHTS_FILE as ADAPTER_WEIGHTS_FILE
from tickerforge.training.contracts import METRICS_FILE as METRICS_FILE
from tickerforge.training.contracts import SFT_DATA_FILE as SFT_DATA_FILE

HOME_VARIABLE = "TICKERFORGE_HOME"
BARS_FILE = "bars.parquet"
QUALITY_FILE = "quality.json"
WINDOWS_FILE = "windows.parquet"
TRAIN_ROWS_FILE = "train_rows.parquet"
SESSIONS_FILE = "sessions.parquet"
FORECASTS_FILE = "forecasts.parquet"
MANIFEST_FILE = "manifest.json"
REPORT_DATA_FILE = "report.json"
VERDICT_FILE = "verdict.json"
EXPECTED_ERROR_FILE = "expected_error.json"
CARD_FILE = "tickerforge.json"
MODEL_CARD_FILE = "README.md"
BASE_MODEL_FOLDER = "base_model"

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def home() -> Path:
    """Return the folder of caches and databases: `TICKERFORGE_HOME`, or `.tickerforge` in the working folder."""
    return Path(os.environ.get(HOME_VARIABLE) or ".tickerforge").expanduser().resolve()


@dataclass(frozen=True)
class Workspace:
    """Everything below `TICKERFORGE_HOME`. Deleting it loses caches and history, never results or models."""

    root: Path

    @classmethod
    def current(cls) -> "Workspace":
        """Return the workspace that this process's environment names."""
        return cls(home())

    @property
    def store(self) -> Path:
        """Root of the content-addressed artifact store."""
        return self.root / "store"

    @property
    def base_models(self) -> Path:
        """Downloaded and built base models."""
        return self.root / "base_models"

    @property
    def pulled(self) -> Path:
        """Registered adapters fetched for forecasting, one folder per model version."""
        return self.root / "pulled"

    @property
    def downloads(self) -> Path:
        """Downloaded archives of price files."""
        return self.root / "downloads"

    @property
    def yahoo(self) -> Path:
        """Cache of yfinance: time zones and a cookie."""
        return self.root / "yahoo"

    @property
    def prefect_home(self) -> Path:
        """Settings, results and state of the embedded Prefect."""
        return self.root / "prefect"

    @property
    def prefect_db(self) -> Path:
        """SQLite database of the embedded Prefect."""
        return self.root / "prefect.db"

    @property
    def mlflow_db(self) -> Path:
        """SQLite database of the embedded MLflow."""
        return self.root / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        """Artifacts of the embedded MLflow."""
        return self.root / "mlartifacts"


@dataclass(frozen=True)
class RunFolder:
    """What a run leaves for people to read: `results/{STOCK}_{TIMESTAMP}`."""

    root: Path

    @property
    def log(self) -> Path:
        """Log of the whole run."""
        return self.root / "pipeline.log"

    def stage(self, name: str) -> Path:
        """Return the folder of a stage's records.

        Raises:
            ValueError: If the stage leaves no records for people.
        """
        folder = stage_named(name).results_folder
        if not folder:
            raise ValueError(f"stage {name!r} leaves no records in the results")
        return self.root / folder


@dataclass(frozen=True)
class ModelFolder:
    """The adapters of a ticker for a base model: `models/{MODEL}/{STOCK}`."""

    root: Path

    def adapter(self, stage: str) -> Path:
        """Return the PEFT folder of a stage that trains an adapter.

        Raises:
            ValueError: If the stage trains none.
        """
        folder = stage_named(stage).adapter_folder
        if not folder:
            raise ValueError(f"stage {stage!r} leaves no adapter: use {', '.join(ADAPTERS)}")
        return self.root / folder


def run_folder(stock: str, timestamp: str, *, base: Path = Path("results")) -> RunFolder:
    """Return the folder of a run, `{base}/{STOCK}_{TIMESTAMP}`; characters unfit for a file name become `-`."""
    return RunFolder(base / f"{validate_ticker(stock)}_{_UNSAFE.sub('-', timestamp)}")


def model_folder(model: str, stock: str, *, base: Path = Path("models")) -> ModelFolder:
    """Return the folder of a ticker's adapters, `{base}/{MODEL}/{STOCK}`."""
    return ModelFolder(base / model_subfolder(model) / validate_ticker(stock))


def model_subfolder(model: str) -> PurePosixPath:
    """Return the relative folder that stands for a base model.

    A Hugging Face name keeps its parts (`Qwen/Qwen2.5-7B-Instruct`). A path becomes its last component; a path is
    absolute, starts with a dot or a tilde, or exists as a folder.

    Raises:
        ValueError: If nothing usable remains of the name.
    """
    is_path = model != "tiny" and (model.startswith(("/", ".", "~")) or Path(model).is_dir())
    parts = [Path(model).expanduser().resolve().name] if is_path else model.split("/")
    safe = [_UNSAFE.sub("-", part).strip(".-") for part in parts]
    if not all(safe) or len(safe) > 2:
        raise ValueError(f"model {model!r} is neither a Hugging Face name such as Qwen/Qwen3-0.6B nor a folder")
    return PurePosixPath(*safe)
