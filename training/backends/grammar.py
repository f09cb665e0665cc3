"""Answers held to their format while they are drawn, by xgrammar; never in GRPO's rollouts.

In rollouts it would bias the importance ratio, because the policy's own probabilities know nothing of the grammar.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch

from tickerforge.features.prompts import SYSTEM_PROMPT, Chat, answer_pattern
from tickerforge.training.errors import BackendUnavailable

# Characters, and so at most tokens, of the tags and brackets, with the end of the answer; and of a value and its comma.
FRAME, INTEGER, DECIMALS = len("<think></think><answer>[]</answer>") + 1, len("-300, "), 4


def pattern_for(prompts: Sequence[Chat], *, horizon: int, max_tokens: int) -> str:
    """Regular expression of the valid answers to these prompts, integers or decimals as their system message asks.

    What may be thought is so short that the answer fits into `max_tokens`, whatever the tokenizer; where that leaves
    nothing, thinking is left out.
    """
    decimals = 0 if prompts[0][0]["content"] == SYSTEM_PROMPT else DECIMALS
    value = INTEGER + (decimals + 1 if decimals else 0)
    room = max(0, max_tokens - FRAME - value * horizon)
    return answer_pattern(horizon, decimals=decimals, longest_think=room)


class Grammar:
    """Which tokens may follow, for each of the answers being drawn.

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
        """The state of as many answers, before their first token."""
        return [self._xgrammar.GrammarMatcher(self._compiled) for _ in range(answers)]

    def mask(self, logits: torch.Tensor, states: list[Any]) -> torch.Tensor:
        """The logits, shape (answers, vocabulary), with minus infinity where a token may not follow."""
        bits = self._xgrammar.allocate_token_bitmask(len(states), self._vocabulary)
        going = [index for index, state in enumerate(states) if not state.is_terminated()]
        self._batch.batch_fill_next_token_bitmask([states[index] for index in going], bits, going)
        masked = logits.float().clone()
        self._xgrammar.apply_token_bitmask_inplace(masked, bits.to(logits.device))
        return masked

    def accept(self, states: list[Any], tokens: torch.Tensor) -> None:
        """Move each answer that has not ended on by the token drawn; `tokens` has shape (answers,)."""
        going = [
            (state, token) for state, token in zip(states, tokens.tolist(), strict=True) if not state.is_terminated()
        ]
        if going:
            self._batch.batch_accept_token([state for state, _ in going], [token for _, token in going])
