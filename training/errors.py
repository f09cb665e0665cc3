"""Errors of the training package.

TrainingError (RuntimeError)
├── TrainingDiverged      a run whose valid rate or reward collapsed, or that came to no number, was stopped
├── BackendUnavailable    the backend asked for cannot run on this machine; says what is missing
├── BaseModelError        the base model cannot be found, built or used as configured
├── AdapterError          a folder that should hold a LoRA adapter cannot be read as one
└── NoAcceptedAnswers     rejection sampling found no answer fit to train on
"""

from pathlib import Path


class TrainingError(RuntimeError):
    """Any fault while training, sampling or loading a model."""


class TrainingDiverged(TrainingError):
    """A run stopped because it was getting worse; `last_good` is the newest checkpoint from before that.

    That folder is a PEFT adapter that later stages can start from; it stays where it is until the stage succeeds.
    """

    def __init__(self, message: str, *, last_good: Path | None) -> None:
        super().__init__(message)
        self.last_good = last_good

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_diverged, (str(self), self.last_good)


def _rebuild_diverged(message: str, last_good: Path | None) -> TrainingDiverged:
    return TrainingDiverged(message, last_good=last_good)


class BackendUnavailable(TrainingError):
    """The backend asked for cannot run here."""


class BaseModelError(TrainingError):
    """The base model cannot be found, built or used as configured."""


class AdapterError(TrainingError):
    """A LoRA adapter that is missing, unreadable or made for another base model."""


class NoAcceptedAnswers(TrainingError):
    """Rejection sampling accepted nothing: there is nothing to fine-tune on."""
