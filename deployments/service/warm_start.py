"""The start of a worker's warm process, at first and after it was killed."""

import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from tickerforge.deployments.service import warm

_WAITING_CLIENTS = 64


class WarmStart:
    """The warm process of a worker, which starts again if it was killed, for example because memory was short.

    Args:
        models: Whether it imports the model libraries too.
    """

    def __init__(self, *, models: bool) -> None:
        self._models = models
        self._start()

    def place(self) -> Path:
        """Return the socket at which the process listens, or will listen when its imports are done."""
        if self.process.poll() is not None:
            shutil.rmtree(self._place.parent, ignore_errors=True)
            self._start()
        return self._place

    def _start(self) -> None:
        self._place = Path(tempfile.mkdtemp(prefix="tickerforge-")) / "warm.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self._place))
            listener.listen(_WAITING_CLIENTS)
            descriptor = listener.fileno()
            # It ends at the end of its input, which this process holds open.
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", warm.__name__),
                    *("models" if self._models else "flows", str(self._place), str(descriptor)),
                ],
                stdin=subprocess.PIPE,
                pass_fds=[descriptor],
            )
