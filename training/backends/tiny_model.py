"""The tiny base model's torch part: a Qwen3 of a few million parameters, one token per integer, and its training."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, Trainer, TrainingArguments, set_seed

from tickerforge.features.prompts import FULL_LINES, AnswerFormat, Chat
from tickerforge.features.units import CLIP
from tickerforge.training.backends.checkpoints import remove_checkpoints
from tickerforge.training.backends.loading import limit_threads, quieten
from tickerforge.training.backends.trl_ import on_one_gpu, train_resumably, trainer_arguments
from tickerforge.training.config import TinyConfig
from tickerforge.training.contracts import OnProgress

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PAD, UNKNOWN, START, END = "<|pad|>", "<|unk|>", "<|im_start|>", "<|im_end|>"
TAGS = ["<think>", "</think>", "<answer>", "</answer>"]
MAX_POSITIONS = 1024
FREQUENCIES = 24
MOST_VALUES = 60


def build_tokenizer(written: AnswerFormat = AnswerFormat()) -> PreTrainedTokenizerFast:
    """Make a tokenizer: one token per integer -300 ... 300, one per word of the prompt, one for the system prompt.

    White space separates tokens and is dropped, so answers look like `[1,2]`, which parses like `[1, 2]`. In the
    numbered style a label is one token, with the space before it and its colon.
    """
    labels = [label for label, _, _ in FULL_LINES]
    words = ["system", "user", "assistant", "prices", "forecast", *labels, "[", "]", ","]
    label = ""
    if written.style == "numbered":
        words += ["1:", *(f" {number}:" for number in range(2, MOST_VALUES + 1))]
        label = r" ?\d+:|"
    integers = [str(value) for value in range(-CLIP, CLIP + 1)]
    vocabulary = {token: index for index, token in enumerate([PAD, UNKNOWN, *integers, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(label + r"-?\d+|[A-Za-z_]+|[^\sA-Za-z0-9_]"), behavior="removed", invert=True
    )
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([START, END])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in [*TAGS, written.system_prompt]])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, eos_token=END, padding_side="left"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(config: TinyConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Make an untrained model whose embeddings of integers are smooth functions of their value."""
    heads = config.hidden_size // 32
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.hidden_size * 8 // 3 // 32 * 32,
            num_hidden_layers=config.layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=32,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        scale = float(weight.std())
        values = torch.arange(-CLIP, CLIP + 1, dtype=torch.float32)
        ids = tokenizer.convert_tokens_to_ids([str(int(value)) for value in values])
        weight[ids] = integer_features(values, width=config.hidden_size) * scale + 0.3 * weight[ids]
    return model


def integer_features(values: torch.Tensor, *, width: int) -> torch.Tensor:
    """Mix sines and cosines of integers (wavelengths from 4 to 2,400) at random into unit-variance features.

    Returns:
        Shape (values, width).
    """
    wavelengths = torch.logspace(math.log10(4.0), math.log10(8.0 * CLIP), FREQUENCIES)
    angles = 2 * math.pi * values[:, None] / wavelengths
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    mixed = waves @ torch.randn(waves.shape[1], width)
    return (mixed - mixed.mean(0)) / mixed.std()


class _Windows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __init__(self, ids: torch.Tensor, labels: torch.Tensor) -> None:
        self._ids, self._labels = ids, labels

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = self._ids[index]
        return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": self._labels[index]}


def _encode(tokenizer: Any, chats: Sequence[Chat], answers: Sequence[str]) -> _Windows:
    prompts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    prompt_lengths = [len(ids) for ids in tokenizer(prompts, add_special_tokens=False)["input_ids"]]
    texts = [prompt + answer + END for prompt, answer in zip(prompts, answers, strict=True)]
    ids = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")[
        "input_ids"
    ]
    positions = torch.arange(ids.shape[1])[None, :]
    is_answer = (positions >= torch.tensor(prompt_lengths)[:, None]) & (ids != tokenizer.pad_token_id)
    return _Windows(ids, torch.where(is_answer, ids, -100))


def build(
    chats: Sequence[Chat],
    answers: Sequence[str],
    *,
    written: AnswerFormat,
    config: TinyConfig,
    out_dir: Path,
    on_progress: OnProgress | None,
) -> dict[str, float]:
    """Train the tiny model on synthetic windows and save it as a Hugging Face folder; resumes from its checkpoints.

    Args:
        chats: Prompts of synthetic windows.
        answers: The true answer to each prompt.
        written: Their format.
        config: Size, steps and seed.
        out_dir: Folder of the model; holds checkpoints until it is finished.
        on_progress: Receives the metrics of each step.

    Returns:
        The metrics of the last step.
    """
    quieten()
    limit_threads(small=True)
    set_seed(config.seed)
    tokenizer = build_tokenizer(written)
    model = build_model(config, tokenizer)
    args = TrainingArguments(
        output_dir=str(out_dir),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(50, config.steps // 10),
        weight_decay=0.01,
        adam_beta2=0.98,
        seed=config.seed,
        data_seed=config.seed,
        remove_unused_columns=False,
        **trainer_arguments(save_steps=100),
    )
    trainer = Trainer(model=model, args=on_one_gpu(args), train_dataset=_encode(tokenizer, chats, answers))
    last = train_resumably(trainer, out_dir=out_dir, stage="base_model", guard=None, on_progress=on_progress)
    model.save_pretrained(out_dir, safe_serialization=True)
    tokenizer.save_pretrained(out_dir)
    (out_dir / "README.md").write_text(
        "A tiny Qwen3 that TickerForge trained on synthetic random-walk, mean-reverting and trending series.\n"
    )
    remove_checkpoints(out_dir)
    return last
