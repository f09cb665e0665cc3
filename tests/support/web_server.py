"""A web server on this machine whose answers a test writes down, one for each request."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Reply:
    """One answer; `sent` bytes of the body are sent before the line goes dead, or is quiet for `silence` seconds."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    sent: int | None = None
    silence: float = 0.0


@dataclass
class Web:
    """The server: its address, what it was asked (path and header fields), and what it answers."""

    url: str
    answer: Callable[[str, Mapping[str, str]], Reply]
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    posted: list[bytes] = field(default_factory=list)


def ranged(body: bytes, headers: Mapping[str, str], **options: object) -> Reply:
    """The part of a body that a request asks for."""
    wanted = headers.get("Range", "")
    if not wanted:
        return Reply(body, **options)
    start = int(wanted.removeprefix("bytes=").rstrip("-"))
    if start >= len(body):
        return Reply(status=416)
    shown = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
    return Reply(body[start:], status=206, headers=shown, **options)


@contextmanager
def web_server(answer: Callable[[str, Mapping[str, str]], Reply]) -> Iterator[Web]:
    """Run a server until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.asked.append((self.path, dict(self.headers)))
            reply = web.answer(self.path, dict(self.headers))
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body if reply.sent is None else reply.body[: reply.sent])
            self.wfile.flush()
            time.sleep(reply.silence)
            self.close_connection = True

        def do_POST(self) -> None:
            web.posted.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.do_GET()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    web = Web(f"http://127.0.0.1:{server.server_port}", answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
