"""TRL's GRPO trainer, changed to read each prompt of a step once instead of once per answer."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from trl import GRPOTrainer
from trl.models.utils import unwrap_model_for_generation
from trl.trainer.utils import RepeatSampler, selective_log_softmax_and_entropy

from tickerforge.training.backends.loading import SMALL_MODEL
from tickerforge.training.backends.memory import MEMORY_CURE, with_smaller_batches
from tickerforge.training.backends.prefix_sharing import SharedTexts, attending, shares_prefixes
from tickerforge.training.backends.sampling import in_halves, sample, shares_prompts

MOST_ATTENTION = 4
"""Most attention (tokens squared) that packing may cost, as a multiple of that of unpacked answers."""
REFERENCE = "ref"
"""TRL's name for the adapter that a stage starts from, which it keeps beside the adapter that learns."""


class ResumableSampler(RepeatSampler):
    """TRL's sampler, but the order of each pass over the prompts does not depend on the passes before it.

    TRL's own continues from the generator's state after the earlier passes, which a resumed process does not have.
    """

    def set_epoch(self, epoch: int) -> None:
        """Seed the order of a pass; the trainer calls this before each pass."""
        self.generator.manual_seed(self.seed + epoch)


class GroupedGRPOTrainer(GRPOTrainer):
    """Samples and learns the same as TRL's trainer, except for rounding, but faster. Unchanged when vLLM samples.

    A step of 8 prompts with 8 answers each reads 8 prompts and 64 answers; TRL reads 64 prompts and 64 answers.
    """

    _buffered_inputs: Any

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save without TRL's copy of the first adapter (the reference of the KL term), which each start makes again.

        If a checkpoint held two adapters, transformers would resume only the second and train the first from the start.
        """
        super()._save(output_dir, state_dict)
        shutil.rmtree(Path(output_dir or self.args.output_dir) / REFERENCE, ignore_errors=True)

    def _get_train_sampler(self, dataset: Any = None) -> ResumableSampler:
        drawn = super()._get_train_sampler(dataset)
        names = ("data_source", "mini_repeat_count", "batch_size", "repeat_count", "shuffle", "seed")
        return ResumableSampler(**{name: getattr(drawn, name) for name in names})

    def _prepare_inputs(self, generation_batch: dict[str, Any]) -> dict[str, Any]:
        before = self._buffered_inputs
        inputs: dict[str, Any] = super()._prepare_inputs(generation_batch)
        batches = self._buffered_inputs
        if batches is before or len(batches) == 1 or not shares_prefixes(self.accelerator.unwrap_model(self.model)):
            return inputs
        # TRL shuffles the answers of a step over its parts. A part with all answers to few prompts reads less.
        self._buffered_inputs = by_prompt(batches)
        part: dict[str, Any] = self._buffered_inputs[self._step % len(batches)]
        return part

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any, num_generations: int, **options: Any
    ) -> tuple[list[list[int]], Any]:
        groups = prompt_ids[::num_generations]
        grouped = prompt_ids == [prompt for prompt in groups for _ in range(num_generations)]
        if self.use_vllm or not grouped:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, **options)
        # From torch's global generator, whose state is in each checkpoint, so a resumed run draws the same numbers.
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
        """Return log-probability and entropy of each token of the answers, shape (answers, tokens).

        The answers to one prompt follow it in one row, under a mask that hides them from each other.
        """
        plain = not any(value is not None and value is not False for value in options.values())
        if plain and batch_size is not None and len(input_ids) > batch_size:
            # Calls without a gradient (for the reference) pass all answers of the step at once.
            parts = [
                self._full_logits_logps(model, ids, seen, logits_to_keep, None, compute_entropy)
                for ids, seen in zip(input_ids.split(batch_size), attention_mask.split(batch_size), strict=True)
            ]
            entropies = [part[1] for part in parts if part[1] is not None]
            return torch.cat([part[0] for part in parts]), torch.cat(entropies) if entropies else None, None
        bare = self.accelerator.unwrap_model(model)
        packed = None
        if plain and not self.use_vllm and shares_prompts(bare):
            if shares_prefixes(bare):
                return self._shared_logps(model, input_ids, attention_mask, logits_to_keep, compute_entropy)
            packed = pack(input_ids, attention_mask, answer_length=logits_to_keep, pad=self._tokenizer.pad_token_id)
        if packed is None:
            return super()._full_logits_logps(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **options
            )
        place, inputs, answers, seen = packed
        logits = model(**inputs, use_cache=False).logits.view(*answers.shape, -1)
        logps, entropies = selective_log_softmax_and_entropy(
            logits, answers, self._entropy_bonus_enabled, temperature=self.temperature, row_mask=seen
        )
        return logps[place], entropies[place] if compute_entropy else None, None

    def _shared_logps(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        answer_length: int,
        compute_entropy: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """Return what `_full_logits_logps` does; nothing is read twice, and no padding at all."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, (ids, seen) in enumerate(zip(input_ids, attention_mask.bool(), strict=True)):
            groups.setdefault(tuple(ids[:-answer_length][seen[:-answer_length]].tolist()), []).append(row)
        lengths = attention_mask[:, -answer_length:].sum(1).tolist()
        answers = input_ids[:, -answer_length:].tolist()
        # Nothing follows the last token of an answer, so the model need not read it.
        read = [[answers[row][: max(lengths[row] - 1, 0)] for row in rows] for rows in groups.values()]
        texts = SharedTexts(list(groups), read, device=input_ids.device)
        order = [row for rows in groups.values() for row in rows]
        # The prompt's last token predicts an answer's first token; each other token is predicted by the one before it.
        ends = texts.prompt_ends.repeat_interleave(torch.tensor([len(rows) for rows in groups.values()])).tolist()
        before = [
            [end, *range(start, start + lengths[row])][: lengths[row]]
            for end, start, row in zip(ends, texts.answer_starts.tolist(), order, strict=True)
        ]
        with attending(self.accelerator.unwrap_model(model), texts):
            logits = model(
                input_ids=texts.ids,
                position_ids=texts.positions,
                use_cache=False,
                logits_to_keep=torch.tensor([index for each in before for index in each], device=input_ids.device),
            ).logits[0]
        rows = torch.tensor([row for row in order for _ in range(lengths[row])], device=input_ids.device)
        columns = torch.tensor([token for row in order for token in range(lengths[row])], device=input_ids.device)
        targets = input_ids[:, -answer_length:][rows, columns]
        logps, entropies = selective_log_softmax_and_entropy(
            logits, targets, self._entropy_bonus_enabled, temperature=self.temperature
        )
        empty = logps.new_zeros(len(input_ids), answer_length)
        places = (rows, columns)
        return empty.index_put(places, logps), empty.index_put(places, entropies) if compute_entropy else None, None


def by_prompt(batches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the answers in the same number of equal batches, grouped by prompt."""
    rows = torch.cat([batch["prompt_ids"] for batch in batches])
    order = rows.unique(dim=0, return_inverse=True)[1].argsort(stable=True).chunk(len(batches))

    def part(name: str, value: Any, chosen: torch.Tensor) -> Any:
        if isinstance(value, torch.Tensor) and value.ndim:
            return torch.cat([batch[name] for batch in batches])[chosen]
        if isinstance(value, list):
            whole = [each for batch in batches for each in batch[name]]
            return [whole[index] for index in chosen.tolist()]
        return value

    return [{name: part(name, value, chosen) for name, value in batches[0].items()} for chosen in order]


def pack(
    ids: torch.Tensor, seen: torch.Tensor, *, answer_length: int, pad: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor, torch.Tensor] | None:
    """Put the answers to the same prompt into one row, after the prompt.

    Args:
        ids: Prompts, padded on the left, and answers, padded on the right; shape (answers, prompt + answer).
        seen: Their attention mask, same shape.
        answer_length: Tokens per answer, with padding.
        pad: Token id that fills a row whose prompt has fewer answers than another.

    Returns:
        The position of each answer among the packed ones; the arguments to call the model with (its logits are then
        those of the packed answers' tokens); the packed answers and their mask, each of shape (packed answers,
        answer_length). `None` if packing would not be faster.
    """
    count, length = ids.shape
    start = length - answer_length
    prompts = ids[:, :start].masked_fill(seen[:, :start] == 0, -1)
    distinct, row = prompts.unique(dim=0, return_inverse=True)
    slot = (row[:, None] == row[None]).tril(-1).sum(-1)
    rows, width = len(distinct), int(slot.max()) + 1
    packed = start + width * answer_length
    # Attention grows with the square of a row's length: long answers to short prompts are faster in separate rows.
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
    # Padding sees itself, so no row of the softmax is empty.
    itself = torch.eye(len(owner), dtype=torch.bool, device=ids.device)
    # The prompt's last token predicts an answer's first token; each other token is predicted by the one before it.
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
    """Merge the LoRA of a float32 model into its weights for a while, and restore the exact weights afterwards.

    Unmerging subtracts what merging added, which leaves a rounding error, so the weights are copied and put back. On a
    GPU a large model is not merged, because the copy needs memory. A bfloat16 model is not merged either, because
    rounding would make the merged policy differ from the policy that is trained.
    """
    adapted = {name: weight for name, weight in model.named_parameters() if name.endswith("base_layer.weight")}
    scarce = model.device.type != "cpu" and model.num_parameters() >= SMALL_MODEL
    if scarce or any(w.dtype != torch.float32 for w in adapted.values()):
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
