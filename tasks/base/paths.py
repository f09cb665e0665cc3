"""The folders of a run and of the home, and the names of shared files.

`features/stages.py` has the names of the stages' folders.
"""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tickerforge.evaluation.report.files import REPORT_FILE as REPORT_FILE
from tickerforge.features.prices.tickers import validate_ticker
from tickerforge.features.stages import ADAPTERS, stage_named
from tickerforge.tasks.base.errors import StoreError
from tickerforge.training.config import MADE_HERE
from tickerforge.training.contracts import ADAPTER_CONFIG_FILE as ADAPTER_CONFIG_FILE
from tickerforge.training.contracts import ADAPTER_FOLDER as ADAPTER_FOLDER
from tickerforge.training.contracts import ADAPTER_WEIGHTS_FILE as ADAPTER_WEIGHTS_FILE
from tickerforge.training.contracts import ANSWERS_FILE as ANSWERS_FILE
from tickerforge.training.contracts import METRICS_FILE as METRICS_FILE
from tickerforge.training.contracts import SFT_DATA_FILE as SFT_DATA_FILE

HOME_VARIABLE = "TICKERFORGE_HOME"
RUN_TIMESTAMP = "%Y%m%d_%H%M%S"
RESULTS_FOLDER = "results"
BARS_FILE = "bars.parquet"
QUALITY_FILE = "quality.json"
WINDOWS_FILE = "windows.parquet"
TRAIN_ROWS_FILE = "train_rows.parquet"
SESSIONS_FILE = "sessions.parquet"
FORECASTS_FILE = "forecasts.parquet"
FORECASTS_FOLDER = "forecasts"
ROLLOUTS_FILE = "rollouts.html"
DESK_FILE = "desk.html"
LATEST_FORECASTS_FILE, FORECASTS_CSV_FILE = "latest.parquet", "latest.csv"
MANIFEST_FILE = "manifest.json"
REPORT_DATA_FILE = "report.json"
VERDICT_FILE = "verdict.json"
EXPECTED_ERROR_FILE = "expected_error.json"
CARD_FILE = "tickerforge.json"
MODEL_CARD_FILE = "README.md"
BASE_MODEL_FOLDER = "base_model"
BASE_PATH_SETTING = "base_model_name_or_path"

# The entries of a home before `state` and `cache` were apart; the signs are those that nothing can restore.
_FORMER_SIGNS = ("mlflow.db", "prefect.db", "mlartifacts", "records")
_FORMER_STATE = (
    *_FORMER_SIGNS,
    *(f"{of}.db-{end}" for of in ("prefect", "mlflow") for end in ("wal", "shm")),
    "prefect",
    "service",
)
_FORMER_CACHE = ("store", "base_models", "pulled", "downloads", "yahoo")

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def home() -> Path:
    """Return the folder of caches and databases: `TICKERFORGE_HOME`, or `.tickerforge` in the working folder."""
    return Path(os.environ.get(HOME_VARIABLE) or ".tickerforge").expanduser().resolve()


@dataclass(frozen=True)
class Workspace:
    """Everything below `TICKERFORGE_HOME`: `state`, which nothing can restore, and `cache`, which costs only time."""

    root: Path

    @classmethod
    def current(cls) -> "Workspace":
        """Return the workspace that this process's environment names.

        Raises:
            StoreError: If it has the layout of an earlier version; names the commands that move its files.
        """
        workspace = cls(home())
        workspace._refuse_former_layout()
        return workspace

    @property
    def state(self) -> Path:
        """What nothing can restore: databases, registered models, records, logs and login of the service."""
        return self.root / "state"

    @property
    def cache(self) -> Path:
        """What runs and downloads build again."""
        return self.root / "cache"

    @property
    def locks(self) -> Path:
        """Locks on databases, and the signs of life of runs."""
        return self.state / "locks"

    @property
    def store(self) -> Path:
        """Root of the content-addressed artifact store, with its own locks and the checkpoints."""
        return self.cache / "store"

    @property
    def base_models(self) -> Path:
        """Downloaded and built base models."""
        return self.cache / "base_models"

    @property
    def pulled(self) -> Path:
        """Registered adapters fetched for forecasting, one folder per model version."""
        return self.cache / "pulled"

    @property
    def downloads(self) -> Path:
        """Downloaded archives of price files."""
        return self.cache / "downloads"

    @property
    def yahoo(self) -> Path:
        """Cache of yfinance: time zones and a cookie."""
        return self.cache / "yahoo"

    @property
    def prefect_home(self) -> Path:
        """Settings, results and state of the embedded Prefect."""
        return self.state / "prefect"

    @property
    def prefect_db(self) -> Path:
        """SQLite database of the embedded Prefect."""
        return self.state / "prefect.db"

    @property
    def prefect_url(self) -> str:
        """SQLAlchemy's URL of that database."""
        return f"sqlite+aiosqlite:///{self.prefect_db}"

    @property
    def mlflow_db(self) -> Path:
        """SQLite database of the embedded MLflow."""
        return self.state / "mlflow.db"

    @property
    def mlflow_url(self) -> str:
        """SQLAlchemy's URL of that database."""
        return f"sqlite:///{self.mlflow_db}"

    @property
    def mlflow_artifacts(self) -> Path:
        """Artifacts of the embedded MLflow."""
        return self.state / "mlartifacts"

    def _refuse_former_layout(self) -> None:
        # `os.path` does not fail if the home is a file or cannot be read; the code that uses the home reports that.
        signs = [os.path.join(self.root, name) for name in _FORMER_SIGNS]
        if not any(os.path.exists(sign) and not os.path.islink(sign) for sign in signs):
            return
        there = {path.name for path in self.root.iterdir() if not path.is_symlink()}
        moves = [
            f"cd {shlex.quote(str(self.root))}",
            *(
                f"mkdir -p {folder} && mv {' '.join(names)} {folder}/"
                for folder, former in (("state", _FORMER_STATE), ("cache", _FORMER_CACHE))
                if (names := [name for name in former if name in there])
            ),
            # MLflow's database holds absolute addresses.
            "ln -s state/mlartifacts mlartifacts",
        ]
        raise StoreError(
            f"{self.root} has the layout of an earlier version. End every run and the service with the version that "
            f"started them, then move the files: {' && '.join(moves)}"
        )


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


def run_folder(stock: str, timestamp: str, *, base: Path = Path(RESULTS_FOLDER)) -> RunFolder:
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
    is_path = model not in MADE_HERE and (model.startswith(("/", ".", "~")) or Path(model).is_dir())
    parts = [Path(model).expanduser().resolve().name] if is_path else model.split("/")
    safe = [_UNSAFE.sub("-", part).strip(".-") for part in parts]
    if not all(safe) or len(safe) > 2:
        raise ValueError(f"model {model!r} is neither a Hugging Face name such as Qwen/Qwen3-0.6B nor a folder")
    return PurePosixPath(*safe)
