"""A proxy that refuses everything: neither our probes nor the clients of Prefect and MLflow ask it for loopback."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from refusing_proxy import refusing_proxy

# What a command does, then what a run of a worker that inherits its environment does.
PROGRAM = """
import os, subprocess, sys
from tickerforge.flows.cli.terminal import set_environment
from tickerforge.flows.server.embedded import start_prefect, wait_for_prefect
set_environment()
start_prefect()
wait_for_prefect()
child = '''
import sys
from prefect import flow
@flow
def answer() -> int:
    return 42
assert answer() == 42
from mlflow.utils.rest_utils import MlflowHostCreds, http_request
assert http_request(MlflowHostCreds(sys.argv[1]), "/health", "GET").status_code == 200
print("both answered")
'''
sys.exit(subprocess.run([sys.executable, "-c", child, sys.argv[1]]).returncode)
"""


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.mark.slow
def test_this_machine_is_never_asked_for_through_a_proxy(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as server, refusing_proxy() as (proxied, asked):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, f"http://127.0.0.1:{server.server_port}"],
            env=kept | proxied | {"TICKERFORGE_HOME": str(tmp_path / "home"), "NO_PROXY": "localhost", "no_proxy": ""},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        server.shutdown()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "both answered" in done.stdout
    assert asked == []
