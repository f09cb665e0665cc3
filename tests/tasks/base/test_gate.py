import asyncio
import base64
from typing import Any

import pytest

from tickerforge.tasks.base.gate import Gate, new_login

LOGIN = "tickerforge:a-password"
RIGHT = base64.b64encode(LOGIN.encode()).decode()
OWN = "127.0.0.1:4200"


async def _app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"inside"})


def asked(kind: str = "http", *, method: str = "POST", path: str = "/api", **headers: str) -> Any:
    """Return the first message with which a gate answers; underscores in names of headers stand for hyphens."""
    named = {"host": OWN, **{name.replace("_", "-"): value for name, value in headers.items()}}
    raw = [(name.encode(), value.encode()) for name, value in named.items()]
    scope = {"type": kind, "method": method, "path": path, "headers": raw, "server": ("127.0.0.1", 4200)}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    asyncio.run(Gate(_app, hosts=["desk.example"], login=LOGIN, open_path="/health")(scope, receive, send))
    return sent[0].get("status", sent[0]["type"])


@pytest.mark.parametrize("host", [OWN, "localhost:4200", "[::1]:4200", "desk.example", "DESK.example:4200"])
def test_the_owner_passes_under_every_name_of_the_server(host: str) -> None:
    assert asked(host=host, authorization=f"Basic {RIGHT}") == 200


@pytest.mark.parametrize("host", ["elsewhere.example", "elsewhere.example:4200", "127.0.0.1.elsewhere.example", ""])
def test_a_name_that_was_made_to_lead_here_is_refused(host: str) -> None:
    assert asked(host=host, authorization=f"Basic {RIGHT}") == 403


@pytest.mark.parametrize("origin", ["http://elsewhere.example", "null", "http://127.0.0.1:5000", "http://127.0.0.1"])
def test_a_page_of_another_address_is_refused_even_with_the_login(origin: str) -> None:
    assert asked(origin=origin, authorization=f"Basic {RIGHT}") == 403
    assert asked("websocket", origin=origin, authorization=f"Basic {RIGHT}") == "websocket.close"


def test_its_own_page_passes() -> None:
    assert asked(origin=f"http://{OWN}", sec_fetch_site="same-origin", authorization=f"Basic {RIGHT}") == 200
    assert asked("websocket", origin=f"http://{OWN}", authorization=f"Basic {RIGHT}") == "websocket.accept"


def test_a_request_that_another_page_makes_without_an_origin_is_refused_but_a_link_is_followed() -> None:
    login = f"Basic {RIGHT}"
    assert asked(method="GET", sec_fetch_site="cross-site", sec_fetch_mode="no-cors", authorization=login) == 403
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert asked(method="GET", authorization=login, **link) == 200
    assert asked(method="POST", authorization=login, **link) == 403


@pytest.mark.parametrize("sent", [{}, {"authorization": "Basic wrong"}, {"authorization": f"Bearer {RIGHT}"}])
def test_without_the_login_only_the_health_check_answers(sent: dict[str, str]) -> None:
    assert asked(**sent) == 401
    assert asked("websocket", **sent) == "websocket.close"
    assert asked(method="GET", path="/health", **sent) == 200
    assert asked(method="POST", path="/health", **sent) == 401


def test_every_password_is_new() -> None:
    assert new_login() != new_login()
