"""The mean of the weights of a training's last steps, which is the adapter that it leaves.

A stage sees few windows a step, and what comes is mostly noise: near the end the weights wander around where the
gradient would lead them, above all in the direction that all windows share. The mean over the last steps stands still
there, as if those steps had been one with a batch of all their windows (Polyak and Juditsky 1992; over the tail only:
Jain et al. 2018). It costs one copy of the adapter.
"""

from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tickerforge.training.backends.checkpoints import checkpoint_of

AVERAGE_FILE = "tail_average.safetensors"


class TailAverage(TrainerCallback):
    """Keeps the mean of the trainable weights over the last steps, and puts it in their place at the end.

    Checkpoints hold the weights as they are, which the optimiser goes on from, and the mean in a file beside them. Put
    it before the callback that marks checkpoints as complete.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._mean: dict[str, torch.Tensor] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: Any, **_: Any
    ) -> None:
        """Go on from the mean that the checkpoint holds."""
        path = checkpoint_of(args.output_dir, state.global_step) / AVERAGE_FILE
        if path.exists():
            kept = load_file(path)
            self._mean = {name: kept[name].to(weight.device) for name, weight in _trainable(model).items()}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: Any, **_: Any
    ) -> None:
        """Count this step's weights in, if it is one of the last."""
        count = state.global_step - self._first(state)
        if count < 1:
            return
        for name, weight in _trainable(model).items():
            if count == 1:
                self._mean[name] = weight.detach().clone()
            else:
                self._mean[name].lerp_(weight.detach(), 1 / count)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Put the mean into the checkpoint."""
        if self._mean and PartialState().is_main_process:
            save_file(self._mean, checkpoint_of(args.output_dir, state.global_step) / AVERAGE_FILE)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: Any, **_: Any
    ) -> None:
        """Leave the mean in the model."""
        with torch.no_grad():
            for name, weight in _trainable(model).items():
                if name in self._mean:
                    weight.copy_(self._mean[name])

    def _first(self, state: TrainerState) -> int:
        """The step after which averaging begins; the last one always counts."""
        return min(round(state.max_steps * (1 - self._share)), state.max_steps - 1)


def _trainable(model: Any) -> dict[str, torch.Tensor]:
    """Weights that learn, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
