"""The backend that runs everywhere: transformers, PEFT and TRL."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from tickerforge.features.prompts import Chat
from tickerforge.training.backends.base import OneKept, SamplingJob, TrainingJob, prompt_seed
from tickerforge.training.contracts import Example, Progress
from tickerforge.training.errors import AdapterError, BaseModelError

SMALL_MODEL = 50_000_000
SMALL_MODEL_THREADS = 2
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def quieten() -> None:
    """Keep the model libraries from drawing bars and warning about what is intended here."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def load_tokenizer(base_model: str, *, trust_remote_code: bool) -> Any:
    """The tokenizer of a base model, padding on the left.

    Raises:
        BaseModelError: There is no such model here or on the hub, or it has no chat template.
    """
    from transformers import AutoTokenizer

    quieten()
    try:
        tokenizer = AutoTokenizer.from_pretrained(base_model, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise BaseModelError(_unreadable_model(base_model, error)) from error
    if tokenizer.chat_template is None:
        raise BaseModelError(f"{base_model} has no chat template: choose an instruction-tuned model")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def load_base(base_model: str, *, trust_remote_code: bool, dtype: str = "auto") -> Any:
    """The base model, on the GPU where there is one; safetensors only.

    Raises:
        BaseModelError: There is no such model here or on the hub, or it has no safetensors weights.
    """
    import torch
    from transformers import AutoModelForCausalLM

    quieten()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base_model, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise BaseModelError(_unreadable_model(base_model, error)) from error
    if torch.cuda.is_available():
        # One process a GPU, where accelerate started several; each is told its number.
        return model.to(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    if model.num_parameters() < SMALL_MODEL:
        limit_threads()
    return model


def gpu_dtype() -> str:
    """`bfloat16` on a GPU that computes in it, `float32` on an older one and on a CPU."""
    import torch

    fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if fast else "float32"


def limit_threads() -> None:
    """Use two threads at most: more slow a model of a few million parameters down."""
    import torch

    torch.set_num_threads(min(SMALL_MODEL_THREADS, torch.get_num_threads()))


def _unreadable_model(base_model: str, error: Exception) -> str:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"cannot load the base model {base_model!r}: {first_line}\n"
        "Use a local folder, a Hugging Face name that this machine can reach, or `tiny`."
    )


def attach_adapter(model: Any, adapter: Path, *, trainable: bool) -> Any:
    """The model with a LoRA adapter on it.

    Raises:
        AdapterError: The folder is missing, holds no PEFT adapter in safetensors, or one of another base model.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    check_adapter(adapter)
    try:
        return PeftModel.from_pretrained(model, str(adapter), is_trainable=trainable)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise AdapterError(
            f"cannot read the adapter in {adapter}: {first_line}\n"
            "It must be a PEFT LoRA folder made for this base model; train it again or pull it anew."
        ) from error


def check_adapter(adapter: Path) -> None:
    """Demand a folder with `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        AdapterError: One of them is missing.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (adapter / name).is_file():
            raise AdapterError(
                f"no LoRA adapter in {adapter}: {name} is missing. "
                "Give a folder that `tickerforge run`, `stage` or `pull` wrote (PEFT format, safetensors)."
            )


def rank_of(adapter: Path) -> int:
    """The LoRA rank of an adapter that `check_adapter` has seen."""
    return int(json.loads((adapter / "adapter_config.json").read_text())["r"])


def token_count(prompt: Chat, tokenizer: Any) -> int:
    """How many tokens a prompt has, with all that the chat template adds."""
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def check_length(prompt: int, *, answer: int, limit: int) -> None:
    """Demand that a prompt and an answer fit into the context, in tokens: else the answer would be cut off.

    Raises:
        BaseModelError: They do not.
    """
    if prompt + answer > limit:
        raise BaseModelError(
            f"a prompt of {prompt} tokens and an answer of {answer} exceed training.max_seq_length = {limit}: "
            "raise --max-seq-length, or lower training.sampling.max_tokens"
        )


@OneKept
def _sampling_model(base_model: str, adapter: str | None, adapter_stamp: int, trust_remote_code: bool) -> Any:
    model = load_base(base_model, trust_remote_code=trust_remote_code, dtype=gpu_dtype())
    if adapter is not None:
        model = attach_adapter(model, Path(adapter), trainable=False).merge_and_unload()
    return model.eval()


def _ends(model: Any, tokenizer: Any) -> set[int]:
    ends = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}


class TransformersBackend:
    """Generation by `training.backends.sampling`, training by TRL."""

    name = "transformers"

    def generate(self, prompts: Sequence[Chat], *, job: SamplingJob) -> list[list[str]]:
        """Draw answers to each prompt; the adapter is merged into the weights.

        The random numbers of a prompt follow from seed and prompt alone. Its answers are then the same, whatever else
        is asked, as far as the model computes the same: in float32, on a CPU, always but for a rounding difference at
        the border between two tokens; in bfloat16, on a GPU, rounding differs with the batch and changes some answers.

        Raises:
            AdapterError: The adapter cannot be read.
            TrainingError: Not even one prompt's answers fit into memory.
            BackendUnavailable: `sampling.constrained` is set and xgrammar is not installed.
            BaseModelError: The base model cannot be read, or a prompt is longer than the configuration allows.
        """
        import torch

        from tickerforge.training.backends.grammar import Grammar, pattern_for
        from tickerforge.training.backends.memory import MEMORY_CURE, with_smaller_batches
        from tickerforge.training.backends.sampling import sample, stratified

        config, sampling, adapter = job.config, job.config.sampling, job.adapter
        tokenizer = load_tokenizer(job.base_model, trust_remote_code=config.trust_remote_code)
        if adapter is not None:
            check_adapter(adapter)
        stamp = (adapter / "adapter_model.safetensors").stat().st_mtime_ns if adapter else 0
        model = _sampling_model(job.base_model, str(adapter) if adapter else None, stamp, config.trust_remote_code)
        texts = [tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True) for p in prompts]
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        longest = max(map(len, encoded), default=0)
        check_length(longest, answer=sampling.max_tokens, limit=config.max_seq_length)
        end, grammar = _ends(model, tokenizer), None
        if sampling.constrained and prompts:
            pattern = pattern_for(prompts, horizon=job.horizon, max_tokens=sampling.max_tokens)
            grammar = Grammar(pattern, tokenizer, vocabulary=model.get_output_embeddings().weight.shape[0], end=end)
        # Prompts of one length need no padding.
        order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
        answers: list[list[str]] = [[] for _ in encoded]
        done = 0

        def draw(size: int) -> None:
            nonlocal done
            while done < len(order):
                part = order[done : done + size]
                generators = (torch.Generator().manual_seed(prompt_seed(prompts[index], job.seed)) for index in part)
                drawn = sample(
                    model,
                    [encoded[index] for index in part],
                    torch.stack([stratified(job.answers, sampling.max_tokens, generator=one) for one in generators]),
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    end=end,
                    pad=tokenizer.pad_token_id,
                    grammar=grammar,
                )
                for index, group in zip(part, drawn, strict=True):
                    answers[index] = tokenizer.batch_decode(group, skip_special_tokens=True)
                done += len(part)
                if job.on_progress is not None:
                    job.on_progress(Progress(job.stage, done, len(texts)))

        batch = max(1, config.answers_at_a_time // job.answers)
        with_smaller_batches(draw, batch=batch, what=job.stage, cure=MEMORY_CURE)
        return answers

    def train_grpo(self, examples: Sequence[Example], *, job: TrainingJob) -> dict[str, float]:
        """GRPO by TRL, with rollouts by the configured vLLM server, if any; see `Backend.train_grpo`."""
        from tickerforge.training.backends import trl_, vllm_server

        job = replace(job, engine_arguments=vllm_server.rollout_arguments(job.config))
        return trl_.grpo(self._trainable(job), self._tokenizer(job), examples, job=job)

    def train_sft(self, accepted: pd.DataFrame, *, job: TrainingJob) -> dict[str, float]:
        """SFT by TRL; see `Backend.train_sft`."""
        from tickerforge.training.backends import trl_

        return trl_.sft(self._trainable(job), self._tokenizer(job), accepted, job=job)

    def _tokenizer(self, job: TrainingJob) -> Any:
        return load_tokenizer(job.base_model, trust_remote_code=job.config.trust_remote_code)

    def _trainable(self, job: TrainingJob) -> Any:
        from peft import LoraConfig, get_peft_model
        from transformers import set_seed

        set_seed(job.seed)
        model = load_base(job.base_model, trust_remote_code=job.config.trust_remote_code, dtype=gpu_dtype())
        if job.adapter is not None:
            return attach_adapter(model, job.adapter, trainable=True)
        lora = LoraConfig(
            r=job.config.lora_rank,
            lora_alpha=job.config.lora_rank,
            target_modules=LORA_TARGETS,
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, lora)
