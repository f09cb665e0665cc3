"""vLLM: answers drawn by an engine in a child process, or (for GRPO) by a server on other GPUs."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
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
    context_length,
    load_tokenizer,
    rank_of,
    token_ids,
)
from tickerforge.training.children import child_environment, end_child, why_it_ended
from tickerforge.training.config import TrainingConfig
from tickerforge.training.contracts import ADAPTER_WEIGHTS_FILE, Progress
from tickerforge.training.errors import AdapterError, BackendUnavailable, TrainingError

CHUNK_PROMPTS = 512
_HEALTH_SECONDS = 10.0
# The values that vLLM accepts as the largest rank; an adapter of a rank between two of them needs the larger one.
LORA_RANKS = (8, 16, 32, 64, 128, 256)
_START_CURE = (
    "Lower training.gpu_memory_utilization if it is more than what is free, or raise it if the model does not fit; or "
    "sample with --backend transformers."
)


class EngineProcess:
    """A vLLM engine in a child process: an end of the child frees all its memory, and an end of this process ends it.

    Raises:
        TrainingError: The engine does not start; the message has vLLM's own error.
    """

    def __init__(self, **settings: Any) -> None:
        with ExitStack() as kept:
            self._output = Path(kept.enter_context(tempfile.TemporaryDirectory(prefix="tickerforge-"))) / "output.txt"
            # Not its standard output: vLLM and the libraries that it imports print there.
            receiving, sending = os.pipe()
            self._answers = kept.enter_context(os.fdopen(receiving))
            with os.fdopen(sending):
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tickerforge.training.backends.vllm_engine", str(sending)],
                    stdin=subprocess.PIPE,
                    stdout=kept.enter_context(self._output.open("wb")),
                    stderr=subprocess.STDOUT,
                    text=True,
                    # The child itself is the engine; with another process for it, the start takes twice as long.
                    env=child_environment() | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
                    pass_fds=[sending],
                    start_new_session=True,
                )
            kept.callback(end_child, self._process)
            self._write(settings)
            self._ask({}, what="the start of vLLM", cure=_START_CURE)
            self._kept = kept.pop_all()

    def draw(self, request: dict[str, Any]) -> tuple[list[list[list[int]]], int]:
        """Return the token ids of the answers to each prompt, and how many were cut off; see `vllm_engine.draw`."""
        reply = self._ask(request, what="sampling with vLLM", cure="")
        return reply["drawn"], reply["cut_off"]

    def close(self) -> None:
        """End the child and its processes."""
        self._kept.close()

    def _write(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def _ask(self, message: dict[str, Any], *, what: str, cure: str) -> dict[str, Any]:
        try:
            self._write(message)
            reply = self._answers.readline()
        except BrokenPipeError:
            reply = ""
        if not reply:
            code = self._process.wait()
            raise TrainingError(f"{why_it_ended(self._output, what=what, code=code)} {cure}".strip())
        answer: dict[str, Any] = json.loads(reply)
        return answer


_engine = OneKept(EngineProcess, end=EngineProcess.close)


class VLLMSampler:
    """Draws answers for rejection sampling, comparison and forecasting, but not for GRPO.

    The answers to a prompt are spread evenly, by the same random numbers as those of the transformers backend. Adapters
    are applied without merging. A regular expression keeps the answers in their format, at no cost in speed, unless
    `sampling.constrained` is off.
    """

    name = "vllm"

    def generate(self, prompts: Sequence[Chat], *, job: SamplingJob) -> list[list[str]]:
        """Draw answers to each prompt; see `Sampler.generate`.

        Raises:
            BackendUnavailable: vLLM is missing, or its build cannot run here.
            AdapterError: The folder is not a LoRA adapter.
            BaseModelError: The base model cannot be read, or a prompt is longer than configured.
            TrainingError: The engine does not start, or it fails.
        """
        obstacle = why_not("vllm")
        if obstacle is not None:
            raise BackendUnavailable(f"the backend vllm cannot run here: {obstacle}")
        config, sampling, adapter = job.config, job.config.sampling, job.adapter
        rank = config.lora_rank
        if adapter is not None:
            check_adapter_files(adapter)
            rank = max(rank, rank_of(adapter))
            if rank > LORA_RANKS[-1]:
                raise AdapterError(
                    f"the adapter in {adapter} has the LoRA rank {rank}, and vLLM takes at most {LORA_RANKS[-1]}: "
                    "use --backend transformers"
                )
        if not prompts:
            return []
        tokenizer = load_tokenizer(job.base_model, trust_remote_code=config.trust_remote_code)
        encoded = [token_ids(prompt, tokenizer) for prompt in prompts]
        limit = context_length(job.base_model, config=config)
        check_length(max(map(len, encoded)), answer=sampling.max_tokens, limit=limit)
        pattern = None
        if sampling.constrained is not False:
            pattern = pattern_for(prompts, horizon=job.horizon, max_tokens=sampling.max_tokens)
        engine = _engine(
            model=job.base_model,
            enable_lora=True,
            max_lora_rank=next(largest for largest in LORA_RANKS if largest >= rank),
            max_model_len=limit,
            gpu_memory_utilization=config.gpu_memory_utilization,
            trust_remote_code=config.trust_remote_code,
        )
        answers: list[list[str]] = []
        try:
            for start in range(0, len(prompts), CHUNK_PROMPTS):
                part = slice(start, start + CHUNK_PROMPTS)
                request = {
                    "prompts": encoded[part],
                    "seeds": [prompt_seed(prompt, job.seed) for prompt in prompts[part]],
                    "answers": job.answers,
                    "tokens": sampling.max_tokens,
                    "temperature": sampling.temperature,
                    "top_p": sampling.top_p,
                    "pattern": pattern,
                    "adapter": adapter_key(adapter) if adapter else None,
                }
                drawn, cut_off = engine.draw(request)
                answers += [tokenizer.batch_decode(group, skip_special_tokens=True) for group in drawn]
                if job.on_drawn is not None:
                    job.on_drawn([len(answer) for group in drawn for answer in group], cut_off)
                if job.on_progress is not None:
                    job.on_progress(Progress(job.stage, len(answers), len(prompts)))
        finally:
            if len(answers) < len(prompts):
                # Interrupted or failed: the next request must not read the answers to this one.
                _engine.clear()
        return answers


def adapter_key(adapter: Path) -> tuple[str, int, str]:
    """Return the name, number and folder by which vLLM knows an adapter.

    It keeps weights by number, and the prompts that it has read by name. Both follow from the weights: with the
    folder's name, an adapter would get the answers of another one in a folder of the same name.
    """
    digest = hashlib.sha256((adapter / ADAPTER_WEIGHTS_FILE).read_bytes())
    return digest.hexdigest(), 1 + (int.from_bytes(digest.digest()[:4], "big") >> 1), str(adapter.resolve())


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
            f"the command in docs/gpu.md (`vllm serve {config.model} --weight-transfer-config …`), or unset "
            "launch.vllm_server"
        ) from error
    return {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": url}
