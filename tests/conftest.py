"""What all tests share: an environment of their own, set before Prefect and MLflow are imported, and their servers."""

import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tracking_environment import forget_tracking

if TYPE_CHECKING:
    from tickerforge.tasks.tracking.client import Tracking
    from trained_pieces import Pieces

HOME = Path(tempfile.mkdtemp(prefix="tickerforge-tests-"))
# What the tiny pipeline makes, once for all processes: the first of them names the folder, the others inherit the name.
STORE_VARIABLE = "TICKERFORGE_TESTS_STORE"
OWNS_STORE = STORE_VARIABLE not in os.environ
if OWNS_STORE:
    os.environ[STORE_VARIABLE] = tempfile.mkdtemp(prefix="tickerforge-tests-store-")
SERVERS = ("PREFECT_API_URL", "PREFECT_API_KEY", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")

for _name in (*SERVERS, "CUDA_VISIBLE_DEVICES", "NO_PROXY"):
    os.environ.pop(_name, None)
for _name in [name for name in os.environ if name.startswith(("PREFECT_", "MLFLOW_", "TICKERFORGE_", "AWS_"))]:
    if _name != STORE_VARIABLE:
        del os.environ[_name]
# Files that MLflow writes get the rights that it leaves.
os.umask(0o022)
os.environ["TICKERFORGE_HOME"] = str(HOME)
os.environ["HF_HUB_OFFLINE"] = "1"
# Models this small are slower on two threads than on one, and many times slower where the cores are busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MLFLOW_CONFIGURE_LOGGING"] = "false"
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"


def _set_defaults() -> None:
    from tickerforge.tasks.base.environment import set_embedded_defaults
    from tickerforge.tasks.base.paths import Workspace

    set_embedded_defaults(Workspace(HOME))


_set_defaults()
# The same examples on every run; HYPOTHESIS_PROFILE=default tries new ones.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest files first, so that no worker is left alone with one at the end."""
    cost: Counter[Path] = Counter()
    for item in items:
        cost[item.path] += 30 if item.get_closest_marker("slow") else 1
    items.sort(key=lambda item: -cost[item.path])


def pytest_sessionfinish() -> None:
    """Remove the tests' home, and the shared store where this process made it."""
    shutil.rmtree(HOME, ignore_errors=True)
    if OWNS_STORE:
        shutil.rmtree(os.environ[STORE_VARIABLE], ignore_errors=True)


@pytest.fixture(scope="session")
def stocknet() -> Path:
    """The folder with the StockNet daily prices beside the repository; tests that need it are skipped without it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "stocknet"
    if not folder.is_dir():
        pytest.skip("the StockNet prices are not there")
    return folder


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with a TICKERFORGE_HOME of its own, `home`, that does not exist yet."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TICKERFORGE_HOME", str(tmp_path / "home"))
    forget_tracking(monkeypatch)
    return folder


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server with a temporary database, for tests that run flows."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def made() -> "Pieces":
    """The artifacts of one tiny pipeline."""
    from trained_pieces import pieces

    return pieces()


@pytest.fixture(scope="module")
def tracking() -> "Tracking":
    """The embedded MLflow of the tests' home."""
    from tickerforge.tasks.base.paths import Workspace
    from tickerforge.tasks.tracking.client import connect

    return connect(Workspace.current())


@pytest.fixture
def quiet_logging() -> Iterator[None]:
    """Undo what a test does to the root logger."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(False)
