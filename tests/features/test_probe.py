import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import URLError

import pytest

from mlflow_server import free_port
from tickerforge.features.probe import probe


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path.rpartition("/")[2]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Health) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.mark.parametrize("status", [200, 401, 404, 503])
def test_every_answer_has_its_status(server: str, status: int) -> None:
    assert probe(f"{server}/{status}", timeout=5) == status


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert probe(f"{server}/200", timeout=5) == 200


def test_another_machine_is_asked_by_the_proxy_of_the_environment(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server)
    monkeypatch.delenv("no_proxy", raising=False)
    assert probe("http://mlflow.invalid/503", timeout=5) == 503


def test_no_answer_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(URLError) as caught:
        probe(f"http://127.0.0.1:{free_port()}", timeout=5)
    assert isinstance(caught.value.reason, ConnectionRefusedError)
    with pytest.raises(URLError, match="unknown url type"):
        probe("127.0.0.1", timeout=5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(URLError, match="timed out"):
            probe(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)
