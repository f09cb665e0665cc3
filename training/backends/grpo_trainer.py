"""TRL's GRPO trainer, with each prompt of a step read once instead of once an answer: in rollouts and in training."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from trl import GRPOTrainer
from trl.models.utils import unwrap_model_for_generation
from trl.trainer.utils import RepeatSampler, selective_log_softmax_and_entropy

from tickerforge.training.backends.loading import SMALL_MODEL
from tickerforge.training.backends.memory import MEMORY_CURE, with_smaller_batches
from tickerforge.training.backends.sampling import in_halves, sample, shares_prompts

MOST_ATTENTION = 4
REFERENCE = "ref"
"""TRL's name for the adapter that a stage begins with, which it keeps beside the one that learns."""


class ResumableSampler(RepeatSampler):
    """TRL's sampler with an order of its own for each pass over the prompts, whichever passes went before.

    TRL's goes on from the generator's state after the passes before, which a resumed process has not made.
    """

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of a pass; the trainer calls it before each."""
        self.generator.manual_seed(self.seed + epoch)


class GroupedGRPOTrainer(GRPOTrainer):
    """Samples and trains on what TRL's trainer does, but for rounding; leaves all to it where vLLM draws the rollouts.

    A step of 8 prompts with 8 answers each reads 8 prompts and 64 answers, where TRL reads 64 of both.
    """

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save without TRL's copy of the first adapter, the reference of the divergence: it is made anew at each start.

        Where a checkpoint holds a second adapter, transformers resumes from that alone and trains on from the start.
        """
        super()._save(output_dir, state_dict)
        shutil.rmtree(Path(output_dir or self.args.output_dir) / REFERENCE, ignore_errors=True)

    def _get_train_sampler(self, dataset: Any = None) -> ResumableSampler:
        drawn = super()._get_train_sampler(dataset)
        names = ("data_source", "mini_repeat_count", "batch_size", "repeat_count", "shuffle", "seed")
        return ResumableSampler(**{name: getattr(drawn, name) for name in names})

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any, num_generations: int, **options: Any
    ) -> tuple[list[list[int]], Any]:
        groups = prompt_ids[::num_generations]
        grouped = prompt_ids == [prompt for prompt in groups for _ in range(num_generations)]
        if self.use_vllm or not grouped:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, **options)
        # From torch's own generator, whose state is in each checkpoint: a resumed run draws what it would have drawn.
        uniforms = torch.stack([in_halves(num_generations, self.max_completion_length) for _ in groups])
        answers: list[list[list[int]]] = []

        def draw(size: int) -> None:
            while (done := len(answers)) < len(groups):
                part = slice(done, done + size)
                answers.extend(
                    sample(
                        model,
                        groups[part],
                        uniforms[part],
                        temperature=self.temperature,
                        end=self.eos_token_ids,
                        pad=self._tokenizer.pad_token_id,
                    )
                )

        rounded = self.args.bf16 or self.args.fp16
        with (
            unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model,
            nullcontext() if rounded else merged(model),
        ):
            with_smaller_batches(draw, batch=len(groups), what="sampling answers", cure=MEMORY_CURE)
        return [ids for group in answers for ids in group], None

    def _full_logits_logps(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **options: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Log-probability and entropy of each token of the answers, shape (answers, tokens).

        The answers to one prompt stand behind it in one row, under a mask that hides them from each other.
        """
        plain = not any(value is not None and value is not False for value in options.values())
        if plain and batch_size is not None and len(input_ids) > batch_size:
            # Without a gradient, as for the reference: the step's answers come all at once.
            parts = [
                self._full_logits_logps(model, ids, seen, logits_to_keep, None, compute_entropy)
                for ids, seen in zip(input_ids.split(batch_size), attention_mask.split(batch_size), strict=True)
            ]
            entropies = [part[1] for part in parts if part[1] is not None]
            return torch.cat([part[0] for part in parts]), torch.cat(entropies) if entropies else None, None
        packed = None
        if plain and not self.use_vllm:
            packed = pack(input_ids, attention_mask, answer_length=logits_to_keep, pad=self._tokenizer.pad_token_id)
        if packed is None or not shares_prompts(self.accelerator.unwrap_model(model)):
            return super()._full_logits_logps(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **options
            )
        place, inputs, answers, seen = packed
        logits = model(**inputs, use_cache=False).logits.view(*answers.shape, -1)
        logps, entropies = selective_log_softmax_and_entropy(
            logits, answers, self._entropy_bonus_enabled, temperature=self.temperature, row_mask=seen
        )
        return logps[place], entropies[place] if compute_entropy else None, None


def pack(
    ids: torch.Tensor, seen: torch.Tensor, *, answer_length: int, pad: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor, torch.Tensor] | None:
    """Put answers to the same prompt into one row, behind the prompt.

    Args:
        ids: Prompts, padded on the left, and answers, padded on the right; shape (answers, prompt + answer).
        seen: Their attention mask, same shape.
        answer_length: Tokens of an answer, with padding.
        pad: Token id that fills up where a prompt has fewer answers than another.

    Returns:
        Where each answer is among the packed ones, what the model is to be called with (its logits are then those of
        the packed answers' tokens), the packed answers and their mask, each of shape (packed answers, answer_length);
        `None` where there is nothing to gain.
    """
    count, length = ids.shape
    start = length - answer_length
    prompts = ids[:, :start].masked_fill(seen[:, :start] == 0, -1)
    distinct, row = prompts.unique(dim=0, return_inverse=True)
    slot = (row[:, None] == row[None]).tril(-1).sum(-1)
    rows, width = len(distinct), int(slot.max()) + 1
    packed = start + width * answer_length
    # Attention grows with the square of a row: long answers to short prompts are better off in rows of their own.
    if rows * packed >= count * length or rows * packed**2 > MOST_ATTENTION * count * length**2:
        return None
    place = row * width + slot
    answers = ids.new_full((rows * width, answer_length), pad)
    answers[place] = ids[:, start:]
    answers_seen = seen.new_zeros(answers.shape)
    answers_seen[place] = seen[:, start:]

    prompt_seen = distinct >= 0
    own = torch.arange(answer_length, device=ids.device)
    positions = torch.cat(
        [(prompt_seen.cumsum(-1) - 1).clamp(min=0), prompt_seen.sum(-1, keepdim=True) + own.repeat(width)[None]], -1
    )
    owner = torch.arange(width, device=ids.device).repeat_interleave(answer_length)
    owner = torch.cat([owner.new_full((start,), -1), owner])
    visible = ((owner[None] == -1) | (owner[:, None] == owner[None])).tril()
    keys = torch.cat([prompt_seen, answers_seen.view(rows, -1).bool()], -1)
    # Padding sees itself, so that no row of the softmax is empty.
    itself = torch.eye(len(owner), dtype=torch.bool, device=ids.device)
    # What foretells an answer's first token is the prompt's last; what foretells any other, the one before.
    before = start + answer_length * torch.arange(width, device=ids.device)[:, None] + own[None] - 1
    before[:, 0] = start - 1
    inputs = {
        "input_ids": torch.cat([distinct.masked_fill(~prompt_seen, pad), answers.view(rows, -1)], -1),
        "attention_mask": ((visible[None] & keys[:, None]) | itself)[:, None],
        "position_ids": positions,
        "logits_to_keep": before.flatten(),
    }
    return place, inputs, answers, answers_seen


@contextmanager
def merged(model: Any) -> Iterator[None]:
    """A small float32 model with its LoRA merged into the weights, which are the very same afterwards.

    Unmerging subtracts what merging added and leaves a rounding error in the weights: they are therefore put back.
    Larger models stay as they are: they would need memory for a second copy. Not for bfloat16, where the merged policy
    is another one than the one that trains.
    """
    adapted = {name: weight for name, weight in model.named_parameters() if name.endswith("base_layer.weight")}
    if model.num_parameters() >= SMALL_MODEL or any(w.dtype != torch.float32 for w in adapted.values()):
        yield
        return
    kept = {name: weight.detach().clone() for name, weight in adapted.items()}
    model.merge_adapter()
    try:
        yield
    finally:
        model.unmerge_adapter()
        with torch.no_grad():
            for name, weight in adapted.items():
                weight.copy_(kept[name])
