"""Closes the MLflow run of a process that was killed: `python -m tickerforge.tasks.tracking.watcher HOME SIGN`.

Every run starts one. Until the run's process ends it only waits, and imports no library.
"""

import fcntl
import os
import sys
import time

_PAUSE_SECONDS = 10.0


def watch(home: str, sign: str) -> None:
    """Wait until the process that holds a run's sign of life ends, and close the run if it did not do so itself."""
    try:
        descriptor = os.open(sign, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    if os.path.exists(sign):
        _close(home, sign)


def _close(home: str, sign: str) -> None:
    from pathlib import Path

    from tickerforge.tasks.base.errors import TrackingError
    from tickerforge.tasks.base.paths import Workspace
    from tickerforge.tasks.tracking.backfill import default_patience
    from tickerforge.tasks.tracking.client import connect
    from tickerforge.tasks.tracking.runs import close_killed

    deadline = time.monotonic() + default_patience()
    while True:
        try:
            close_killed(connect(Workspace(Path(home))), Path(sign))
        except TrackingError:
            # If MLflow stays away, the next run on this machine closes this one.
            if time.monotonic() > deadline:
                return
            time.sleep(_PAUSE_SECONDS)
        else:
            return


if __name__ == "__main__":
    watch(*sys.argv[1:])
