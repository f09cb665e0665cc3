"""Child processes: how one ends with its parent, and what its output says about a failure.

A child's standard input is a pipe that its parent holds open. When the parent closes it or dies, the child and the
processes that it started end at once.
"""

import contextlib
import logging
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_GRACE_SECONDS = 10.0
_SHOWN_LINES = 40
# Launchers put the rank in front of a line, vLLM the process and the place of the log record.
_PREFIX = r"(?:\[rank\d+\]:\s*|\(\w+ pid=\d+\) (?:ERROR .*?\] )?)?"
_RAISED = re.compile(rf"^{_PREFIX}((?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*)")


def child_environment() -> dict[str, str]:
    """Return this process's environment without the working folder on the path.

    Otherwise a `random.py` there would replace Python's own.
    """
    return os.environ | {"PYTHONSAFEPATH": "1"}


def end_child(process: subprocess.Popen[Any]) -> None:
    """End a child that was started in a session of its own, with all its processes."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def end_with_parent() -> None:
    """Wait until the parent closes this child's standard input, then end this child and its processes."""
    while os.read(0, 1):
        pass
    end_group()


def end_group() -> None:
    """End this process and those that it started."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


def why_it_ended(output: Path, *, what: str, code: int) -> str:
    """Say how a child ended and the first error that it printed; log the last lines of its output.

    Args:
        output: File with everything that the child printed.
        what: Name of the child's work.
        code: Exit code; below 0 it is the negative number of a signal.
    """
    lines = output.read_text(errors="replace").splitlines()
    logger.error("%s: the last lines of its process:\n%s", what, "\n".join(lines[-_SHOWN_LINES:]))
    raised = [found[1] for line in lines if (found := _RAISED.match(line))]
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    cause = raised[0] if raised else "it printed no error; if memory ran out, the system killed it without a message"
    return f"{what} {how} in its own process: {cause}. The log holds the last lines of its output."
