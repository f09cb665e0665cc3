"""A worker of the service: Prefect's process worker, patient in an outage, whose runs start in a warm process."""

import argparse
import asyncio
import os
import platform
import sys
import time
from typing import TYPE_CHECKING, Any

from prefect.utilities.processutils import command_to_string, setup_signal_handlers_worker
from prefect.workers.process import ProcessWorker

from tickerforge.deployments.service import warm
from tickerforge.deployments.service.warm_start import WarmStart
from tickerforge.deployments.service.watchdog import start_watchdog
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.base.retries import is_transient

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

# So long a server may be away before the worker ends, and its runs with it.
_PATIENCE_SECONDS = 120


class ServiceWorker(ProcessWorker):
    """Prefect's process worker, except that one query per second may fail for two minutes."""

    def __init__(self, *, warm_start: WarmStart | None, **options: Any) -> None:
        super().__init__(**options)
        self._warm_start = warm_start
        self._answered = time.monotonic()

    async def get_and_submit_flow_runs(self) -> "list[FlowRun]":
        """Look for scheduled runs and start them; an outage of the server is not an error until it lasts."""
        try:
            found = await super().get_and_submit_flow_runs()
        except Exception as error:
            lasting = time.monotonic() - self._answered > _PATIENCE_SECONDS
            if lasting or not is_transient(error):
                raise
            return []
        self._answered = time.monotonic()
        return found

    async def run(self, flow_run: "FlowRun", configuration: Any, task_status: Any = None) -> Any:
        """Execute a run in a fork of the warm process, whatever command its variables name."""
        start = self._warm_start
        configuration.command = None if start is None else command_to_string(warm.command(start.place()))
        return await super().run(flow_run, configuration, task_status)


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pool")
    parser.add_argument("--limit", type=int, required=True, help="most runs at a time")
    parser.add_argument("--models", action="store_true", help="import the model libraries too")
    parser.add_argument("--watch-servers", action="store_true", help="restart Prefect and MLflow if they hang")
    options = parser.parse_args()
    if options.watch_servers:
        start_watchdog(Workspace.current())
    name = f"{options.pool.removesuffix('-pool')}-{platform.node()}"
    setup_signal_handlers_worker(os.getpid(), f"the worker {name}", print)
    worker = ServiceWorker(
        # The warm process needs Linux.
        warm_start=WarmStart(models=options.models) if sys.platform == "linux" else None,
        work_pool_name=options.pool,
        name=name,
        limit=options.limit,
        create_pool_if_not_found=False,
    )
    asyncio.run(worker.start())


if __name__ == "__main__":
    _main()
