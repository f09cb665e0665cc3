import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "audit.py"
KNOWN = {
    "id": "GHSA-test-0001",
    "summary": "a hole",
    "affected": [
        {
            "package": {"name": "holey", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


class Osv(BaseHTTPRequestHandler):
    """Answers as OSV does, and knows one vulnerability of holey 1.0."""

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        holey = (question["package"]["name"], question["version"]) == ("holey", "1.0")
        answer = json.dumps({"vulns": [KNOWN]} if holey else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def osv() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Osv) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()
        thread.join()


def run(folder: Path, url: str, *, pins: str, ignore: str = "") -> "subprocess.CompletedProcess[str]":
    (folder / "constraints.txt").write_text(pins)
    (folder / "ignore.toml").write_text(ignore)
    files = ["--constraints", str(folder / "constraints.txt"), "--ignore", str(folder / "ignore.toml")]
    command = [sys.executable, str(SCRIPT), "--osv-url", url, *files]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


def test_a_known_vulnerability_fails_and_is_named_with_its_fix(osv: str, tmp_path: Path) -> None:
    done = run(tmp_path, osv, pins="sound==2.0\nholey==1.0\n")
    assert done.returncode == 1
    assert "holey 1.0: GHSA-test-0001, fixed in 1.1" in done.stderr
    assert "sound" not in done.stderr


def test_nothing_known_passes(osv: str, tmp_path: Path) -> None:
    done = run(tmp_path, osv, pins="sound==2.0\nholey==1.1\n")
    assert (done.returncode, done.stdout.split(":")[0]) == (0, "audit passed")


def test_an_accepted_vulnerability_passes_but_only_with_a_reason(osv: str, tmp_path: Path) -> None:
    accepted = '[[ignore]]\nid = "GHSA-test-0001"\nreason = "holey never sees a stranger\'s input"\n'
    done = run(tmp_path, osv, pins="holey==1.0\n", ignore=accepted)
    assert done.returncode == 0
    assert "1 accepted" in done.stdout
    done = run(tmp_path, osv, pins="holey==1.0\n", ignore='[[ignore]]\nid = "GHSA-test-0001"\nreason = " "\n')
    assert done.returncode == 1
    assert "needs an id and a reason" in done.stderr


def test_a_pin_that_cannot_be_read_fails_instead_of_passing_unchecked(osv: str, tmp_path: Path) -> None:
    done = run(tmp_path, osv, pins="holey>=1.0\n")
    assert done.returncode == 1
    assert "the audit failed" in done.stderr


def test_without_the_database_it_is_skipped_aloud_within_seconds(tmp_path: Path) -> None:
    started = time.monotonic()
    done = run(tmp_path, "http://127.0.0.1:9/v1/query", pins="holey==1.0\n")
    assert time.monotonic() - started < 60
    assert done.returncode == 0
    assert done.stdout.startswith("audit skipped: http://127.0.0.1:9/v1/query does not answer")


def test_the_accepted_vulnerabilities_of_this_project_all_have_a_reason(osv: str, tmp_path: Path) -> None:
    ignore = (SCRIPT.parent / "audit-ignore.toml").read_text()
    assert run(tmp_path, osv, pins="sound==2.0\n", ignore=ignore).returncode == 0
