"""Going on with smaller batches where memory runs out."""

import gc
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from tickerforge.training.errors import TrainingError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
# What torch says where the memory of a CPU runs out, or a GPU's outside torch's own allocator, which has an exception.
OUT_OF_MEMORY = (
    "not enough memory",
    "DefaultCPUAllocator",
    "std::bad_alloc",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
MEMORY_CURE = (
    "Free memory, use a smaller base model, a lower lora_rank or a shorter max_seq_length and sampling.max_tokens, or "
    "set training.gradient_checkpointing = true."
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the memory of GPU or CPU ran out, and nobody has gone on with less already."""
    if isinstance(error, TrainingError):
        return False
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def with_smaller_batches(run: Callable[[int], Result], *, batch: int, what: str, cure: str) -> Result:
    """What `run(batch)` returns; where memory runs out it is called again with half the batch, down to 1.

    Args:
        run: Does the work in batches of the size it is given. It is called again after a failure and must then go on
            from what it has, or start over.
        batch: Largest batch, in the unit that `run` takes.
        what: What is being done, for log and error.
        cure: What to do where a batch of 1 does not fit.

    Raises:
        TrainingError: A batch of 1 does not fit into memory.
    """
    while True:
        try:
            return run(batch)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            if batch == 1:
                raise TrainingError(f"{what}: memory runs out even at a batch of 1 ({reason}). {cure}") from error
        # Only here, where the exception is gone, does nothing hold the tensors of the failed attempt.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning(
            "%s: out of memory at a batch of %d (%s): going on with %d", what, batch, reason[:200], batch // 2
        )
        batch //= 2


def largest_divisor(number: int, *, at_most: int) -> int:
    """The largest divisor of a number that does not exceed a limit."""
    return max(divisor for divisor in range(1, min(number, at_most) + 1) if number % divisor == 0)


class TrainableWeights:
    """A copy of a model's trainable weights, to start over from."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._copies = {
            name: weight.detach().to("cpu", copy=True)
            for name, weight in model.named_parameters()
            if weight.requires_grad
        }

    def restore(self) -> None:
        """Put the weights back as they were, and let go of gradients."""
        self._model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, weight in self._model.named_parameters():
                if name in self._copies:
                    weight.copy_(self._copies[name])
