"""vLLM: answers drawn on a GPU, by an engine in this process or (for GRPO) by a server on other GPUs."""

import zlib
from collections.abc import Sequence
from typing import Any
from urllib.error import URLError

from tickerforge.features.probe import probe
from tickerforge.features.prompts import Chat
from tickerforge.training.backends.availability import why_not
from tickerforge.training.backends.base import OneKept, SamplingJob, prompt_seed
from tickerforge.training.backends.grammar import pattern_for
from tickerforge.training.backends.loading import (
    check_adapter_files,
    check_length,
    load_tokenizer,
    rank_of,
    token_count,
)
from tickerforge.training.config import TrainingConfig
from tickerforge.training.contracts import ADAPTER_WEIGHTS_FILE, Progress
from tickerforge.training.errors import BackendUnavailable

CHUNK_PROMPTS = 512
_HEALTH_SECONDS = 10.0
# The values that vLLM accepts as the largest rank; an adapter of a rank between two of them needs the larger one.
LORA_RANKS = (8, 16, 32, 64, 128, 256)


@OneKept
def _engine(
    base_model: str, *, max_seq_length: int, lora_rank: int, gpu_memory_utilization: float, trust_remote_code: bool
) -> Any:
    from vllm import LLM

    return LLM(
        base_model,
        enable_lora=True,
        max_lora_rank=next(rank for rank in LORA_RANKS if rank >= lora_rank),
        max_model_len=max_seq_length,
        gpu_memory_utilization=gpu_memory_utilization,
        trust_remote_code=trust_remote_code,
        seed=0,
    )


class VLLMSampler:
    """Draws answers for rejection sampling, comparison and forecasting, but not for GRPO.

    Adapters are applied without merging. A regular expression keeps the answers in their format, at no cost in speed,
    unless `sampling.constrained` is off.
    """

    name = "vllm"

    def generate(self, prompts: Sequence[Chat], *, job: SamplingJob) -> list[list[str]]:
        """Draw answers to each prompt; see `Sampler.generate`.

        Raises:
            BackendUnavailable: vLLM or a GPU is missing.
            AdapterError: The folder is not a LoRA adapter.
            BaseModelError: A prompt is longer than configured.
        """
        obstacle = why_not("vllm")
        if obstacle is not None:
            raise BackendUnavailable(f"the backend vllm cannot run here: {obstacle}")
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest
        from vllm.sampling_params import StructuredOutputsParams

        config, sampling, adapter = job.config, job.config.sampling, job.adapter
        rank = config.lora_rank
        if adapter is not None:
            check_adapter_files(adapter)
            rank = max(rank, rank_of(adapter))
        if prompts:
            tokenizer = load_tokenizer(job.base_model, trust_remote_code=config.trust_remote_code)
            longest = max(token_count(prompt, tokenizer) for prompt in prompts)
            check_length(longest, answer=sampling.max_tokens, limit=config.max_seq_length)
        llm = _engine(
            job.base_model,
            max_seq_length=config.max_seq_length,
            lora_rank=rank,
            gpu_memory_utilization=config.gpu_memory_utilization,
            trust_remote_code=config.trust_remote_code,
        )
        request = None
        if adapter is not None:
            # vLLM caches adapters by number. Derive it from the weights, so that each adapter has its own.
            number = zlib.crc32((adapter / ADAPTER_WEIGHTS_FILE).read_bytes()) % (2**31 - 1) + 1
            request = LoRARequest(adapter.name, number, str(adapter))
        pattern = None
        if prompts and sampling.constrained is not False:
            pattern = pattern_for(prompts, horizon=job.horizon, max_tokens=sampling.max_tokens)
        answers: list[list[str]] = []
        for start in range(0, len(prompts), CHUNK_PROMPTS):
            chunk = prompts[start : start + CHUNK_PROMPTS]
            params = [
                SamplingParams(
                    n=job.answers,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    max_tokens=sampling.max_tokens,
                    seed=prompt_seed(prompt, job.seed),
                    structured_outputs=StructuredOutputsParams(regex=pattern) if pattern else None,
                )
                for prompt in chunk
            ]
            outputs = llm.chat(
                [list(prompt) for prompt in chunk],
                params,
                use_tqdm=False,
                lora_request=request,
            )
            answers += [[answer.text for answer in output.outputs] for output in outputs]
            if job.on_drawn is not None:
                drawn = [answer for output in outputs for answer in output.outputs]
                job.on_drawn(
                    [len(answer.token_ids) for answer in drawn], sum(a.finish_reason == "length" for a in drawn)
                )
            if job.on_progress is not None:
                job.on_progress(Progress(job.stage, len(answers), len(prompts)))
        return answers


def rollout_arguments(config: TrainingConfig) -> dict[str, Any]:
    """Return the arguments of TRL's `GRPOConfig` for the configured vLLM server; empty if none is configured.

    The server draws GRPO's answers on its own GPUs. TRL sends it the weights after every step.

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
        if (status := probe(f"{url}/health", timeout=_HEALTH_SECONDS)) >= 400:
            raise URLError(f"HTTP status {status}")
    except URLError as error:
        raise BackendUnavailable(
            f"no vLLM server answers at {url} ({error.reason}): start one, on a GPU that the training does not use, by "
            f"`CUDA_VISIBLE_DEVICES=N trl vllm-serve --model {config.model} --port PORT`, or unset launch.vllm_server"
        ) from error
    return {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": url}
