"""Writes to a service that may be down: kept in order, and done as soon as it answers."""

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from tickerforge.tasks.base.errors import TrackingError, TrackingRefused
from tickerforge.tasks.base.logs import run_logger

PATIENCE_VARIABLE = "TICKERFORGE_MLFLOW_PATIENCE"
_PATIENCE_SECONDS = 300.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 2.0, 60.0

Opened = TypeVar("Opened")


@dataclass(frozen=True)
class _Entry(Generic[Opened]):
    """One write; `write` may be called again after it failed half-way."""

    what: str
    write: Callable[[Opened], None]


class Journal(Generic[Opened]):
    """Writes in their order; done at once, or kept in memory until the service answers.

    No file is needed: all that is written is in the artifact store, and the same run started again writes it again.
    """

    def __init__(self, open_: Callable[[], Opened]) -> None:
        """Start an empty journal.

        Args:
            open_: Opens the target of the writes, and finds it again at later calls; raises `TrackingError` within
                seconds if there is no answer.
        """
        self._open = open_
        self._entries: deque[_Entry[Opened]] = deque()
        self._behind = False

    def __len__(self) -> int:
        """Return the number of writes that are not done."""
        return len(self._entries)

    def add(self, what: str, write: Callable[[Opened], None]) -> bool:
        """Add a write, and do all that are left; an outage is only a warning.

        Args:
            what: Name of what is written, for the log.
            write: Does it; may be called several times.

        Returns:
            Whether no write is left.
        """
        self._entries.append(_Entry(what, write))
        try:
            self.catch_up()
        except TrackingError as error:
            run_logger(__name__).warning(
                "MLflow did not get %s: %s The run continues; what MLflow lacks (%d writes so far) is kept and follows "
                "as soon as it answers.",
                what,
                error,
                len(self),
            )
            return False
        return True

    def catch_up(self) -> Opened:
        """Do all writes that are left, and return their target.

        A write that is refused for good is dropped with a warning, so that it does not block the others.

        Raises:
            TrackingError: If there is no answer; the writes that are left are kept.
        """
        try:
            opened = self._open()
            while self._entries:
                self._write(opened, self._entries[0])
                self._entries.popleft()
        except TrackingError:
            self._behind = True
            raise
        if self._behind:
            run_logger(__name__).info("MLflow answers again and has everything")
            self._behind = False
        return opened

    def _write(self, opened: Opened, entry: _Entry[Opened]) -> None:
        try:
            entry.write(opened)
        except TrackingRefused as error:
            run_logger(__name__).warning("MLflow refuses %s and will lack it: %s", entry.what, error)

    def wait(self, patience_seconds: float | None = None) -> Opened:
        """Do all writes that are left; try again with growing pauses.

        Args:
            patience_seconds: Time limit; `TICKERFORGE_MLFLOW_PATIENCE` or five minutes by default.

        Raises:
            TrackingError: If there is no answer in that time; says that nothing is lost and what to do.
        """
        patience = default_patience() if patience_seconds is None else patience_seconds
        began, pause = time.monotonic(), _FIRST_PAUSE_SECONDS
        while True:
            try:
                return self.catch_up()
            except TrackingError as error:
                left = patience - (time.monotonic() - began)
                if left <= 0:
                    raise TrackingError(
                        f"{error} Nothing is lost: all finished stages are stored. Once MLflow answers, run the same "
                        f"command again: it takes them from the store and finishes in seconds. To wait longer than "
                        f"{patience:.0f} s, set {PATIENCE_VARIABLE}."
                    ) from error
                pause = min(pause, left)
                run_logger(__name__).warning("%s Trying again in %.0f s, for %.0f s more.", error, pause, left)
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def default_patience() -> float:
    """Return how long to wait for MLflow, in seconds: `TICKERFORGE_MLFLOW_PATIENCE`, or five minutes.

    Raises:
        TrackingError: If the variable does not hold a number.
    """
    text = os.environ.get(PATIENCE_VARIABLE, "")
    try:
        return float(text) if text else _PATIENCE_SECONDS
    except ValueError as error:
        raise TrackingError(f"{PATIENCE_VARIABLE}={text!r}: give a number of seconds, such as 300") from error
