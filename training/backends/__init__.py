"""Who trains and who draws answers: chosen here, imported only when chosen."""

import importlib.util
import os
import shutil
import subprocess
import sys

from tickerforge.training.backends.base import Backend, Sampler, Selection
from tickerforge.training.config import TrainingConfig
from tickerforge.training.errors import BackendUnavailable

__all__ = [
    "Backend",
    "Sampler",
    "Selection",
    "gpu_name",
    "gpu_names",
    "named",
    "release_models",
    "sampler_for",
    "select",
    "why_not",
]


def gpu_names() -> list[str]:
    """Names of the CUDA GPUs that `CUDA_VISIBLE_DEVICES` shows; asks the driver, so that torch need not be imported."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    names = done.stdout.strip().splitlines() if done.returncode == 0 else []
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return names
    # A device may also be named by UUID, which does not say which of the driver's list it is.
    chosen = [part.strip() for part in shown.split(",")]
    indices = [int(part) if part.isdigit() else 0 for part in chosen if part.isdigit() or part.startswith("GPU-")]
    return [names[index] for index in indices if index < len(names)]


def gpu_name() -> str | None:
    """Name of the first CUDA GPU, or `None`."""
    return next(iter(gpu_names()), None)


def why_not(name: str) -> str | None:
    """What keeps a backend from running here, with the cure; `None` where nothing does."""
    if name == "transformers":
        return None
    packages = {"unsloth": ("unsloth", "vllm"), "vllm": ("vllm",)}[name]
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if gpu_name() is None:
        return f"{name} needs a CUDA GPU and none was found: use --backend transformers"
    if missing:
        return f"{name} needs the package(s) {', '.join(missing)}: pip install '.[gpu]' in the checkout"
    return None


def select(name: str = "auto", *, model: str | None = None) -> Selection:
    """The backend of that name, or with `auto` the best one that can run here.

    Args:
        name: `auto`, `transformers` or `unsloth`.
        model: The base model; the tiny one is always left to transformers, which is faster for it.

    Raises:
        BackendUnavailable: The backend asked for cannot run here; says what is missing.
    """
    if name == "auto":
        obstacle = "the tiny base model gains nothing from it" if model == "tiny" else why_not("unsloth")
        if obstacle is None:
            return Selection(_unsloth(), f"unsloth: found {gpu_name()}")
        return Selection(_transformers(), f"transformers, not unsloth: {obstacle.split(': use --backend')[0]}")
    obstacle = why_not(name)
    if obstacle is not None:
        raise BackendUnavailable(f"the backend {name} cannot run here: {obstacle}")
    return Selection(named(name), f"{name}: asked for")


def named(name: str) -> Backend:
    """The backend of that name, whether or not it can run here."""
    return _unsloth() if name == "unsloth" else _transformers()


def sampler_for(backend: Backend, *, config: TrainingConfig) -> Sampler:
    """Who draws answers for rejection sampling, comparison and forecasting.

    vLLM beside unsloth, and where a vLLM server draws GRPO's answers; else the backend itself.
    """
    wanted = backend.name == "unsloth" or config.launch.vllm_server is not None
    if wanted and config.model != "tiny" and why_not("vllm") is None:
        from tickerforge.training.backends.vllm_ import VLLMSampler

        return VLLMSampler()
    return backend


def release_models() -> None:
    """Forget the models that sampling keeps loaded: what comes next is about to need their memory."""
    for module, cached in (("vllm_", "_engine"), ("transformers_", "_sampling_model")):
        loaded = sys.modules.get(f"{__name__}.{module}")
        if loaded is not None:
            getattr(loaded, cached).clear()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _transformers() -> Backend:
    from tickerforge.training.backends.transformers_ import TransformersBackend

    return TransformersBackend()


def _unsloth() -> Backend:
    from tickerforge.training.backends.unsloth_ import UnslothBackend

    return UnslothBackend()
