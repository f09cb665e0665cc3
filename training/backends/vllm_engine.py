"""The child process that holds a vLLM engine: `python -m tickerforge.training.backends.vllm_engine DESCRIPTOR`.

It reads one JSON object per line from its standard input: the engine's settings, then requests. To each request it
writes one line to the file descriptor. It ends when its standard input is closed, so that neither the engine's
processes nor its GPU memory outlive the process that samples.
"""

import functools
import json
import os
import queue
import sys
import threading
from typing import Any

import torch
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from tickerforge.training.backends.sampling import draw_tokens, stratified
from tickerforge.training.children import end_group

BFLOAT16_CAPABILITY = 80
"""Compute capability, times ten, from which GPUs compute in bfloat16."""


class EvenDraws(LogitsProcessor):  # type: ignore[misc]
    """Chooses each token by the random numbers of `sampling.stratified`, as the transformers backend does.

    vLLM's own answers to a prompt are independent draws. These are spread evenly over the distribution: 16 of them
    describe it as well as hundreds of independent ones. A request's `extra_args` name its row of the random numbers.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._requests: dict[int, tuple[dict[str, Any], list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        """Return False: the chosen token is rarely the most likely one."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow the requests as they enter, leave and change places in the batch."""
        process_dict_updates(
            self._requests, batch_update, lambda params, _, drawn: params.extra_args and (params.extra_args, drawn)
        )

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Leave one token possible in each row; `logits` has shape (requests, vocabulary)."""
        if not self._requests:
            return logits
        rows = sorted(self._requests)
        wanted = [self._requests[row] for row in rows]
        # A request that is still reading its prompt gets a token, too, which vLLM then drops.
        uniforms = torch.stack(
            [
                _random_numbers(args["answers"], args["tokens"], args["seed"])[args["answer"], len(drawn)]
                for args, drawn in wanted
            ]
        ).to(logits.device)
        first = wanted[0][0]
        token = draw_tokens(logits[rows], uniforms, temperature=first["temperature"], top_p=first["top_p"])
        logits[rows] = float("-inf")
        logits[rows, token] = 0.0
        return logits


@functools.lru_cache(maxsize=1024)
def _random_numbers(answers: int, tokens: int, seed: int) -> torch.Tensor:
    return stratified(answers, tokens, generator=torch.Generator().manual_seed(seed))


def start(settings: dict[str, Any]) -> Any:
    """Start an engine; `settings` are `LLM`'s arguments except those that depend on the device."""
    on_gpu = current_platform.device_type != "cpu"
    fast = on_gpu and current_platform.has_device_capability(BFLOAT16_CAPABILITY)
    return LLM(
        **settings,
        # As `loading.gpu_dtype`, which would make this process use the GPU.
        dtype="bfloat16" if fast else "float32",
        logits_processors=[f"{__spec__.name}:{EvenDraws.__name__}"],
        seed=0,
    )


def draw(llm: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Return the token ids of the answers to each prompt, and how many answers the length limit cut off.

    Args:
        llm: The engine.
        request: `prompts` (token ids), `seeds` (one per prompt), `answers` (per prompt), `tokens` (most per answer),
            `temperature`, `top_p`, `pattern` (regular expression or `None`), and `adapter` (name, number and path, or
            `None`).
    """
    names = ("answers", "tokens", "temperature", "top_p")
    common = {name: request[name] for name in names}
    shape = StructuredOutputsParams(regex=request["pattern"]) if request["pattern"] else None
    answers = range(request["answers"])
    params = [
        SamplingParams(
            temperature=0.0,
            max_tokens=request["tokens"],
            structured_outputs=shape,
            detokenize=False,
            extra_args=common | {"seed": seed, "answer": answer},
        )
        for seed in request["seeds"]
        for answer in answers
    ]
    outputs = llm.generate(
        [{"prompt_token_ids": ids} for ids in request["prompts"] for _ in answers],
        params,
        use_tqdm=False,
        lora_request=LoRARequest(*request["adapter"]) if request["adapter"] else None,
    )
    drawn = [list(output.outputs[0].token_ids) for output in outputs]
    return {
        "drawn": [drawn[first : first + len(answers)] for first in range(0, len(drawn), len(answers))],
        "cut_off": sum(output.outputs[0].finish_reason == "length" for output in outputs),
    }


def main() -> None:
    """Serve requests until the standard input is closed."""
    answers = os.fdopen(int(sys.argv[1]), "w")
    os.set_inheritable(answers.fileno(), False)
    requests: queue.Queue[dict[str, Any]] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            requests.put(json.loads(line))
        end_group()

    threading.Thread(target=read, daemon=True).start()
    llm = start(requests.get())
    while True:
        answers.write(json.dumps(draw(llm, request) if (request := requests.get()) else {}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
