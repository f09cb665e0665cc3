"""Base models, tokenizers and adapters: how they are loaded, and the checks before that."""

import gc
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from tickerforge.features.prompts import Chat
from tickerforge.training.backends.base import TrainingJob
from tickerforge.training.config import TrainingConfig
from tickerforge.training.contracts import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from tickerforge.training.errors import AdapterError, BaseModelError

SMALL_MODEL = 50_000_000
"""Parameters below which a model is computed with few threads and merged with its adapter for rollouts."""
SMALL_MODEL_THREADS = 2
_threads_before: int | None = None
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""The linear layers of most architectures, first those of the attention; for others see `lora_targets`."""


def quieten() -> None:
    """Turn off the progress bars and warnings of the model libraries."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


@cache
def leave_libraries_alone() -> None:
    """Exclude all objects that exist now from garbage collection; call it after the imports, before the first model.

    Each change of a model is a full collection. Of the objects of imported libraries alone, it takes a few tenths of a
    second, about as long as a small model takes for a forecast.
    """
    gc.collect()
    gc.freeze()


def load_tokenizer(base_model: str, *, trust_remote_code: bool) -> Any:
    """Load the tokenizer of a base model; it pads on the left.

    Raises:
        BaseModelError: The model is neither here nor on the hub, or it has no chat template.
    """
    from transformers import AutoTokenizer

    quieten()
    with _reading(base_model):
        tokenizer = AutoTokenizer.from_pretrained(base_model, trust_remote_code=trust_remote_code)
    if tokenizer.chat_template is None:
        raise BaseModelError(f"{base_model} has no chat template: choose an instruction-tuned model")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def load_base(base_model: str, *, trust_remote_code: bool) -> Any:
    """Load the base model from safetensors, onto the GPU if there is one.

    Raises:
        BaseModelError: The model is neither here nor on the hub, it has no safetensors weights, or they cannot be read.
    """
    import torch
    from transformers import AutoModelForCausalLM

    quieten()
    leave_libraries_alone()
    with _reading(base_model):
        model = AutoModelForCausalLM.from_pretrained(
            base_model, dtype=gpu_dtype(), trust_remote_code=trust_remote_code, use_safetensors=True
        )
    if torch.cuda.is_available():
        # If accelerate started several processes, each has one GPU, and accelerate sets its number.
        return model.to(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    limit_threads(small=model.num_parameters() < SMALL_MODEL)
    return model


def load_trainable(job: TrainingJob) -> Any:
    """Load the base model of a job with its adapter, or with a new LoRA adapter, ready to train.

    Raises:
        AdapterError: The adapter cannot be read, or it has another rank than configured.
        BaseModelError: The base model cannot be read.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed
    from transformers.pytorch_utils import Conv1D

    from tickerforge.training.backends.fused_lora import fuse

    set_seed(job.seed)
    rank = job.config.lora_rank
    if job.adapter is not None:
        check_rank(job.adapter, rank=rank)
    model = load_base(job.base_model, trust_remote_code=job.config.trust_remote_code)
    if job.adapter is not None:
        model = attach_adapter(model, job.adapter, trainable=True)
    else:
        lora = LoraConfig(
            r=rank,
            lora_alpha=rank,
            target_modules=lora_targets(model),
            # GPT-2 stores its weights transposed.
            fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in model.modules()),
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, lora)
    if is_large_on_cpu(model):
        fuse(model)
    return model


def lora_targets(model: Any) -> list[str] | str:
    """Return the layers of a model that get LoRA.

    `LORA_TARGETS` if it has layers of all these names, or is a mixture of experts whose attention has them: all linear
    layers of such a model would include its router. Else all linear layers.
    """
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    expected = LORA_TARGETS[:4] if "experts" in names else LORA_TARGETS
    return LORA_TARGETS if names.issuperset(expected) else "all-linear"


def is_large_on_cpu(model: Any) -> bool:
    """Return whether a model computes on a CPU in full precision, and is so large that shortcuts for that pay."""
    import torch

    precise = torch.finfo(model.dtype).bits >= 32
    return bool(model.device.type == "cpu" and precise and model.num_parameters() >= SMALL_MODEL)


def fine_tunes_in_bfloat16(model: Any) -> bool:
    """Return whether fine-tuning a model is faster in bfloat16: on a GPU or, if it is large, a CPU that has it."""
    return gpu_dtype() == "bfloat16" or (is_large_on_cpu(model) and cpu_has_bfloat16())


def cpu_has_bfloat16() -> bool:
    """Return whether an x86 CPU has instructions for bfloat16.

    Others emulate it, three times slower than float32. ARM counts as one without, because nobody has measured it.
    """
    import torch

    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def gpu_dtype() -> str:
    """Return `bfloat16` if the GPU computes in it, else (older GPU, or CPU) `float32`."""
    import torch

    fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if fast else "float32"


def limit_threads(*, small: bool) -> None:
    """Limit torch to two threads for a model of a few million parameters, which is slower with more.

    The next larger model gets the threads of before.
    """
    global _threads_before
    import torch

    threads = torch.get_num_threads()
    if small and threads > SMALL_MODEL_THREADS:
        _threads_before = threads
        torch.set_num_threads(SMALL_MODEL_THREADS)
    elif not small and _threads_before is not None:
        if threads == SMALL_MODEL_THREADS:
            torch.set_num_threads(_threads_before)
        _threads_before = None


def attach_adapter(model: Any, adapter: Path, *, trainable: bool) -> Any:
    """Put a LoRA adapter on a model.

    Raises:
        AdapterError: The folder is missing, is not a PEFT adapter in safetensors, or belongs to another base model.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    check_adapter_files(adapter)
    try:
        return PeftModel.from_pretrained(model, str(adapter), is_trainable=trainable)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise AdapterError(
            f"cannot read the adapter in {adapter}: {_first_line(error)}\n"
            "It must be a PEFT LoRA folder made for this base model; train it again or pull it again."
        ) from error


def check_adapter_files(adapter: Path) -> None:
    """Check that a folder holds `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        AdapterError: One of them is missing.
    """
    for name in (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE):
        if not (adapter / name).is_file():
            raise AdapterError(
                f"no LoRA adapter in {adapter}: {name} is missing. "
                "Give a folder that `tickerforge run`, `stage` or `pull` wrote (PEFT format, safetensors)."
            )


def rank_of(adapter: Path) -> int:
    """Return the LoRA rank of an adapter that passed `check_adapter_files`."""
    return int(json.loads((adapter / ADAPTER_CONFIG_FILE).read_text())["r"])


def check_rank(adapter: Path, *, rank: int) -> None:
    """Check that an adapter to be trained on has the configured rank, which its card will state.

    Raises:
        AdapterError: The adapter is incomplete, or has another rank.
    """
    check_adapter_files(adapter)
    if (found := rank_of(adapter)) != rank:
        raise AdapterError(
            f"the adapter in {adapter} has the LoRA rank {found}, and training.lora_rank is {rank}: set it to the "
            "adapter's rank, or start from another adapter"
        )


def token_ids(prompt: Chat, tokenizer: Any) -> list[int]:
    """Return the token ids of a prompt, with those that the chat template adds."""
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def token_count(prompt: Chat, tokenizer: Any) -> int:
    """Count the tokens of a prompt, with those that the chat template adds."""
    return len(token_ids(prompt, tokenizer))


def context_length(base_model: str, *, config: TrainingConfig) -> int:
    """Return the most tokens of prompt and answer: `max_seq_length`, or the base model's positions if they are fewer.

    vLLM refuses a longer context, Unsloth would silently stretch the position embedding, and the transformers library
    would let a model read positions that it does not know.

    Raises:
        BaseModelError: The base model cannot be read.
    """
    positions = _positions(base_model, config.trust_remote_code)
    return min(config.max_seq_length, positions or config.max_seq_length)


@cache
def _positions(base_model: str, trust_remote_code: bool) -> int | None:
    from transformers import AutoConfig

    with _reading(base_model):
        found = AutoConfig.from_pretrained(base_model, trust_remote_code=trust_remote_code).get_text_config()
    return getattr(found, "max_position_embeddings", None)


def check_length(prompt: int, *, answer: int, limit: int) -> None:
    """Check that a prompt and an answer (in tokens) fit into the context; otherwise the answer would be cut off.

    Raises:
        BaseModelError: They do not fit.
    """
    if prompt + answer > limit:
        raise BaseModelError(
            f"a prompt of {prompt} tokens and an answer of {answer} exceed {limit} tokens, which is "
            "training.max_seq_length or, if that is less, all that the base model can read: raise --max-seq-length, "
            "lower training.sampling.max_tokens, or choose another base model"
        )


@contextmanager
def _reading(base_model: str) -> Iterator[None]:
    """Say which base model cannot be read: missing, damaged, or one that needs a package."""
    import torch
    from safetensors import SafetensorError

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise BaseModelError(
            f"cannot load the base model {base_model!r}: {_first_line(error)}\n"
            "Use a local folder, a Hugging Face name that this machine can reach, `tiny` or `smollm2`."
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
