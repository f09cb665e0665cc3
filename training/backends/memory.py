"""Smaller batches when memory runs out."""

import gc
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from tickerforge.training.errors import TrainingError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
# Messages of torch when CPU memory runs out, or GPU memory outside torch's own allocator (which has its own exception).
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
    """Return whether an exception says that GPU or CPU memory ran out (but not that smaller batches failed already)."""
    if isinstance(error, TrainingError):
        return False
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def with_smaller_batches(
    run: Callable[[int], Result],
    *,
    batch: int,
    what: str,
    cure: str,
    reset: Callable[[], None] = lambda: None,
    processes: int = 1,
) -> Result:
    """Return `run(batch)`; whenever memory runs out, try again with half the batch, down to 1.

    Args:
        run: Does the work in batches of the given size. When it is called again after a failure, it must continue from
            what it has, or start over.
        batch: Largest batch, in the unit that `run` takes.
        what: Name of the work, for log and error.
        cure: Advice for the case that a batch of 1 does not fit.
        reset: Called before each further attempt.
        processes: Processes that share the work. Several would have to halve their batches together: with them, the
            first failure ends the run and names the setting to halve.

    Raises:
        TrainingError: A batch of 1 does not fit into memory, or any batch with several processes.
    """
    while True:
        try:
            return run(batch)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            if processes > 1:
                raise TrainingError(
                    f"{what}: memory runs out at {batch} answers at a time in each of {processes} processes: set "
                    f"training.micro_batch_size = {max(1, batch // 2)}. {cure}"
                ) from error
            if batch == 1:
                raise TrainingError(f"{what}: memory runs out even at a batch of 1 ({reason}). {cure}") from error
        # Not inside `except`: the exception holds the tensors of the failed attempt.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning(
            "%s: out of memory at a batch of %d (%s): continuing with %d", what, batch, reason[:200], batch // 2
        )
        batch //= 2
        reset()


def largest_divisor(number: int, *, at_most: int) -> int:
    """Return the largest divisor of a number that does not exceed a limit."""
    return max(divisor for divisor in range(1, min(number, at_most) + 1) if number % divisor == 0)


class TrainableWeights:
    """A copy of a model's trainable weights, from which a training can start over."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._copies = {
            name: weight.detach().to("cpu", copy=True)
            for name, weight in model.named_parameters()
            if weight.requires_grad
        }

    def restore(self) -> None:
        """Put the weights back as they were, and drop the gradients."""
        self._model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, weight in self._model.named_parameters():
                if name in self._copies:
                    weight.copy_(self._copies[name])
