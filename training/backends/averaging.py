"""The mean of the weights over the last steps of a training, which becomes its adapter.

A step sees few windows, so its gradient is mostly noise: near the end the weights wander around their goal, above all
in the direction that all windows share. The mean over the last steps hardly moves, as if those steps had been one step
on all their windows (Polyak and Juditsky 1992; over the tail only: Jain et al. 2018). It costs one copy of the adapter.
"""

from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tickerforge.training.backends.checkpoints import checkpoint_of

AVERAGE_FILE = "tail_average.safetensors"


class TailAverage(TrainerCallback):
    """Keeps the mean of the trainable weights over the last steps, and replaces the weights by it at the end.

    Checkpoints hold the plain weights, from which the optimiser continues, and the mean in a file beside them. Add this
    callback before the one that marks checkpoints as complete.

    Args:
        share: Share of the steps, the last ones, that count.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._mean: dict[str, torch.Tensor] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: Any, **_: Any
    ) -> None:
        """Continue from the mean that the checkpoint holds."""
        path = checkpoint_of(args.output_dir, state.global_step) / AVERAGE_FILE
        if path.exists():
            kept = load_file(path)
            self._mean = {name: kept[name].to(weight.device) for name, weight in _trainable(model).items()}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: Any, **_: Any
    ) -> None:
        """Add this step's weights to the mean, if it is one of the last steps."""
        count = state.global_step - self._first(state)
        if count < 1:
            return
        for name, weight in _trainable(model).items():
            if count == 1:
                self._mean[name] = weight.detach().clone()
            else:
                self._mean[name].lerp_(weight.detach(), 1 / count)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save the mean in the checkpoint."""
        if self._mean and PartialState().is_main_process:
            save_file(self._mean, checkpoint_of(args.output_dir, state.global_step) / AVERAGE_FILE)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: Any, **_: Any
    ) -> None:
        """Put the mean into the model."""
        with torch.no_grad():
            for name, weight in _trainable(model).items():
                if name in self._mean:
                    weight.copy_(self._mean[name])

    def _first(self, state: TrainerState) -> int:
        """Return the step after which averaging begins; the last step always counts."""
        return min(round(state.max_steps * (1 - self._share)), state.max_steps - 1)


def _trainable(model: Any) -> dict[str, torch.Tensor]:
    """Return the weights that learn, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
