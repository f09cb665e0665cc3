"""The backend for one GPU: Unsloth (quantised base model, fused kernels), vLLM for sampling, TRL's trainers."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from tickerforge.training.backends.availability import gpu_name
from tickerforge.training.backends.base import TrainingJob
from tickerforge.training.backends.loading import LORA_TARGETS, check_rank, context_length
from tickerforge.training.contracts import ADAPTER_WEIGHTS_FILE, Example
from tickerforge.training.errors import AdapterError, BackendUnavailable, BaseModelError


class UnslothBackend:
    """Trains with the same settings as the transformers backend, on a model that Unsloth loads and patches.

    Without a GPU, Unsloth patches nothing, and the base model is neither quantised nor shared with vLLM.
    """

    name = "unsloth"

    def train_grpo(self, examples: Sequence[Example], *, job: TrainingJob) -> dict[str, float]:
        """Train by GRPO; a vLLM engine that shares the model's weights draws the answers. See `Backend.train_grpo`.

        Raises:
            BackendUnavailable: Unsloth loads the model without vLLM, which it does on some GPUs and for some models.
        """
        on_gpu = gpu_name() is not None
        model, tokenizer = _load(job, fast_inference=on_gpu)
        if on_gpu and not hasattr(model, "vllm_engine"):
            # `sampling.sample` fails on Unsloth's model, whose cache and attention mask are others.
            raise BackendUnavailable(
                "unsloth cannot draw GRPO's answers by vLLM here: its vLLM needs a GPU of compute capability 7.0 or "
                "higher, but not a DGX Spark, and a model type that it supports. Use --backend transformers"
            )
        from tickerforge.training.backends import trl_

        engine = {"use_vllm": True, "vllm_mode": "colocate"} if on_gpu else {}
        return trl_.grpo(model, tokenizer, examples, job=replace(job, engine_arguments=engine))

    def train_sft(self, accepted: pd.DataFrame, *, job: TrainingJob) -> dict[str, float]:
        """Fine-tune on accepted answers; see `Backend.train_sft`."""
        model, tokenizer = _load(job, fast_inference=False)
        from tickerforge.training.backends import trl_

        return trl_.sft(model, tokenizer, accepted, job=job)


def _load(job: TrainingJob, *, fast_inference: bool) -> tuple[Any, Any]:
    early = {"trl", "transformers", "peft"} & set(sys.modules)
    if early and "unsloth" not in sys.modules:
        raise BackendUnavailable(
            f"unsloth must be imported before {', '.join(sorted(early))}, which this process has imported already: "
            "use tickerforge.training.stages, which trains in a separate process"
        )
    if gpu_name() is None:
        # Unsloth's CPU backend does not use vLLM, but loads its libraries, and those for other CPUs end the process.
        sys.modules.setdefault("vllm", None)  # type: ignore[arg-type]
    from unsloth import FastLanguageModel

    config = job.config
    # Imports transformers, so not before unsloth.
    context = context_length(job.base_model, config=config)
    try:
        model, tokenizer = FastLanguageModel.from_pretrained(
            model_name=job.base_model,
            max_seq_length=context,
            # On a CPU, TRL would train and save the adapter of a quantised model in bfloat16.
            load_in_4bit=config.load_in_4bit and gpu_name() is not None,
            # Otherwise in bfloat16 on a processor that has it, unlike the transformers backend.
            dtype="float32" if gpu_name() is None else None,
            # Otherwise Unsloth loads a quantised copy from another repository, and the adapter names that as its base.
            use_exact_model_name=True,
            fast_inference=fast_inference,
            max_lora_rank=config.lora_rank,
            gpu_memory_utilization=config.gpu_memory_utilization,
            trust_remote_code=config.trust_remote_code,
            random_state=job.seed,
        )
    except (OSError, ValueError, NotImplementedError, ImportError) as error:
        raise BaseModelError(f"unsloth cannot load the base model {job.base_model!r}: {error}") from error
    if tokenizer.chat_template is None:
        raise BaseModelError(f"{job.base_model} has no chat template: choose an instruction-tuned model")
    model = FastLanguageModel.get_peft_model(
        model,
        r=config.lora_rank,
        lora_alpha=config.lora_rank,
        target_modules=LORA_TARGETS,
        use_gradient_checkpointing="unsloth" if config.gradient_checkpointing else False,
        random_state=job.seed,
    )
    if job.adapter is not None:
        check_rank(job.adapter, rank=config.lora_rank)
        _load_weights(model, job.adapter)
    return model, tokenizer


def _load_weights(model: Any, adapter: Path) -> None:
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    outcome = set_peft_model_state_dict(model, load_file(adapter / ADAPTER_WEIGHTS_FILE))
    if outcome.unexpected_keys:
        raise AdapterError(
            f"the adapter in {adapter} does not fit this base model: it holds {outcome.unexpected_keys[0]}, which is "
            "not in the model"
        )
