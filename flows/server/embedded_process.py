"""The process of the embedded Prefect server, which ends with the command that started it, even if that is killed."""

import asyncio
import os
import signal
import socket
import sys
import threading
import time

_GRACE_SECONDS = 2
_KILL_SECONDS = 60


def _stop_at_end_of_input() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_KILL_SECONDS)
    os._exit(1)


def _serve() -> None:
    """Serve on the listening socket whose descriptor is the first argument, until standard input ends."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    threading.Thread(target=_stop_at_end_of_input, daemon=True).start()

    # Its database is nobody else's business.
    os.umask(0o077)

    # Two servers that make or migrate one database at the same time both fail, so that is done below, under a lock.
    os.environ["PREFECT_SERVER_DATABASE_MIGRATE_ON_START"] = "false"

    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.server.database import provide_database_interface

    from tickerforge.flows.server.sqlite import wait_for_write_lock
    from tickerforge.tasks.base.disk import locked
    from tickerforge.tasks.base.gate import Gate
    from tickerforge.tasks.base.paths import Workspace

    wait_for_write_lock()
    with locked(Workspace.current().locks / "prefect-migration.lock", waiting_for="Prefect's database"):
        asyncio.run(provide_database_interface().create_db())
    gate = Gate(create_app(ephemeral=True, final=True))
    config = uvicorn.Config(gate, log_level="error", lifespan="on", timeout_graceful_shutdown=_GRACE_SECONDS)
    uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    _serve()
