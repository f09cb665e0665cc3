"""Backends: the code that trains and samples models; chosen here, and imported only when chosen."""

import os
import sys

from tickerforge.training.backends.availability import gpu_name, gpu_names, why_not
from tickerforge.training.backends.base import Backend, Sampler, Selection
from tickerforge.training.config import TINY, TrainingConfig
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

# Read by the OpenMP of torch when torch is imported, which happens only below this package. By default, threads that
# wait for others keep their core busy: on a machine with other work, a step then takes many times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def select(name: str = "auto", *, model: str | None = None) -> Selection:
    """Return the backend of that name, or with `auto` the best one that can run here.

    Args:
        name: `auto`, `transformers` or `unsloth`.
        model: The base model. With `auto`, transformers trains the tiny one, and every one on a CPU.

    Raises:
        BackendUnavailable: The requested backend cannot run here; the message says what is missing.
    """
    if name == "auto":
        obstacle = why_not("unsloth")
        if model == TINY:
            obstacle = "the tiny base model gains nothing from it"
        elif obstacle is None and gpu_name() is None:
            obstacle = "without a CUDA GPU it gains nothing"
        if obstacle is None:
            return Selection(named("unsloth"), f"unsloth: found {gpu_name()}")
        return Selection(named("transformers"), f"transformers, not unsloth: {obstacle.split(': use --backend')[0]}")
    obstacle = why_not(name)
    if obstacle is not None:
        raise BackendUnavailable(f"the backend {name} cannot run here: {obstacle}")
    return Selection(named(name), f"{name}: asked for")


def named(name: str) -> Backend:
    """Return the backend of that name, even if it cannot run here."""
    if name == "unsloth":
        from tickerforge.training.backends.unsloth_ import UnslothBackend

        return UnslothBackend()
    from tickerforge.training.backends.transformers_ import TransformersBackend

    return TransformersBackend()


def sampler_for(backend: Backend, *, config: TrainingConfig) -> Sampler:
    """Return what draws answers for rejection sampling, comparison and forecasting.

    This is vLLM if unsloth trains or if a vLLM server draws GRPO's answers, and vLLM can run; else transformers.
    """
    wanted = backend.name == "unsloth" or config.launch.vllm_server is not None
    if wanted and config.model != TINY and why_not("vllm") is None:
        from tickerforge.training.backends.vllm_ import VLLMSampler

        return VLLMSampler()
    from tickerforge.training.backends.transformers_ import TransformersBackend

    return TransformersBackend()


def release_models() -> None:
    """Drop the models that sampling keeps loaded, because the next step needs their memory."""
    for module, cached in (("vllm_", "_engine"), ("transformers_", "_sampling_model")):
        loaded = sys.modules.get(f"{__name__}.{module}")
        if loaded is not None:
            getattr(loaded, cached).clear()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
