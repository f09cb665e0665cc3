"""The gate before a server of ours: whose requests pass, by their address, their origin and their login."""

import base64
import hmac
import secrets
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Scope]]
_Send = Callable[[_Scope], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_USER = "tickerforge"
_SECRET_BYTES = 24
_WRONG_HOST = "this server is not known under the name in the header Host; TICKERFORGE_HOSTS adds names\n"
_WRONG_ORIGIN = "this server answers its own pages only, not those of another address\n"
_NO_LOGIN = "log in; `tickerforge status` shows user and password\n"
_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"SAMEORIGIN"))


def new_login() -> str:
    """Return a user and a random password, `user:password`."""
    return f"{_USER}:{secrets.token_urlsafe(_SECRET_BYTES)}"


class Gate:
    """Refuse requests from other pages, to other names and without the login, before they reach an ASGI app.

    A page of another address cannot hide its `Origin`, except from requests that change nothing; those show in
    `Sec-Fetch-Site`. A page whose own name was made to lead here (DNS rebinding) shows in `Host`.

    Args:
        app: The app behind the gate.
        hosts: Names under which the server is known, without ports; the address at which a connection arrived is one
            anyway.
        login: `user:password` that each request must carry; `None` if the app checks the login itself, or needs none.
        open_path: Path that answers without a login.
    """

    def __init__(
        self, app: _App, *, hosts: Collection[str] = (), login: str | None = None, open_path: str = ""
    ) -> None:
        self._app = app
        self._hosts = {name.lower() for name in hosts} | LOCAL_NAMES
        self._credentials = None if login is None else b"Basic " + base64.b64encode(login.encode())
        self._open_path = open_path

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            status, reason = refusal
            headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
            if status == 401:
                headers.append((b"www-authenticate", b'Basic realm="TickerForge"'))
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": reason.encode()})

    def _refusal(self, scope: _Scope) -> tuple[int, str] | None:
        headers = dict(scope["headers"])
        # Two headers of one name could show one to this check and the other to the app.
        if sum(name == b"host" for name, _ in scope["headers"]) != 1:
            return 400, _WRONG_HOST
        host = headers[b"host"].decode("latin-1").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name not in self._hosts and name != (scope.get("server") or ("",))[0]:
            return 403, _WRONG_HOST
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").lower().partition("://")[2] != host:
            return 403, _WRONG_ORIGIN
        if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin") and not _follows_link(
            scope, headers
        ):
            return 403, _WRONG_ORIGIN
        if self._credentials is None or (scope["path"] == self._open_path and scope.get("method") == "GET"):
            return None
        if hmac.compare_digest(headers.get(b"authorization", b""), self._credentials):
            return None
        return 401, _NO_LOGIN


def _follows_link(scope: _Scope, headers: dict[bytes, bytes]) -> bool:
    """Return whether a browser opens this address as a page of its own, as after a click on a link."""
    shown = headers.get(b"sec-fetch-mode") == b"navigate" and headers.get(b"sec-fetch-dest") == b"document"
    return shown and scope.get("method") in ("GET", "HEAD")


def _with_headers(send: _Send) -> _Send:
    """Add the headers that keep the pages out of frames of other pages."""

    async def sending(message: _Scope) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message.get("headers", ())}
            message["headers"] = [*message.get("headers", ()), *(each for each in _HEADERS if each[0] not in there)]
        await send(message)

    return sending
