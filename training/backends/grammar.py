"""Answers that keep their format because xgrammar masks all other tokens; not used in GRPO's rollouts.

In rollouts it would bias the importance ratio, because the policy's own probabilities do not include the grammar.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch

from tickerforge.features.prompts import Chat, answer_pattern, format_asked
from tickerforge.training.errors import BackendUnavailable

# Lengths in characters, which limit the lengths in tokens: tags, brackets and end of an answer; a value with its comma.
_FRAME, _INTEGER, _LABEL = len("<think></think><answer>[]</answer>") + 1, len("-300, "), len("10:")


def pattern_for(prompts: Sequence[Chat], *, horizon: int, max_tokens: int) -> str:
    """Return the regular expression of valid answers to these prompts, in the format that the system prompt asks for.

    The text inside `<think>` is limited so that the answer fits into `max_tokens` with any tokenizer; if there is no
    room for it, it is left out.
    """
    asked = format_asked(prompts[0])
    value = _INTEGER + (asked.decimals + 1 if asked.decimals else 0) + (_LABEL if asked.style == "numbered" else 0)
    room = max(0, max_tokens - _FRAME - value * horizon)
    return answer_pattern(horizon, decimals=asked.decimals, style=asked.style, longest_think=room)


class Grammar:
    """The tokens that may follow in each of the answers being drawn.

    Raises:
        BackendUnavailable: xgrammar is not installed.
    """

    def __init__(self, pattern: str, tokenizer: Any, *, vocabulary: int, end: Collection[int]) -> None:
        try:
            import xgrammar
        except ImportError as error:
            raise BackendUnavailable(
                "constrained answers need xgrammar: pip install '.[grammar]' in the checkout, or leave "
                "sampling.constrained unset"
            ) from error
        self._xgrammar = xgrammar
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary, stop_token_ids=sorted(end))
        self._compiled = xgrammar.GrammarCompiler(info).compile_regex(pattern)
        self._batch = xgrammar.BatchGrammarMatcher(max_threads=1)
        self._vocabulary = vocabulary

    def begin(self, answers: int) -> list[Any]:
        """Return the states of new answers, before their first token."""
        return [self._xgrammar.GrammarMatcher(self._compiled) for _ in range(answers)]

    def mask(self, logits: torch.Tensor, states: list[Any]) -> torch.Tensor:
        """Set the logits of tokens that may not follow to minus infinity; shape (answers, vocabulary)."""
        bits = self._xgrammar.allocate_token_bitmask(len(states), self._vocabulary)
        going = [index for index, state in enumerate(states) if not state.is_terminated()]
        self._batch.batch_fill_next_token_bitmask([states[index] for index in going], bits, going)
        masked = logits.float().clone()
        self._xgrammar.apply_token_bitmask_inplace(masked, bits.to(logits.device))
        return masked

    def accept(self, states: list[Any], tokens: torch.Tensor) -> None:
        """Add the drawn token to each answer that has not ended; `tokens` has shape (answers,)."""
        going = [
            (state, token) for state, token in zip(states, tokens.tolist(), strict=True) if not state.is_terminated()
        ]
        if going:
            self._batch.batch_accept_token([state for state, _ in going], [token for _, token in going])
