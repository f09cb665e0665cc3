"""The logger to use inside tasks: Prefect's run logger where a run is under way, the standard one elsewhere."""

import logging
import sys

Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]


def run_logger(name: str) -> Logger:
    """Prefect's logger of the current task or flow run, or `logging.getLogger(name)` outside of one.

    Prefect is not imported for it: where nothing has imported it, no run can be under way.
    """
    if "prefect" in sys.modules:
        from prefect.context import FlowRunContext, TaskRunContext

        if TaskRunContext.get() or FlowRunContext.get():
            from prefect.logging import get_run_logger

            # Marked, because Prefect writes its own lines through the same logger.
            return get_run_logger(own=True)
    return logging.getLogger(name)
