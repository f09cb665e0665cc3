"""The GRPO trainer that credits each value's error to the tokens of that value; see `training.credit`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tickerforge.training.backends.grpo_trainer import GroupedGRPOTrainer
from tickerforge.training.config import RewardConfig
from tickerforge.training.credit import tokens_of_values
from tickerforge.training.value_credit import value_advantages

_ROUNDING = 1e-5
"""Advantages below this are zero except for rounding."""

PATCHED_BY_UNSLOTH = any(base.__name__ == "UnslothGRPOTrainer" for base in GroupedGRPOTrainer.__mro__)
"""Whether TRL's trainer is Unsloth's; on a CPU Unsloth leaves TRL's."""


class HorizonCreditTrainer(GroupedGRPOTrainer):
    """Replaces the advantages of whole answers by those of single values, if the reward has them. The loss is TRL's."""

    def __init__(self, *args: Any, reward: RewardConfig, unit: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._reward = reward
        self._unit = unit

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if self._reward.by_horizon or self._reward.kind == "crps":
            output["advantages"] = self._advantages(inputs, output)
        self._leave_out_flat_groups(output)
        return output

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        """Compute the loss of some answers; Unsloth's trainer needs the advantages in other columns than TRL's."""
        if PATCHED_BY_UNSLOTH and inputs["advantages"].dim() == 2:
            known = inputs.get("old_per_token_logps", inputs.get("ref_per_token_logps"))
            aligned = align_with_unsloth(
                inputs["advantages"],
                inputs["prompt_ids"],
                pad=self.processing_class.pad_token_id,
                width=None if known is None else known.shape[1],
            )
            inputs = inputs | {"advantages": aligned}
        return super().compute_loss(model, inputs, *args, **options)

    def _leave_out_flat_groups(self, output: dict[str, Any]) -> None:
        """Leave out of the loss's normaliser the tokens of groups whose answers all score alike: they teach nothing.

        TRL logs the share of such groups as `frac_reward_zero_std`.
        """
        advantages, tokens = output["advantages"], output["completion_mask"].sum(dim=1)
        teaches = (
            (advantages.reshape(len(tokens), -1).abs() > _ROUNDING).any(dim=1).view(-1, self.num_generations).any(dim=1)
        )
        counted = (tokens.view(-1, self.num_generations).sum(dim=1) * teaches).sum()
        output["num_items_in_batch"] = self.accelerator.gather(counted).sum()

    def _advantages(self, inputs: Sequence[dict[str, Any]], output: dict[str, Any]) -> torch.Tensor:
        """Return advantages per token, shape `(answers, tokens)`, or per answer, shape `(answers,)`."""
        ids, mask = output["completion_ids"], output["completion_mask"].bool()
        pieces = [self._pieces(row[kept]) for row, kept in zip(ids, mask, strict=True)]
        by_value = self._value_advantages(inputs, pieces)
        if not self._reward.by_horizon:
            return torch.as_tensor(by_value[:, -1], dtype=torch.float32, device=ids.device)
        horizon = by_value.shape[1] - 1
        by_token = by_value[:, -1:].repeat(ids.shape[1], axis=1)
        for answer, texts in enumerate(pieces):
            for value, tokens in enumerate(tokens_of_values(texts, horizon=horizon)):
                by_token[answer, tokens] = by_value[answer, value]
        return torch.as_tensor(by_token, dtype=torch.float32, device=ids.device)

    def _pieces(self, ids: torch.Tensor) -> list[str]:
        """Return the text of each token; that of the end token is empty."""
        return self._tokenizer.batch_decode(ids[:, None], skip_special_tokens=True)

    def _value_advantages(self, inputs: Sequence[dict[str, Any]], pieces: Sequence[Sequence[str]]) -> np.ndarray:
        """Return what `training.credit.advantages` gives, with shape `(answers, horizon + 1)`."""
        return value_advantages(
            ["".join(texts) for texts in pieces],
            targets=np.array([each["target"] for each in inputs]),
            start=np.array([each["last_close"] for each in inputs])[:, None],
            group=self.num_generations,
            reward=self._reward,
            unit=self._unit,
            scale=self.args.scale_rewards,
        )


def align_with_unsloth(
    advantages: torch.Tensor, prompts: torch.Tensor, *, pad: int, width: int | None = None
) -> torch.Tensor:
    """Move each token's advantage to the column where Unsloth's loss has that token.

    Unsloth moves the padding of each row from the left of the prompt to the right end, and keeps as many columns as the
    longest answer and the longest padding of a prompt take. So an answer to a longer prompt is further to the right.

    Args:
        advantages: Shape (answers, tokens).
        prompts: Token ids, padded on the left, shape (answers, prompt tokens).
        pad: Token id of the padding.
        width: Columns of the log-probabilities that the batch already has; `None` if it has none.

    Returns:
        Shape (answers, columns); 0 in the columns without an answer's token.
    """
    count, tokens = advantages.shape
    padding = (prompts == pad).sum(dim=1)
    longest = int(padding.max()) if width is None else width - tokens
    columns = longest - padding[:, None] + torch.arange(tokens, device=advantages.device)
    return advantages.new_zeros(count, tokens + longest).scatter(1, columns, advantages)
