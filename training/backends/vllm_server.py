"""GRPO's answers from a vLLM server on GPUs of its own, to which TRL sends the weights after every step."""

import urllib.error
import urllib.request
from typing import Any

from tickerforge.training.backends import why_not
from tickerforge.training.config import TrainingConfig
from tickerforge.training.errors import BackendUnavailable

ANSWER_SECONDS = 10.0


def rollout_arguments(config: TrainingConfig) -> dict[str, Any]:
    """What TRL's `GRPOConfig` must be told so that the configured server draws the answers; empty without one.

    Raises:
        BackendUnavailable: vLLM is missing here, or no vLLM server answers at that address.
    """
    url = config.launch.vllm_server
    if url is None:
        return {}
    obstacle = why_not("vllm")
    if obstacle is not None:
        raise BackendUnavailable(f"launch.vllm_server cannot be used: {obstacle}, without launch.vllm_server")
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=ANSWER_SECONDS):
            pass
    except (urllib.error.URLError, TimeoutError) as error:
        raise BackendUnavailable(
            f"no vLLM server answers at {url} ({error}): start one, on a GPU that the training does not use, by "
            f"`CUDA_VISIBLE_DEVICES=N trl vllm-serve --model {config.model} --port PORT`, or unset launch.vllm_server"
        ) from error
    return {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": url}
