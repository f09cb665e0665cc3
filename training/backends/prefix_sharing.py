"""Attention for texts that begin alike: what they share is computed, stored and attended to once.

The texts stand one after the other in one row without padding: the beginning that all share, then the rest of each
prompt, then the answers. Everything except attention treats tokens one by one, so it needs no change. The attention
below replaces the model's own through transformers' `AttentionInterface`, so it works for every model that uses it.
"""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from tickerforge.training.backends.loading import is_large_on_cpu

ATTENTION = "tickerforge_prefix_sharing"
FULL = 0.75
"""Share of the places for answers below which the places of ended answers are freed."""
_TOLERANCE = 1e-3
"""Largest difference of logits that rounding explains, as a share of the largest logit."""


class _Structure(Protocol):
    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float, dropout: float
    ) -> torch.Tensor:
        """Return the attention's output for all tokens of the row.

        Args:
            module: The layer.
            query: Shape (tokens, heads, head size).
            key: Shape (tokens, key-value heads, head size).
            value: Shape (tokens, key-value heads, head size).
            scale: Multiplies the scores.
            dropout: Share of the attention weights to drop.

        Returns:
            Shape (tokens, heads, head size).
        """
        ...


_current: _Structure | None = None


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    assert _current is not None
    rows = [states[0].transpose(0, 1) for states in (query, key, value)]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _current.attend(module, *rows, scale=scale, dropout=dropout)[None], None


@contextmanager
def attending(model: Any, structure: _Structure) -> Iterator[None]:
    """Let the model's attention follow a structure of texts."""
    global _current
    config = model.config.get_text_config()
    # The code of a model from MLflow is imported beside this one, and registers its own under the same name.
    AttentionInterface.register(ATTENTION, _attention)
    before, _current = (config._attn_implementation, _current), structure
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation, _current = before


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many tokens all prompts share at their beginning; at least one token of each is left over."""
    first, last = min(map(list, prompts)), max(map(list, prompts))
    shortest = min(map(len, prompts)) - 1
    return next((i for i in range(shortest) if first[i] != last[i]), shortest)


class SharedTexts:
    """One row of tokens: the common beginning, the rest of each prompt, and the answers to each.

    Args:
        prompts: Token ids of each prompt.
        answers: Token ids of the answers to each prompt; none at all if only the prompts are read.
        most: Most tokens to share; default: all that are alike.
        device: Device of the tensors.

    Attributes:
        ids: Token ids, shape (1, tokens).
        positions: Position of each token in its text, shape (1, tokens).
        shared: Length of the common beginning.
        prompt_ends: Index in the row of the last token of each prompt, shape (prompts,).
        answer_starts: Index in the row of each answer's first token, answers in the order given.
        context: Indices in the row of the tokens of each prompt, shape (prompts, longest prompt); padded on the right.
        context_real: Which of them are no padding, same shape; `None`: all.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[Sequence[int]]] = (),
        *,
        most: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        shared = common_prefix(prompts) if most is None else min(most, common_prefix(prompts))
        rests = [list(prompt[shared:]) for prompt in prompts]
        self.shared, self._device = shared, device
        self._rests = self._level(rests, start=shared)
        rests_end = shared + sum(map(len, rests))
        flat = [list(answer) for group in answers for answer in group]
        ids = [*prompts[0][:shared], *(i for rest in rests for i in rest), *(i for answer in flat for i in answer)]
        positions = [*range(shared), *(shared + i for rest in rests for i in range(len(rest)))]
        width = max(map(len, answers), default=0)
        for prompt, group in zip(prompts, answers, strict=False):
            positions += [len(prompt) + i for answer in group for i in range(len(answer))]
        self.ids = torch.tensor([ids], device=device)
        self.positions = torch.tensor([positions], device=device)
        lengths = torch.tensor([len(rest) for rest in rests])
        self.prompt_ends = (shared + lengths.cumsum(0) - 1).to(device)
        index, real = self._rests[:2]
        head = torch.arange(shared, device=device).expand(len(prompts), -1)
        self.context = torch.cat([head, index], 1)
        self.context_real = None if real.all() else torch.cat([torch.ones_like(head, dtype=torch.bool), real], 1)
        sizes = torch.tensor([len(answer) for answer in flat], dtype=torch.long)
        self.answer_starts = (rests_end + sizes.cumsum(0) - sizes).to(device)
        # A group with fewer answers is filled up with empty ones.
        even = [[*group, *([[]] * (width - len(group)))] for group in answers]
        self._answers = (
            self._level([a for group in even for a in group], start=rests_end) if rests_end < len(ids) else None
        )

    def _level(self, texts: Sequence[Sequence[int]], *, start: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return indices (texts, longest) in the row, which of them are real, and the flat places of the real ones."""
        lengths = torch.tensor([len(text) for text in texts])
        own = torch.arange(int(lengths.max()))
        real = own < lengths[:, None]
        index = (start + (lengths.cumsum(0) - lengths)[:, None] + own).where(real, start)
        return index.to(self._device), real.to(self._device), real.flatten().nonzero()[:, 0].to(self._device)

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float, dropout: float
    ) -> torch.Tensor:
        """See `_Structure`."""
        options = {"scale": scale, "dropout": dropout}
        shared, heads = self.shared, query.shape[1]
        found = []
        if shared:
            found.append(_causal(query[None, :shared], key[None, :shared], value[None, :shared], **options)[0])
        index, _, places = self._rests
        found.append(
            _causal(
                _pick(query, index),
                torch.cat([key[:shared].expand(len(index), -1, -1, -1), _pick(key, index)], 1),
                torch.cat([value[:shared].expand(len(index), -1, -1, -1), _pick(value, index)], 1),
                **options,
            )
            .flatten(0, 1)
            .index_select(0, places)
        )
        if self._answers is not None:
            index, _, places = self._answers
            groups, length = len(self.context), index.shape[1]
            own = [_pick(states, index).unflatten(0, (groups, -1)) for states in (query, key, value)]
            later = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
            context = (_pick(key, self.context), _pick(value, self.context), self.context_real)
            out = _with_context(own[0], own[1], own[2], *context, later, **options)
            found.append(out.reshape(-1, heads, query.shape[2]).index_select(0, places))
        return torch.cat(found)


def _pick(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Take tokens by index: shape of the index + (heads, head size)."""
    return states.index_select(0, index.flatten()).unflatten(0, index.shape)


def _causal(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float, dropout: float
) -> torch.Tensor:
    """Attend from the last tokens of texts to all tokens before them; shapes (texts, tokens, heads, head size)."""
    new, length, kv_heads = query.shape[1], key.shape[1], key.shape[2]
    # The heads that share a key stand one after the other as if they were further tokens: no key is copied.
    folded = query.unflatten(2, (kv_heads, -1)).permute(0, 2, 3, 1, 4)
    seen = torch.ones(new, length, dtype=torch.bool, device=query.device).tril(length - new)
    out = F.scaled_dot_product_attention(
        folded.flatten(2, 3),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=seen.repeat(folded.shape[2], 1),
        dropout_p=dropout,
        scale=scale,
    )
    return out.unflatten(2, (-1, new)).permute(0, 3, 1, 2, 4).flatten(2, 3)


def _with_context(
    query: torch.Tensor,
    own_key: torch.Tensor,
    own_value: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    real: torch.Tensor | None,
    later: torch.Tensor | None,
    *,
    scale: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Attend from the answers to a prompt to that prompt and to themselves.

    Args:
        query: Shape (prompts, answers, new tokens, heads, head size).
        own_key: Shape (prompts, answers, tokens, key-value heads, head size).
        own_value: As `own_key`.
        key: Of the prompts, shape (prompts, tokens, key-value heads, head size).
        value: As `key`.
        real: Which tokens of the prompts are no padding, shape (prompts, tokens); `None`: all.
        later: Which tokens of an answer a new token must not see, shape (new tokens, tokens); `None`: it sees all.
        scale: Multiplies the scores.
        dropout: Share of the attention weights to drop.

    Returns:
        Shape (prompts, answers, new tokens, heads, head size).
    """
    answers, new, kv_heads = query.shape[1], query.shape[2], own_key.shape[3]
    # Shape (prompts, key-value heads, answers, heads per key, new tokens, head size).
    folded = query.unflatten(3, (kv_heads, -1)).permute(0, 3, 1, 4, 2, 5)
    per_key = folded.shape[3]
    queries = folded.flatten(3, 4) * scale
    to_prompt = queries.flatten(2, 3) @ key.permute(0, 2, 3, 1)
    if real is not None:
        to_prompt = to_prompt.masked_fill(~real[:, None, None], -torch.inf)
    to_own = queries @ own_key.permute(0, 3, 1, 4, 2)
    if later is not None:
        to_own = to_own.masked_fill(later.repeat(per_key, 1), -torch.inf)
    weights = torch.cat([to_prompt, to_own.flatten(2, 3)], -1).softmax(-1)
    if dropout:
        weights = F.dropout(weights, dropout)
    length = key.shape[1]
    out = weights[..., :length] @ value.transpose(1, 2)
    own = weights[..., length:].unflatten(2, (answers, -1)) @ own_value.permute(0, 3, 1, 2, 4)
    out = out.unflatten(2, (answers, -1)) + own
    return out.unflatten(3, (per_key, new)).permute(0, 2, 4, 1, 3, 5).flatten(3, 4)


class SharedDecoder:
    """Prompts and started answers that a model has read, and its logits for the next tokens.

    Each prompt has the same number of places for answers; the places of answers that have ended are freed now and then.

    Attributes:
        logits: Shape (places, vocabulary); the answers to one prompt are adjacent.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], *, answers: int, longest: int) -> None:
        self._model, self._longest, self._steps = model, longest, 0
        self._texts = SharedTexts(prompts, device=model.device)
        self._real = self._texts.context_real
        self._prompts, self._places = len(prompts), answers
        # Per layer: keys and values of the prompts, shape (prompts, key-value heads, tokens, head size), and of the
        # answers, shape (prompts, key-value heads, places, most tokens, head size).
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]] = {}
        self._next = torch.tensor([len(prompt) for prompt in prompts], device=model.device).repeat_interleave(answers)
        first = self._read(self._texts.ids, self._texts.positions, logits_to_keep=self._texts.prompt_ends)
        self.logits = first.repeat_interleave(answers, 0)

    def _read(self, ids: torch.Tensor, positions: torch.Tensor, **options: Any) -> torch.Tensor:
        with attending(self._model, self):
            out = self._model(input_ids=ids, position_ids=positions, use_cache=False, **options)
        logits: torch.Tensor = out.logits[0]
        return logits

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float, dropout: float
    ) -> torch.Tensor:
        """See `_Structure`."""
        if id(module) not in self._layers:
            kept = [_pick(states, self._texts.context).transpose(1, 2).contiguous() for states in (key, value)]
            prompts, heads, _, size = kept[0].shape
            # Memory is taken only as it is filled.
            own = [key.new_empty(prompts, heads, self._places, self._longest, size) for _ in kept]
            self._layers[id(module)] = (kept[0], kept[1], own[0], own[1])
            return self._texts.attend(module, query, key, value, scale=scale, dropout=dropout)
        kept_key, kept_value, own_key, own_value = self._layers[id(module)]
        for own, new in ((own_key, key), (own_value, value)):
            own[:, :, :, self._steps] = new.unflatten(0, (self._prompts, -1)).transpose(1, 2)
        out = _with_context(
            query.unflatten(0, (self._prompts, -1, 1)),
            own_key[:, :, :, : self._steps + 1].permute(0, 2, 3, 1, 4),
            own_value[:, :, :, : self._steps + 1].permute(0, 2, 3, 1, 4),
            kept_key.transpose(1, 2),
            kept_value.transpose(1, 2),
            self._real,
            None,
            scale=scale,
        )
        return out.flatten(0, 2)

    def advance(self, token: torch.Tensor) -> None:
        """Read the next token of each answer; shape (places,)."""
        self.logits = self._read(token[None], self._next[None])
        self._next = self._next + 1
        self._steps += 1

    def shrink(self, running: torch.Tensor) -> torch.Tensor | None:
        """Free places of answers that have ended, if that frees a quarter of all; return the places kept, in order."""
        by_prompt = running.view(self._prompts, self._places)
        prompts = by_prompt.any(1).nonzero()[:, 0]
        places = int(by_prompt.sum(1).max())
        if len(prompts) * places > FULL * len(running):
            return None
        # Ended answers fill the places of prompts that have fewer answers left than others.
        kept = by_prompt[prompts].int().argsort(dim=1, descending=True, stable=True)[:, :places]
        order = (prompts[:, None] * self._places + kept).flatten()
        group = torch.arange(len(prompts), device=kept.device)[:, None]
        for layer, (key, value, own_key, own_value) in self._layers.items():
            own = []
            for states in (own_key, own_value):
                fewer = states.new_empty(len(prompts), states.shape[1], places, *states.shape[3:])
                written = states[prompts, :, :, : self._steps].transpose(1, 2)
                fewer[:, :, :, : self._steps] = written[group, kept].transpose(1, 2)
                own.append(fewer)
            self._layers[layer] = (key[prompts], value[prompts], own[0], own[1])
        self._real = None if self._real is None else self._real[prompts]
        self._prompts, self._places = len(prompts), places
        self._next = self._next[order]
        return order


_checked: "weakref.WeakKeyDictionary[Any, bool]" = weakref.WeakKeyDictionary()


def shares_prefixes(model: Any) -> bool:
    """Return whether texts can share their beginnings in this model, and whether that pays.

    It pays for large models on a CPU. Whether a model can do it is measured once: its logits for a few short texts must
    be those that it gives each text alone.
    """
    bare = getattr(model, "get_base_model", lambda: model)()
    if not is_large_on_cpu(bare):
        return False
    # Gradient checkpointing would compute the attention again after the structure is gone.
    if not bare._supports_attention_backend or bare.is_gradient_checkpointing:
        return False
    if bare not in _checked:
        try:
            _checked[bare] = _agrees(bare)
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError):
            # Attention of another shape than ours.
            _checked[bare] = False
    return _checked[bare]


@torch.no_grad()
def _agrees(model: Any) -> bool:
    training = model.training
    model.eval()
    prompts, answers = [[3, 5, 7, 9], [3, 5, 8], [3, 5, 9, 4, 6]], [[[4, 5], [6]], [[7, 8, 9]], [[8, 7], [3, 4]]]
    texts = SharedTexts(prompts, answers, device=model.device)
    try:
        with attending(model, texts):
            ours = model(input_ids=texts.ids, position_ids=texts.positions, use_cache=False).logits[0]
        alone = [
            model(input_ids=torch.tensor([prompt + answer], device=model.device), use_cache=False).logits[0]
            for prompt, group in zip(prompts, answers, strict=True)
            for answer in group
        ]
    finally:
        model.train(training)
    owners = [len(prompt) for prompt, group in zip(prompts, answers, strict=True) for _ in group]
    expected = torch.cat([logits[prompt:] for logits, prompt in zip(alone, owners, strict=True)])
    difference = (ours[-len(expected) :] - expected).abs().max()
    return bool(difference <= _TOLERANCE * expected.abs().max())
