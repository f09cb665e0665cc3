"""Checks of what is installed and what works on this machine; each failed check comes with its fix."""

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from urllib.error import URLError

from tickerforge.features.config import FrozenModel, SyntheticConfig
from tickerforge.features.probe import probe
from tickerforge.flows.errors import PrefectUnavailable

CPU_PACKAGES = (
    "numpy",
    "pandas",
    "pyarrow",
    "ta-lib",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "prefect",
    "mlflow",
)
GPU_PACKAGES = ("unsloth", "vllm")
OLDEST_PYTHON = (3, 11)
_COMFORTABLE_BYTES = 2_000_000_000
TIMEOUT_SECONDS = 3.0


class Check(FrozenModel):
    """One line of the diagnosis. `ok` is `None` for plain information; `cure` says how to fix a failed check."""

    name: str
    value: str
    ok: bool | None = None
    cure: str = ""


def diagnose() -> Iterator[Check]:
    """Check what a run needs, one by one; an error that a check expects becomes a failed check."""
    yield check_python()
    yield from check_packages()
    yield from check_backend()
    yield Check(name="CPU cores", value=str(len(os.sched_getaffinity(0)) if _linux() else os.cpu_count()))
    yield from check_home()
    yield check_smollm2()
    yield check_talib()
    yield check_prefect()
    yield check_mlflow()


def is_healthy(checks: list[Check]) -> bool:
    """Return whether no check failed."""
    return all(check.ok is not False for check in checks)


def check_python() -> Check:
    """Check that this Python is new enough."""
    needed = ".".join(map(str, OLDEST_PYTHON))
    ok = sys.version_info[:2] >= OLDEST_PYTHON
    cure = "" if ok else f"install Python {needed} or newer and run `make setup`"
    return Check(name="Python", value=platform.python_version(), ok=ok, cure=cure)


def check_packages() -> Iterator[Check]:
    """Check that the packages that matter are installed; those for a GPU are optional."""
    for name in CPU_PACKAGES:
        version = _version(name)
        yield Check(
            name=name,
            value=version or "missing",
            ok=version is not None,
            cure="" if version else "run `make setup`, or pip install -c constraints.txt -e .",
        )
    for name in GPU_PACKAGES:
        yield Check(name=f"{name} (GPU)", value=_version(name) or "not installed; needed on a GPU only")


def check_backend() -> Iterator[Check]:
    """Report the GPU, and check that `auto` finds a backend."""
    from tickerforge.training.backends import gpu_name, select
    from tickerforge.training.errors import BackendUnavailable

    yield Check(name="GPU", value=gpu_name() or "none; everything runs on the CPU, slowly for large models")
    try:
        yield Check(name="backend auto takes", value=select("auto").reason, ok=True)
    except (BackendUnavailable, ImportError) as error:
        yield Check(name="backend auto takes", value=f"none: {error}", ok=False, cure="run `make setup`")


def check_home() -> Iterator[Check]:
    """Check that TICKERFORGE_HOME can be written and has space."""
    from tickerforge.tasks.base.paths import home

    folder = home()
    name = "TICKERFORGE_HOME"
    try:
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"x" * 4096)
            file.flush()
        yield Check(name=name, value=f"{folder} (writable)", ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        cure = "set TICKERFORGE_HOME to a folder where you may write, or free some space"
        yield Check(name=name, value=f"{folder}: {reason}", ok=False, cure=cure)
        return
    free = shutil.disk_usage(existing).free
    ok = free >= _COMFORTABLE_BYTES
    cure = "" if ok else f"free some space: {_COMFORTABLE_BYTES / 1e9:.0f} GB are comfortable with the tiny model"
    yield Check(name="free disk", value=f"{free / 1e9:.1f} GB", ok=ok, cure=cure)


def check_smollm2() -> Check:
    """Report whether the base model `smollm2` is in the store."""
    from tickerforge.tasks.base.errors import TasksError
    from tickerforge.tasks.base.paths import Workspace
    from tickerforge.tasks.models.base_models import known_smollm2
    from tickerforge.tasks.store.artifacts import Store
    from tickerforge.training.models.smollm2 import PACKAGE, VERSION, WHEEL_BYTES

    name = "base model smollm2"
    try:
        found = known_smollm2(Store(Workspace.current().store))
    except TasksError as error:
        return Check(name=name, value=f"unknown: {error}")
    if found is not None:
        return Check(name=name, value=f"in {found}")
    return Check(
        name=name,
        value=f"not here; the first run with it fetches {PACKAGE}=={VERSION} ({WHEEL_BYTES / 1e6:.0f} MB) by pip",
    )


def check_talib() -> Check:
    """Check that indicators can be computed, on a small synthetic market."""
    try:
        from tickerforge.features.config import FeatureConfig
        from tickerforge.features.synthetic import market
        from tickerforge.features.windows import build_windows

        windows = build_windows(market(SyntheticConfig(sessions=400)), ticker="DOCTOR", config=FeatureConfig())
    except (ImportError, ValueError, RuntimeError) as error:
        cure = "reinstall its wheel: pip install --force-reinstall --no-deps -c constraints.txt ta-lib"
        return Check(name="TA-Lib", value=f"fails: {error}", ok=False, cure=cure)
    return Check(name="TA-Lib", value=f"works ({len(windows)} windows cut)", ok=True)


def check_prefect() -> Check:
    """Check that Prefect's API answers: a configured server within three seconds, or the embedded one once started."""
    from tickerforge.flows.server.embedded import API_VARIABLE, is_embedded, start_prefect, wait_for_prefect

    url = os.environ.get(API_VARIABLE)
    if url and not is_embedded():
        cure = f"start it with `prefect server start`, or unset {API_VARIABLE} to use the embedded one"
        return _reach("Prefect", url, cure=cure)

    def start_and_wait() -> None:
        start_prefect()
        wait_for_prefect()

    return _timed("Prefect", "embedded, starts", start_and_wait)


def check_mlflow() -> Check:
    """Check that MLflow answers: the configured server within three seconds, or the embedded database."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith(("http://", "https://")):
        cure = "start it with `mlflow server`, or unset MLFLOW_TRACKING_URI to use the embedded one"
        return _reach("MLflow", uri, cure=cure)
    from tickerforge.tasks.tracking.stage_runs import check_tracking, without_credentials

    return _timed("MLflow", without_credentials(uri) or "embedded, opens", check_tracking)


def _reach(name: str, url: str, *, cure: str) -> Check:
    from tickerforge.tasks.tracking.stage_runs import without_credentials

    # Credentials are neither shown nor sent: urllib takes them for a part of the host's name.
    shown = without_credentials(url)
    try:
        status = probe(f"{shown.rstrip('/')}/health", timeout=TIMEOUT_SECONDS)
    except URLError as error:
        return Check(name=name, value=f"{shown} does not answer ({error.reason})", ok=False, cure=cure)
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return Check(name=name, value=f"{shown} answers, and asks for authentication", ok=True)
    if status >= HTTPStatus.BAD_REQUEST:
        return Check(name=name, value=f"{shown} answers with HTTP {status}", ok=False, cure=cure)
    return Check(name=name, value=f"{shown} answers", ok=True)


def _timed(name: str, words: str, work: Callable[[], object]) -> Check:
    from tickerforge.tasks.base.errors import TasksError

    started = time.monotonic()
    try:
        work()
    except (PrefectUnavailable, TasksError, OSError, ImportError) as error:
        text = str(error)
        return Check(name=name, value="fails", ok=False, cure=text)
    return Check(name=name, value=f"{words} ({time.monotonic() - started:.1f} s)", ok=True)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _linux() -> bool:
    return sys.platform == "linux"
