"""The logger of tasks: Prefect's logger of the current run, or the standard one outside of runs."""

import logging
import sys

Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]


def run_logger(name: str) -> Logger:
    """Return Prefect's logger of the current task or flow run, or `logging.getLogger(name)` outside of a run.

    Prefect is not imported for this: before anything has imported it, no run can be active.
    """
    if "prefect" in sys.modules:
        from prefect.context import FlowRunContext, TaskRunContext

        if TaskRunContext.get() or FlowRunContext.get():
            from prefect.logging import get_run_logger

            # `own` marks our lines, because Prefect writes its own lines through the same logger.
            return get_run_logger(own=True)
    return logging.getLogger(name)
