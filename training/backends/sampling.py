"""Token sampling that reads and stores each prompt once for all its answers.

`model.generate` reads and stores one copy of the prompt per answer. Here the answers to one prompt are one row of the
batch: at each step their tokens stand side by side, and a mask lets each see only the prompt and its own answer.
"""

import inspect
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tickerforge.training.backends.grammar import Grammar
from tickerforge.training.backends.prefix_sharing import SharedDecoder, shares_prefixes
from tickerforge.training.credit import half_of

# Each answer gets its own row when only this share of the answers is still running, or when a row holds this many
# tokens of answers: skipping the masked tokens of other answers then costs more than a copy of the prompt.
STRAGGLERS = 0.25
CROWDED = 1024
# Tokens per block when a token is drawn from a vocabulary of more than the square of this.
BLOCK = 64


def shares_prompts(model: Any) -> bool:
    """Return whether answers to one prompt can share a row: every layer must use SDPA with a full attention mask."""
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    windowed = getattr(config, "sliding_window", None) is not None and not hasattr(config, "layer_types")
    forward = inspect.signature(getattr(model, "get_base_model", lambda: model)().forward).parameters
    return (
        config._attn_implementation == "sdpa"
        and set(layers) == {"full_attention"}
        and not windowed
        and {"position_ids", "logits_to_keep"} <= forward.keys()
    )


@torch.no_grad()
def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    uniforms: torch.Tensor,
    *,
    temperature: float,
    end: Collection[int],
    pad: int,
    top_p: float = 1.0,
    grammar: Grammar | None = None,
) -> list[list[list[int]]]:
    """Draw answers to each prompt, all prompts in one batch.

    An answer depends only on its prompt and its random numbers, if the model computes the same numbers in every batch.

    Args:
        model: A causal language model, with or without adapters.
        prompts: Token ids of each prompt.
        uniforms: Random numbers, shape (prompts, answers per prompt, most tokens per answer, 2), in [0, 1); see
            `draw_tokens`.
        temperature: Divides the logits.
        end: Token ids that end an answer.
        pad: Token id that fills rows.
        top_p: Nucleus; 1 keeps the model's own distribution.
        grammar: Keeps the answers in their format.

    Returns:
        Token ids of the answers to each prompt, with the token that ended an answer.
    """
    n, longest = uniforms.shape[1:3]
    uniforms = uniforms.flatten(0, 1).to(model.device)
    batch: _Batch | SharedDecoder
    if shares_prompts(model) and shares_prefixes(model):
        batch = SharedDecoder(model, prompts, answers=n, longest=longest)
    else:
        batch = _Batch(model, prompts, answers=n, pad=pad)
    drawn = torch.full((len(uniforms), longest), pad, device=model.device)
    ending = torch.tensor(sorted(end), device=model.device)
    running = torch.ones(len(uniforms), dtype=torch.bool, device=model.device)
    which = torch.arange(len(uniforms), device=model.device)
    states = grammar.begin(len(uniforms)) if grammar else []
    for step in range(longest):
        logits = grammar.mask(batch.logits, states) if grammar else batch.logits
        token = draw_tokens(logits, uniforms[which, step], temperature=temperature, top_p=top_p)
        token = token.where(running, pad)
        if grammar:
            grammar.accept(states, token)
        drawn[which, step] = token
        running = running & ~torch.isin(token, ending)
        if step + 1 == longest or not running.any():
            break
        kept = batch.shrink(running)
        if kept is not None:
            states = [states[place] for place in kept.tolist()] if grammar else []
            which, token, running = which[kept], token[kept], running[kept]
        batch.advance(token)
    texts = [_cut(row, ending=set(end)) for row in drawn.tolist()]
    return [texts[start : start + n] for start in range(0, len(texts), n)]


def in_halves(answers: int, tokens: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
    """Draw the random numbers of the answers to one prompt in two independent halves, each `stratified`.

    The halves are those of `training.credit.half_of`, which compares answers with independent ones.

    Returns:
        Shape (answers, tokens, 2).
    """
    sizes = np.bincount(half_of(answers), minlength=2).tolist()
    return torch.cat([stratified(size, tokens, generator=generator) for size in sizes])


def stratified(answers: int, tokens: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
    """Draw the random numbers of the answers to one prompt: evenly spread over the answers at each token, and in pairs.

    A Latin hypercube (McKay, Beckman and Conover 1979, Technometrics 21): at each token, each n-th of the unit interval
    contains the number of one answer, in a new random order. Answers come in mirrored pairs: the second of a pair has
    1 - u for u (antithetic variates, Hammersley and Morton 1956, Math. Proc. Camb. Phil. Soc. 52). So if the model's
    distribution is symmetric, the median of the answers is the model's median, whichever numbers were drawn. The
    distribution of each single answer does not change. With an odd number of answers, the last one is independent.

    Args:
        answers: Number of answers, n.
        tokens: Most tokens per answer.
        generator: Source of the numbers; default: torch's global generator.

    Returns:
        Shape (answers, tokens, 2), for `sample`, in double precision (in single precision, rounding could give 1). The
        second numbers are mirrored in the same way, but otherwise independent.
    """
    pairs = answers // 2
    # Above 0, because its mirror image is 1.
    drawn = torch.rand(answers, tokens, 4, generator=generator).double().clamp(min=2.0**-25)
    first, alone = drawn[:pairs], drawn[2 * pairs :, :, :2]
    place = first[..., 2].argsort(dim=0)
    place = torch.where(first[..., 3] < 0.5, place, 2 * pairs - 1 - place)
    numbers = torch.stack([(place + first[..., 0]) / max(2 * pairs, 1), first[..., 1]], dim=-1)
    return torch.cat([numbers, 1 - numbers, alone])


def _cut(ids: list[int], *, ending: set[int]) -> list[int]:
    return next((ids[: i + 1] for i, token in enumerate(ids) if token in ending), ids)


def draw_tokens(logits: torch.Tensor, uniforms: torch.Tensor, *, temperature: float, top_p: float) -> torch.Tensor:
    """Draw one token per row by nucleus sampling with given random numbers (inverse of the distribution function).

    The tokens stand on the unit interval in the order of the vocabulary, so a rounding difference hardly ever changes
    the choice. A token is drawn from the whole distribution, and a second time only if it lies outside the nucleus
    (one row in fifty at `top_p` 0.98). The other rows need no sort of the vocabulary.

    Args:
        logits: Shape (rows, vocabulary).
        uniforms: Shape (rows, 2), in [0, 1): for the first and for the second draw.
        temperature: Divides the logits.
        top_p: The nucleus is the smallest set of the most likely tokens with this total probability, plus the tokens
            that are as likely as its last one.

    Returns:
        Token ids, shape (rows,).
    """
    shares = (logits.float() / temperature).softmax(-1)
    token = _invert(shares, uniforms[:, 0])
    if top_p < 1:
        likelier = shares.where(shares > shares.gather(-1, token[:, None]), 0.0).sum(-1)
        outside = (likelier >= top_p).nonzero()[:, 0]
        if len(outside):
            again = shares[outside]
            ranked = again.sort(descending=True).values
            last = (ranked.cumsum(-1) < top_p).sum(-1, keepdim=True).clamp(max=again.shape[-1] - 1)
            token[outside] = _invert(again.where(again >= ranked.gather(-1, last), 0.0), uniforms[outside, 1])
    return token


def _invert(shares: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Return, per row, the token at which the sum of the shares passes a part of their total; shape (rows,)."""
    if shares.shape[-1] <= BLOCK**2:
        return _passed(shares.double().cumsum(-1), uniforms)
    # First the block of tokens, then the token: a sum over each block is much faster than one after every token.
    blocks = F.pad(shares, (0, -shares.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
    upper = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    block = _passed(upper, uniforms)
    rows = torch.arange(len(block), device=block.device)
    inside = blocks[rows, block].double().cumsum(-1)
    before = F.pad(upper, (1, 0))[rows, block]
    wanted = (uniforms * upper[:, -1] - before)[:, None]
    token = torch.searchsorted(inside, wanted, right=True)[:, 0].clamp(max=BLOCK - 1)
    # Rounding must not choose a token without a share behind the last one that has a share.
    last = BLOCK - 1 - (blocks[rows, block] > 0).int().flip(-1).argmax(-1)
    return block * BLOCK + token.minimum(last)


def _passed(upper: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    drawn = uniforms[:, None] * upper[:, -1:]
    return torch.searchsorted(upper, drawn, right=True).clamp(max=upper.shape[-1] - 1)[:, 0]


class _Batch:
    """The prompts and started answers that a model has read (its cache), and its logits for the next tokens.

    Attributes:
        logits: Shape (answers in the batch, vocabulary); answers to the same prompt are adjacent.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], *, answers: int, pad: int) -> None:
        length = max(map(len, prompts))
        ids = torch.tensor([[pad] * (length - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
        seen = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=model.device)
        self._model = model
        self._width = answers if answers > 1 and shares_prompts(model) else 1
        self._length, self._steps = length, 0
        out = model(
            input_ids=ids,
            attention_mask=seen,
            position_ids=(seen.cumsum(-1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        self.logits = out.logits[:, -1].repeat_interleave(answers, 0)
        self._cache = out.past_key_values
        self._next = seen.sum(-1).repeat_interleave(answers)
        if self._width == 1:
            self._cache.batch_repeat_interleave(answers)
            self._mask = seen.repeat_interleave(answers, 0)
        else:
            self._mask = seen.bool()[:, None, None].expand(-1, 1, answers, -1)

    def advance(self, token: torch.Tensor) -> None:
        """Read the next token of each answer; shape (answers,)."""
        if self._width == 1:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(token), 1)], -1)
        else:
            own = torch.eye(self._width, dtype=torch.bool, device=token.device)
            self._mask = torch.cat([self._mask, own.expand(len(self._mask), 1, -1, -1)], -1)
        out = self._model(
            input_ids=token.view(-1, self._width),
            attention_mask=self._mask,
            position_ids=self._next.view(-1, self._width),
            past_key_values=self._cache,
            use_cache=True,
        )
        self.logits = out.logits.flatten(0, 1)
        self._next = self._next + 1
        self._steps += 1

    def shrink(self, running: torch.Tensor) -> torch.Tensor | None:
        """Continue with the running answers only, each in its own row, if that pays; return which they are."""
        crowded = self._width > 1 and self._width * self._steps >= CROWDED
        if int(running.sum()) > STRAGGLERS * len(running) and not crowded:
            return None
        which = running.nonzero()[:, 0]
        if self._width == 1:
            self._cache.batch_select_indices(which)
            self._mask = self._mask[which]
        else:
            for layer in self._cache.layers:
                layer.keys, layer.values = self._own_row(layer.keys, which), self._own_row(layer.values, which)
            seen = self._mask[which // self._width, 0, 0, : self._length].long()
            self._mask = torch.cat([seen, seen.new_ones(len(which), self._steps)], -1)
        self._width = 1
        self._next = self._next[which]
        return which

    def _own_row(self, states: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        prompt, answers = states[:, :, : self._length], states[:, :, self._length :]
        answers = answers.unflatten(2, (self._steps, self._width)).permute(0, 3, 1, 2, 4).flatten(0, 1)
        return torch.cat([prompt[which // self._width], answers[which]], 2)
