"""A real proxy that refuses everything, as that of a company may, and records what it was asked."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

NAMES = ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "wss_proxy")


class RefusingProxy(BaseHTTPRequestHandler):
    """Answers every request with 403."""

    asked: ClassVar[list[str]] = []

    def _refuse(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        self.send_response(403, "Forbidden by the proxy")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_CONNECT = _refuse

    def log_message(self, *arguments: object) -> None:
        """Keep the tests' output short."""


@contextmanager
def refusing_proxy() -> Iterator[tuple[dict[str, str], list[str]]]:
    """Run the proxy; yields the environment variables that name it, and the list of what it was asked."""
    RefusingProxy.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), RefusingProxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield {each: url for name in NAMES for each in (name, name.upper())}, RefusingProxy.asked
        server.shutdown()
