"""The process that forks for each flow run."""

import array
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import tickerforge.deployments.service.warm as warm
import tickerforge.tasks.base.retries as retries
from service_home import free_port, wait_until
from tickerforge.deployments.service.warm import WarmProcess
from tickerforge.deployments.service.warm_start import WarmStart


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder in which a socket can be made wherever the temporary files are: its name is short."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_a_client_that_ends_in_the_middle_of_its_request_leaves_no_open_file(short_folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_folder / "warm.sock"))
        listener.listen()
        process = WarmProcess(listener)
        before = os.listdir("/proc/self/fd")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(short_folder / "warm.sock"))
            streams = array.array("i", range(3))
            client.sendmsg([(100).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
            client.sendall(b"{")
        assert process._accept(listener) is None
        assert os.listdir("/proc/self/fd") == before


def test_it_ends_with_its_worker_also_while_it_still_imports(short_folder: Path) -> None:
    (short_folder / "socket").mkdir()
    path = short_folder / "socket" / "warm.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        command = [sys.executable, "-m", warm.__name__, "models", str(path), str(listener.fileno())]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])
    # Its own handler is there before the first import.
    assert wait_until(lambda: handles_sigterm(process.pid), seconds=30)
    process.terminate()
    assert process.wait(timeout=60) == 0
    assert not path.parent.exists()


def handles_sigterm(process: int) -> bool:
    (caught,) = [line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("SigCgt")]
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_a_run_waits_for_a_prefect_that_is_starting_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setattr(retries, "_PAUSE_SECONDS", 0.1)
    port, asked = free_port(), list[str]()

    class Hello(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

    def start_late() -> None:
        time.sleep(1)
        with HTTPServer(("127.0.0.1", port), Hello) as server:
            server.handle_request()

    late = threading.Thread(target=start_late)
    late.start()
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
        warm.wait_for_prefect()
    late.join()
    assert asked == ["/api/hello"]


def test_a_warm_process_that_was_killed_is_started_again() -> None:
    start = WarmStart(models=False)
    killed, place = start.process, start.place()
    assert start.place() == place
    killed.kill()
    killed.wait(90)
    again = start.place()
    assert start.process.pid != killed.pid
    assert again.is_socket()
    assert not place.parent.exists()
    assert start.process.stdin is not None
    start.process.stdin.close()
    start.process.terminate()
    assert start.process.wait(90) in (0, -signal.SIGTERM)
    shutil.rmtree(again.parent, ignore_errors=True)
