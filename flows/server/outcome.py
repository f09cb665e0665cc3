"""The exit code and the message of an exception on the command line."""

import errno

from tickerforge.evaluation.core.errors import BaselineUnavailable, EvaluationError, PredictionsError
from tickerforge.features.errors import FeaturesError
from tickerforge.flows.errors import ConfigError, FlowsError, MissingArtifactError
from tickerforge.tasks.base.errors import ServiceError, TasksError, TrackingError
from tickerforge.training.errors import (
    AdapterError,
    BackendUnavailable,
    BaseModelError,
    TrainingDiverged,
    TrainingError,
)

FAILURE, BAD_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143

_BAD_INPUT = (
    FeaturesError,
    ConfigError,
    MissingArtifactError,
    TasksError,
    AdapterError,
    BackendUnavailable,
    BaseModelError,
    BaselineUnavailable,
    PredictionsError,
)
_EXPECTED = (*_BAD_INPUT, FlowsError, EvaluationError, TrainingError)
_STOPPED = {"CancelledRun", "TaskRunCancelled", "Abort"}
_FULL_DISK_WORDS = ("no space left on device", "disk is full", "disk quota exceeded")
_FULL_DISK = (
    "the disk is full. Free some space, or set TICKERFORGE_HOME to a folder on a larger disk, and run the same command "
    "again: finished stages are kept."
)
_REPORT = "This is a bug in TickerForge: run the command again with --debug and report the output."


class Terminated(KeyboardInterrupt):
    """SIGTERM as an exception, so that the run is reported as stopped."""


def exit_code(error: BaseException) -> int:
    """Return 2 for bad input and a full disk, 130 for Ctrl-C, 143 for SIGTERM, and 1 for every other failure."""
    if is_termination(error):
        return TERMINATED
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if _is_due_to_full_disk(error):
        return BAD_INPUT
    is_absent = isinstance(error, (ServiceError, TrackingError))
    return BAD_INPUT if isinstance(error, _BAD_INPUT) and not is_absent else FAILURE


def is_termination(error: BaseException) -> bool:
    """Return whether we or Prefect raised this exception for a SIGTERM."""
    return isinstance(error, Terminated) or type(error).__name__ == "TerminationSignal"


def is_stopped(error: BaseException) -> bool:
    """Return whether somebody stopped the run, which is not a fault."""
    return isinstance(error, KeyboardInterrupt) or is_termination(error) or type(error).__name__ in _STOPPED


def is_expected(error: BaseException) -> bool:
    """Return whether the message alone says what to do, so that no traceback is needed."""
    return isinstance(error, _EXPECTED) or _is_due_to_full_disk(error)


def _is_due_to_full_disk(error: BaseException) -> bool:
    """Return whether this exception, or a cause of it, comes from a full disk."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in {errno.ENOSPC, errno.EDQUOT}:
            return True
        if any(words in str(seen).lower() for words in _FULL_DISK_WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def message(error: BaseException) -> str:
    """Describe for a user what went wrong and how to fix it."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, TrainingDiverged) and error.last_good is not None and str(error.last_good) not in text:
        return f"{text}\nThe last good checkpoint is {error.last_good}."
    if is_expected(error):
        return text if isinstance(error, _EXPECTED) else _FULL_DISK
    return f"{type(error).__name__}: {text}\n{_REPORT}"


def in_words(error: BaseException) -> str:
    """Describe why one ticker of many failed: the kind of the error, what went wrong, and how to fix it."""
    text = message(error).replace("\n", " ")
    kind = f"{type(error).__name__}: "
    return text if text.startswith(kind) else kind + text
