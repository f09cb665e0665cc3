"""Two flows that hold a GPU's slot and a child process until they are cancelled: one hears signals, one does not."""

import hashlib
import logging
import subprocess
import sys
import time
from pathlib import Path

from prefect import flow

from tickerforge.flows.server import begin as beginning
from tickerforge.flows.server.begin import begin
from tickerforge.flows.server.slots import gpu_slot
from tickerforge.tasks.tracking.runs import LifeSign

beginning.POLL_SECONDS = 0.5
beginning.WORKER_SECONDS = 1.0
beginning.END_SECONDS = 2.0
CHILD = "import sys; sys.stdin.read()"


def at_work(name: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, start_new_session=True)
    Path(f"{name}.child").write_text(str(child.pid))


@flow(on_running=[begin])
def hears() -> None:
    """Sleep in Python, which a signal interrupts."""
    logging.getLogger("tickerforge.flows").info("the first line")
    with gpu_slot():
        at_work("hears")
        try:
            time.sleep(300)
        finally:
            Path("hears.ended").touch()


@flow(on_running=[begin])
def is_deaf() -> None:
    """Compute in C, which no signal interrupts."""
    at_work("is_deaf")
    sign = LifeSign(Path.cwd(), Path("is_deaf.sign").resolve())
    Path("is_deaf.watcher").write_text(str(sign._watcher))
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
