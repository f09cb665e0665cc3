"""Who trains and who draws answers: chosen here, imported only when chosen."""

import importlib.util
import shutil
import subprocess

from training.backends.base import Backend, Sampler, Selection
from training.errors import BackendUnavailable

__all__ = ["Backend", "Sampler", "Selection", "gpu_name", "sampler_for", "select", "why_not"]


def gpu_name() -> str | None:
    """Name of the first CUDA GPU, or `None`; asks the driver, so that torch need not be imported."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    names = done.stdout.strip().splitlines()
    return names[0] if done.returncode == 0 and names else None


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
    backend = _unsloth() if name == "unsloth" else _transformers()
    return Selection(backend, f"{name}: asked for")


def sampler_for(backend: Backend, *, model: str) -> Sampler:
    """Who draws answers for rejection sampling, comparison and forecasting: vLLM beside unsloth, else the backend."""
    if backend.name == "unsloth" and model != "tiny" and why_not("vllm") is None:
        from training.backends.vllm_ import VLLMSampler

        return VLLMSampler()
    return backend


def _transformers() -> Backend:
    from training.backends.transformers_ import TransformersBackend

    return TransformersBackend()


def _unsloth() -> Backend:
    from training.backends.unsloth_ import UnslothBackend

    return UnslothBackend()
