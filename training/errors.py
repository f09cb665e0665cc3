"""Errors of the training package.

TrainingError (RuntimeError)
├── TrainingDiverged      a run was stopped: its valid rate or reward collapsed, or a value was NaN or infinite
├── BackendUnavailable    the requested backend cannot run on this machine; says what is missing
├── BaseModelError        the base model cannot be found, built or used as configured
├── AdapterError          a folder that should hold a LoRA adapter cannot be read
└── NoAcceptedAnswers     rejection sampling accepted no answer
"""

from pathlib import Path


class TrainingError(RuntimeError):
    """Any error while training, sampling or loading a model."""


class TrainingDiverged(TrainingError):
    """A run was stopped because it collapsed; `last_good` is the newest checkpoint from before that.

    That folder is a PEFT adapter from which later stages can start. It is kept until the stage succeeds.
    """

    def __init__(self, message: str, *, last_good: Path | None) -> None:
        super().__init__(message)
        self.last_good = last_good

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_diverged, (str(self), self.last_good)


def _rebuild_diverged(message: str, last_good: Path | None) -> TrainingDiverged:
    return TrainingDiverged(message, last_good=last_good)


class BackendUnavailable(TrainingError):
    """The requested backend cannot run here."""


class BaseModelError(TrainingError):
    """The base model cannot be found, built or used as configured."""


class AdapterError(TrainingError):
    """A LoRA adapter is missing, unreadable, or made for another base model."""


class NoAcceptedAnswers(TrainingError):
    """Rejection sampling accepted no answer, so there is nothing to fine-tune on."""
