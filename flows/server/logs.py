"""Where log lines go: our own to the terminal, all to `pipeline.log` and to Prefect's UI."""

import copy
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tickerforge.tasks.base.disk import os_errors_as_publish_error

OWN_LOGGER = "tickerforge"
_QUIET = {"MLFLOW_CONFIGURE_LOGGING": "false", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
_LEVEL_STYLES = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "bold red"}


class TerminalHandler(logging.Handler):
    """A handler that writes to standard error through a rich console, which it shares with a progress bar."""

    def __init__(self, *, debug: bool) -> None:
        super().__init__()
        self._debug = debug
        self.console = Console(stderr=True, highlight=False)
        # With a formatter of its own on the root handler, Prefect does not print to the terminal itself.
        self.setFormatter(logging.Formatter("%(asctime)s  %(message)s", datefmt="%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line, coloured by its level."""
        if record.exc_info and not self._debug:
            # Tracebacks go to the log file only.
            record = copy.copy(record)
            record.exc_info = record.exc_text = None
        line = Text(self.format(record), style=_LEVEL_STYLES.get(record.levelno, ""))
        self.console.print(line, soft_wrap=True)


class QuietFileHandler(logging.FileHandler):
    """A log file that ignores write errors: a full disk is reported by the code that needs the disk."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop the record."""


def is_own(record: logging.LogRecord) -> bool:
    """Return whether this project's code wrote the record, and not a library."""
    return record.name.startswith(OWN_LOGGER) or getattr(record, "own", False)


def _for_people(record: logging.LogRecord) -> bool:
    if record.name.startswith("prefect.") and not is_own(record):
        # Prefect logs every state and traceback; only a retry is news.
        return "will start" in record.getMessage()
    return (is_own(record) or record.levelno >= logging.ERROR) and getattr(record, "terminal", True)


def show_on_terminal(*, debug: bool) -> None:
    """Show our own lines and errors of libraries, with `debug` everything. Call it before Prefect is imported."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    logging.captureWarnings(True)
    handler = TerminalHandler(debug=debug)
    if not debug:
        handler.addFilter(_for_people)
    logging.getLogger().addHandler(handler)
    open_loggers(logging.DEBUG if debug else logging.INFO)


def send_to_prefect() -> None:
    """Send our packages' log lines to Prefect's UI. Call it before Prefect is imported."""
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", OWN_LOGGER)
    os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")


def open_run_log() -> None:
    """Send every line of ours, from INFO on, to the log of the current run in Prefect's UI.

    A worker imports Prefect before our code, so its environment alone does not decide this.
    """
    from prefect.logging.handlers import APILogHandler

    open_loggers()
    logger = logging.getLogger(OWN_LOGGER)
    if not any(isinstance(handler, APILogHandler) for handler in logger.handlers):
        handler = APILogHandler()
        handler.addFilter(_in_run)
        logger.addHandler(handler)


def _in_run(record: logging.LogRecord) -> bool:
    from prefect.context import FlowRunContext, TaskRunContext

    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


class RunLogFormatter(logging.Formatter):
    """One line per record: time in UTC, level, name of the task, run or module, and message."""

    converter = time.gmtime  # type: ignore[assignment]

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        names = (getattr(record, name, None) for name in ("task_run_name", "flow_run_name"))
        record.speaker = next((name for name in names if name and name != "<unknown>"), record.name)
        return super().format(record)


@contextmanager
def run_log(path: Path) -> Iterator[None]:
    """Write every log line to a file, with its time in UTC, while the block runs.

    Args:
        path: The file; lines are appended, and its folder is created.

    Raises:
        PublishError: If folder or file cannot be written.
    """
    with os_errors_as_publish_error(path.parent, doing=f"writing {path.name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = QuietFileHandler(path, encoding="utf-8")
    handler.setFormatter(
        RunLogFormatter("%(asctime)sZ %(levelname)-7s %(speaker)s: %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    )
    open_loggers()
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def open_loggers(level: int = logging.INFO) -> None:
    """Let our own lines pass from this level on; without it, only warnings would."""
    logger = logging.getLogger(OWN_LOGGER)
    if logger.level == logging.NOTSET or logger.level > level:
        logger.setLevel(level)
