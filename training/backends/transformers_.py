"""The backend that runs on every machine: transformers, PEFT and TRL."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from tickerforge.features.prompts import Chat
from tickerforge.training.backends.base import OneKept, SamplingJob, TrainingJob, prompt_seed
from tickerforge.training.backends.loading import (
    attach_adapter,
    check_adapter_files,
    check_length,
    context_length,
    load_base,
    load_tokenizer,
    load_trainable,
)
from tickerforge.training.contracts import ADAPTER_WEIGHTS_FILE, Example, Progress


@OneKept
def _sampling_model(base_model: str, adapter: str | None, adapter_stamp: int, trust_remote_code: bool) -> Any:
    model = load_base(base_model, trust_remote_code=trust_remote_code)
    if adapter is not None:
        model = attach_adapter(model, Path(adapter), trainable=False).merge_and_unload()
    return model.eval()


def _ends(model: Any, tokenizer: Any) -> set[int]:
    ends = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}


class TransformersBackend:
    """Samples with `backends.sampling` and trains with TRL."""

    name = "transformers"

    def generate(self, prompts: Sequence[Chat], *, job: SamplingJob) -> list[list[str]]:
        """Draw answers to each prompt; the adapter is merged into the weights.

        The random numbers of a prompt depend only on the seed and the prompt. Its answers therefore do not depend on
        the other prompts, if the model computes the same numbers in every batch. In float32 on a CPU it does, except
        for a rounding difference at the border between two tokens. In bfloat16 on a GPU rounding depends on the batch
        and changes some answers.

        Raises:
            AdapterError: The adapter cannot be read.
            TrainingError: The answers of a single prompt do not fit into memory.
            BackendUnavailable: `sampling.constrained` is set and xgrammar is not installed.
            BaseModelError: The base model cannot be read, or a prompt is longer than configured.
        """
        import torch

        from tickerforge.training.backends.grammar import Grammar, pattern_for
        from tickerforge.training.backends.memory import MEMORY_CURE, with_smaller_batches
        from tickerforge.training.backends.sampling import sample, stratified

        config, sampling, adapter = job.config, job.config.sampling, job.adapter
        tokenizer = _tokenizer(job)
        if adapter is not None:
            check_adapter_files(adapter)
        stamp = (adapter / ADAPTER_WEIGHTS_FILE).stat().st_mtime_ns if adapter else 0
        model = _sampling_model(job.base_model, str(adapter) if adapter else None, stamp, config.trust_remote_code)
        texts = [tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True) for p in prompts]
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        longest = max(map(len, encoded), default=0)
        limit = context_length(job.base_model, config=config)
        check_length(longest, answer=sampling.max_tokens, limit=limit)
        end, grammar = _ends(model, tokenizer), None
        if sampling.constrained and prompts:
            pattern = pattern_for(prompts, horizon=job.horizon, max_tokens=sampling.max_tokens)
            grammar = Grammar(pattern, tokenizer, vocabulary=model.get_output_embeddings().weight.shape[0], end=end)
        # Prompts of the same length in one batch need no padding.
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
                if job.on_drawn is not None:
                    drawn_ids = [ids for group in drawn for ids in group]
                    job.on_drawn([len(ids) for ids in drawn_ids], sum(ids[-1] not in end for ids in drawn_ids))
                if job.on_progress is not None:
                    job.on_progress(Progress(job.stage, done, len(texts)))

        batch = max(1, config.answers_at_a_time // job.answers)
        with_smaller_batches(draw, batch=batch, what=job.stage, cure=MEMORY_CURE)
        return answers

    def train_grpo(self, examples: Sequence[Example], *, job: TrainingJob) -> dict[str, float]:
        """Train by GRPO with TRL; the configured vLLM server, if any, draws the answers. See `Backend.train_grpo`."""
        from tickerforge.training.backends import trl_, vllm_

        job = replace(job, engine_arguments=vllm_.rollout_arguments(job.config))
        return trl_.grpo(load_trainable(job), _tokenizer(job), examples, job=job)

    def train_sft(self, accepted: pd.DataFrame, *, job: TrainingJob) -> dict[str, float]:
        """Fine-tune with TRL; see `Backend.train_sft`."""
        from tickerforge.training.backends import trl_

        return trl_.sft(load_trainable(job), _tokenizer(job), accepted, job=job)


def _tokenizer(job: SamplingJob | TrainingJob) -> Any:
    return load_tokenizer(job.base_model, trust_remote_code=job.config.trust_remote_code)
