"""Progress of a stage: a log line every few seconds, and a live bar on a terminal."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from tickerforge.tasks.base.logs import run_logger
from tickerforge.training.contracts import OnProgress, Progress

_LOG_SECONDS = 5.0
_TERMINAL_LOG_SECONDS = 30.0
_SHOWN_METRICS = (("reward", "reward {:.2f}"), ("valid_rate", "valid {:.0%}"), ("loss", "loss {:.3f}"))


class Pace:
    """Estimates the time left from the steps that this process has done; steps that were done before do not count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage: str | None = None
        self._first = (0, 0.0)

    def seconds_left(self, event: Progress) -> float | None:
        """Return the seconds until the stage ends, or `None` before the second event of a stage."""
        now = self._clock()
        if event.stage != self._stage or event.step < self._first[0]:
            self._stage, self._first = event.stage, (event.step, now)
            return None
        done = event.step - self._first[0]
        if done == 0:
            return None
        return (now - self._first[1]) / done * max(event.total - event.step, 0)


def describe(event: Progress, seconds_left: float | None) -> str:
    """Return one line such as `grpo_1st 40/100 | reward -0.42 | valid 99% | 0:35 left`."""
    parts = [f"{event.stage} {event.step}/{event.total}", *_metrics(event)]
    if seconds_left is not None:
        minutes, seconds = divmod(round(seconds_left), 60)
        parts.append(f"{minutes}:{seconds:02d} left")
    return " | ".join(parts)


@contextmanager
def progress_reporter(clock: Callable[[], float] = time.monotonic) -> Iterator[OnProgress]:
    """Yield a callback to which a long operation reports its progress.

    It logs to Prefect's run logger inside a run, at most one line per five seconds and always the last step of a stage.
    If standard error is a terminal, it also draws a live bar and logs less often.
    """
    log = run_logger(__name__)
    terminal = sys.stderr.isatty()
    every = _TERMINAL_LOG_SECONDS if terminal else _LOG_SECONDS
    pace = Pace(clock)
    last_logged: float | None = None

    with _live_bar() if terminal else nullcontext() as draw:

        def report(event: Progress) -> None:
            nonlocal last_logged
            left = pace.seconds_left(event)
            if draw is not None:
                draw(event)
            now = clock()
            if last_logged is None or now - last_logged >= every or event.step >= event.total:
                log.info(describe(event, left))
                last_logged = now

        yield report


def _metrics(event: Progress) -> list[str]:
    return [form.format(event.metrics[name]) for name, form in _SHOWN_METRICS if name in event.metrics]


@contextmanager
def _live_bar() -> Iterator[Callable[[Progress], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}"),
    )
    rows: dict[str, Any] = {}
    with Bars(*columns, console=_console(), transient=True) as bars:

        def draw(event: Progress) -> None:
            if event.stage not in rows:
                rows[event.stage] = bars.add_task(event.stage, total=event.total, completed=event.step, metrics="")
            bars.update(rows[event.stage], total=event.total, completed=event.step, metrics="  ".join(_metrics(event)))

        yield draw


def _console() -> Any:
    """Return the console of the log lines, so that they and the bar do not overwrite each other."""
    from rich.console import Console

    for name in ("prefect", None):
        for handler in logging.getLogger(name).handlers:
            console = getattr(handler, "console", None)
            if isinstance(console, Console) and console.is_terminal:
                return console
    return Console(stderr=True)
