"""What is to be told to a service that may be down: kept in order, and told as soon as it answers."""

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from tickerforge.tasks.base.errors import TrackingError, TrackingRefused
from tickerforge.tasks.base.logs import run_logger

PATIENCE_VARIABLE = "TICKERFORGE_MLFLOW_PATIENCE"
PATIENCE_SECONDS = 300.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 2.0, 60.0

Opened = TypeVar("Opened")


@dataclass(frozen=True)
class Entry(Generic[Opened]):
    """One thing to tell; `write` may be called again after it failed half-way."""

    what: str
    write: Callable[[Opened], None]


class Journal(Generic[Opened]):
    """Entries in the order in which they happened; told at once, or kept in memory until they can be.

    It needs no file: all that it tells of lies in the artifact store, and the same run started again tells it again.
    """

    def __init__(self, open_: Callable[[], Opened]) -> None:
        """Tells nothing yet.

        Args:
            open_: Opens what the entries are written to, and finds it again at later calls; raises `TrackingError`
                within seconds where there is no answer.
        """
        self._open = open_
        self._entries: deque[Entry[Opened]] = deque()
        self._behind = False

    def __len__(self) -> int:
        """How many entries have not been told."""
        return len(self._entries)

    def tell(self, what: str, write: Callable[[Opened], None]) -> bool:
        """Add an entry, and tell all that has not been told yet; an outage is a warning and no more.

        Args:
            what: What the entry tells, for the log.
            write: Tells it; must stand being called again.

        Returns:
            Whether nothing is left to tell.
        """
        self._entries.append(Entry(what, write))
        try:
            self.catch_up()
        except TrackingError as error:
            run_logger(__name__).warning(
                "MLflow could not be told of %s: %s The run goes on; what MLflow has missed (%d so far) is kept and "
                "follows as soon as it answers.",
                what,
                error,
                len(self),
            )
            return False
        return True

    def catch_up(self) -> Opened:
        """Tell everything that is left, and return what it was written to.

        An entry that is refused for good is dropped with a warning, so that it does not hold up the others.

        Raises:
            TrackingError: If there is no answer; what has not been told is kept.
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

    def _write(self, opened: Opened, entry: Entry[Opened]) -> None:
        try:
            entry.write(opened)
        except TrackingRefused as error:
            run_logger(__name__).warning("MLflow does not take %s, which it will lack: %s", entry.what, error)

    def wait(self, patience_seconds: float | None = None) -> Opened:
        """Tell everything that is left, trying again with growing pauses.

        Args:
            patience_seconds: For how long; `TICKERFORGE_MLFLOW_PATIENCE`, or five minutes, if not given.

        Raises:
            TrackingError: If there is no answer in that time; says that nothing is lost and what to do.
        """
        patience = default_patience() if patience_seconds is None else patience_seconds
        began, pause = time.monotonic(), FIRST_PAUSE_SECONDS
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
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def default_patience() -> float:
    """How long to wait for MLflow, in seconds: `TICKERFORGE_MLFLOW_PATIENCE`, or five minutes.

    Raises:
        TrackingError: If the variable holds no number.
    """
    text = os.environ.get(PATIENCE_VARIABLE, "")
    try:
        return float(text) if text else PATIENCE_SECONDS
    except ValueError as error:
        raise TrackingError(f"{PATIENCE_VARIABLE}={text!r}: give a number of seconds, such as 300") from error
