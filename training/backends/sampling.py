"""Drawing tokens: a prompt is read once, and kept once, for all the answers to it.

`model.generate` reads and keeps a copy of the prompt for every answer. Here the answers to one prompt are one row of
the batch: at each step its tokens stand side by side, and a mask lets each see the prompt and its own answer only.
"""

import inspect
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch

from tickerforge.training.backends.grammar import Grammar
from tickerforge.training.credit import half_of

# Answers get a row each once so few of them go on, or once so many tokens of other answers lie masked in a row: passing
# over those then costs more than a copy of the prompt.
STRAGGLERS = 0.25
CROWDED = 1024


def shares_prompts(model: Any) -> bool:
    """Whether answers to one prompt can stand in one row: every layer attends to all that a mask shows it, by SDPA."""
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

    Which numbers are behind an answer depends on its prompt alone, and so does the answer, as far as the model computes
    the same in every batch.

    Args:
        model: A causal language model, with or without adapters.
        prompts: Token ids of each prompt.
        uniforms: Shape (prompts, answers to each, most tokens in an answer, 2), within [0, 1): see `choose`.
        temperature: Divides the logits.
        end: Token ids that end an answer.
        pad: Token id that fills rows up.
        top_p: Nucleus; 1 leaves the model's own distribution.
        grammar: Holds the answers to their format.

    Returns:
        Token ids of the answers to each prompt; an answer that ended keeps the token that ended it.
    """
    n, longest = uniforms.shape[1:3]
    uniforms = uniforms.flatten(0, 1).to(model.device)
    batch = _Batch(model, prompts, answers=n, pad=pad)
    drawn = torch.full((len(uniforms), longest), pad, device=model.device)
    ending = torch.tensor(sorted(end), device=model.device)
    running = torch.ones(len(uniforms), dtype=torch.bool, device=model.device)
    which = torch.arange(len(uniforms), device=model.device)
    states = grammar.begin(len(uniforms)) if grammar else []
    for step in range(longest):
        logits = grammar.mask(batch.logits, states) if grammar else batch.logits
        token = choose(logits, uniforms[which, step], temperature=temperature, top_p=top_p)
        token = token.where(running, pad)
        if grammar:
            grammar.accept(states, token)
        drawn[which, step] = token
        running = running & ~torch.isin(token, ending)
        left = int(running.sum())
        if left == 0 or step + 1 == longest:
            break
        if left <= STRAGGLERS * len(running) or batch.crowded:
            batch.keep(running)
            states = [state for state, kept in zip(states, running.tolist(), strict=False) if kept]
            which, token, running = which[running], token[running], running[running]
        batch.advance(token)
    texts = [_cut(row, ending=set(end)) for row in drawn.tolist()]
    return [texts[start : start + n] for start in range(0, len(texts), n)]


def in_halves(answers: int, tokens: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
    """Random numbers behind the answers to one prompt in two halves, independent of each other, each `stratified`.

    Shape (answers, tokens, 2). Halves as in `training.credit.half_of`, which needs what is compared to be independent.
    """
    sizes = np.bincount(half_of(answers), minlength=2).tolist()
    return torch.cat([stratified(size, tokens, generator=generator) for size in sizes])


def stratified(answers: int, tokens: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
    """Random numbers behind the answers to one prompt, evenly spread over the answers at each token, and in pairs.

    A Latin hypercube (McKay, Beckman and Conover 1979, Technometrics 21): at each token the answers' numbers lie one in
    each n-th of the unit interval, in an order drawn anew. The second half of the answers mirrors the first, 1 - u for
    u throughout (antithetic variates, Hammersley and Morton 1956, Math. Proc. Camb. Phil. Soc. 52): where ups and
    downs are alike, the median of the answers is then that of the model, whatever numbers were drawn. Every single
    answer is distributed as ever. The last of an odd number of answers is independent of the others.

    Args:
        answers: How many, n.
        tokens: Most tokens in an answer.
        generator: Source of the numbers; torch's own without one.

    Returns:
        Shape (answers, tokens, 2), as `sample` takes them, in double precision: rounded, the last one could be 1. The
        second numbers are mirrored alike, and else independent.
    """
    pairs = answers // 2
    # Away from 0, whose mirror image is 1.
    drawn = torch.rand(answers, tokens, 4, generator=generator).double().clamp(min=2.0**-25)
    first, alone = drawn[:pairs], drawn[2 * pairs :, :, :2]
    place = first[..., 2].argsort(dim=0)
    place = torch.where(first[..., 3] < 0.5, place, 2 * pairs - 1 - place)
    numbers = torch.stack([(place + first[..., 0]) / max(2 * pairs, 1), first[..., 1]], dim=-1)
    return torch.cat([numbers, 1 - numbers, alone])


def _cut(ids: list[int], *, ending: set[int]) -> list[int]:
    return next((ids[: i + 1] for i, token in enumerate(ids) if token in ending), ids)


def choose(logits: torch.Tensor, uniforms: torch.Tensor, *, temperature: float, top_p: float) -> torch.Tensor:
    """Nucleus sampling by given random numbers: one token a row, from the inverse of its distribution function.

    The tokens stand on the unit interval in the vocabulary's order, so that a rounding difference hardly ever changes
    the choice. A token is drawn from the whole distribution, and once more only where it lies outside the nucleus: one
    row in fifty at 0.98, which spares the others a sort of the vocabulary.

    Args:
        logits: Shape (rows, vocabulary).
        uniforms: Shape (rows, 2), within [0, 1): the first draws, the second draws again.
        temperature: Divides the logits.
        top_p: The nucleus is the fewest likeliest tokens with this share together, and those as likely as its last.

    Returns:
        Shape (rows,).
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
    upper = shares.double().cumsum(-1)
    drawn = uniforms[:, None] * upper[:, -1:]
    return torch.searchsorted(upper, drawn, right=True).clamp(max=shares.shape[-1] - 1)[:, 0]


class _Batch:
    """What a model has read of some prompts and of the answers begun, and its logits for the next token of each answer.

    Attributes:
        logits: Shape (answers in the batch, vocabulary); answers to one prompt stand together.
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

    @property
    def crowded(self) -> bool:
        """Whether rows hold so much of other answers that answers are better off alone."""
        return self._width > 1 and self._width * self._steps >= CROWDED

    def advance(self, token: torch.Tensor) -> None:
        """Read one token more of each answer; shape (answers,)."""
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

    def keep(self, chosen: torch.Tensor) -> None:
        """Go on with some answers only, each in a row of its own from now on; `chosen` has shape (answers,)."""
        which = chosen.nonzero()[:, 0]
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

    def _own_row(self, states: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        prompt, answers = states[:, :, : self._length], states[:, :, self._length :]
        answers = answers.unflatten(2, (self._steps, self._width)).permute(0, 3, 1, 2, 4).flatten(0, 1)
        return torch.cat([prompt[which // self._width], answers[which]], 2)
