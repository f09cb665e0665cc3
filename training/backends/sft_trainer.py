"""TRL's SFT trainer, changed to read what the prompts of a batch share once, and no padding."""

from typing import Any

import torch
from trl import SFTTrainer

from tickerforge.training.backends.prefix_sharing import SharedTexts, attending, shares_prefixes
from tickerforge.training.backends.sampling import shares_prompts

_IGNORED = -100
"""The label of a token that the loss leaves out."""


class SharedSFTTrainer(SFTTrainer):
    """Learns the same as TRL's trainer, except for rounding, but faster for large models on a CPU."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Compute TRL's loss on one row without padding; see `SharedTexts`."""
        bare = self.accelerator.unwrap_model(model)
        if not (shares_prompts(bare) and shares_prefixes(bare)):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        seen = inputs["attention_mask"].bool()
        ids, labels = (
            [row[kept] for row, kept in zip(inputs[name], seen, strict=True)] for name in ("input_ids", "labels")
        )
        # Each text predicts its own labels, so the token before its first label is not shared. The last token predicts
        # nothing.
        first = min(int((label != _IGNORED).nonzero()[0, 0]) for label in labels)
        texts = SharedTexts([row[:-1].tolist() for row in ids], most=max(first - 1, 0), device=bare.device)
        rest = [label[texts.shared + 1 :] for label in labels]
        nothing = labels[0].new_full((texts.shared,), _IGNORED)
        packed = {
            "input_ids": texts.ids,
            "position_ids": texts.positions,
            "shift_labels": torch.cat([nothing, *rest])[None],
        }
        with attending(bare, texts):
            return super().compute_loss(model, packed, return_outputs, num_items_in_batch)
