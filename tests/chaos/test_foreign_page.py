"""A page from elsewhere in the owner's browser, and a name that points here: neither may start anything."""

import json
import urllib.error
import urllib.request

import pytest

from operations import NIGHT, Operations

pytestmark = pytest.mark.chaos

PAGE = {"Origin": "http://evil.example", "Referer": "http://evil.example/"}
REFUSED = {400, 401, 403}


@pytest.mark.parametrize("kind", ["application/json", "text/plain", None])
@pytest.mark.parametrize("login", [False, True])
def test_a_post_from_a_foreign_page_or_for_a_foreign_host_starts_no_run(
    operations: Operations, kind: str | None, login: bool
) -> None:
    night = operations.api(f"/deployments/name/{NIGHT}")["id"]
    before = operations.api("/flow_runs/count", {})
    # A browser sends no login with a foreign page's request. Under a rebound name it sends the user's own.
    headers = operations.headers() | {"Host": "evil.example"} if login else dict(PAGE)
    if kind is not None:
        headers["Content-Type"] = kind
    url = f"http://127.0.0.1:{operations.prefect_port}/api/deployments/{night}/create_flow_run"
    request = urllib.request.Request(url, data=json.dumps({}).encode(), headers=headers, method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code in REFUSED
    assert operations.api("/flow_runs/count", {}) == before
