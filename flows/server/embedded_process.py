"""The process of the embedded Prefect server, which ends with the command that started it, even if that is killed."""

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

    # Other users must not read its database.
    os.umask(0o077)

    import uvicorn
    from prefect.server.api.server import create_app

    from tickerforge.flows.server.sqlite import wait_for_write_lock
    from tickerforge.tasks.base.disk import locked
    from tickerforge.tasks.base.gate import Gate
    from tickerforge.tasks.base.paths import Workspace

    class OneAtATime(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            # Two servers that make or migrate the same database at the same time both fail.
            with locked(Workspace.current().locks / "prefect-start.lock", waiting_for="the start of Prefect"):
                await super().startup(sockets)

    wait_for_write_lock()
    gate = Gate(create_app(ephemeral=True, final=True))
    config = uvicorn.Config(gate, log_level="error", lifespan="on", timeout_graceful_shutdown=_GRACE_SECONDS)
    OneAtATime(config).run([listener])


if __name__ == "__main__":
    _serve()
