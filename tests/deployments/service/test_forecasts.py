"""The server of forecasts: its answers, its 4xx with the words of the command line, and the gate before it."""

import asyncio
import base64
from pathlib import Path

import httpx
import pytest

from desk_rows import desk_row
from tickerforge.deployments.service.forecasts import forecasts_app
from tickerforge.features.config import SyntheticConfig
from tickerforge.features.synthetic import market
from tickerforge.flows.settings.config import build_config
from tickerforge.tasks.base.gate import Gate
from tickerforge.tasks.outputs.desk import keep_rows
from tickerforge.tasks.outputs.live import read_issued
from tickerforge.tasks.prices.price_files import keep

LOGIN = "tickerforge:secret"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home for all tests of this file, with prices of one stock beside it."""
    folder = tmp_path_factory.mktemp("served")
    keep(folder / "prices", "AAPL", market(SyntheticConfig(process="random_walk", sessions=500)))
    return folder


@pytest.fixture
def gate(home: Path, working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    monkeypatch.setenv("TICKERFORGE_HOME", str(home / "home"))
    config = build_config(flags={"data": home / "prices"})
    return Gate(forecasts_app(config), hosts=(), login=LOGIN)


def get(gate: Gate, path: str, **headers: str) -> httpx.Response:
    own = {"authorization": f"Basic {base64.b64encode(LOGIN.encode()).decode()}"}

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=gate, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
            return await client.get(path, headers={**own, **headers})

    return asyncio.run(ask())


def test_a_forecast_is_made_and_not_recorded(gate: Gate) -> None:
    answer = get(gate, "/forecast/AAPL")
    assert answer.status_code == 200
    made = answer.json()
    assert (made["ticker"], len(made["sessions"]), made["version"]) == ("AAPL", 10, None)
    assert made["issuer"] in ("random_walk", "random_walk_har", "drift")
    first = made["sessions"][0]
    assert first["lower"] < first["median"] < first["upper"]
    assert len(first["quantiles"]) == 19
    assert read_issued("AAPL") == ()


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("/forecast/MSFT", 404, "no prices for MSFT"),
        ("/forecast/AAPL?alias=champion", 404, "train it first with `tickerforge run --stock AAPL`"),
        ("/forecast/a%20b", 400, "'a b' is not a ticker name"),
        ("/forecast/AAPL?as_of=soon", 422, "as_of = 'soon': must be a date, YYYY-MM-DD"),
        ("/forecast/AAPL?as_of=1990-01-01", 400, "the prices of AAPL begin on"),
        ("/docs", 404, "Not Found"),
    ],
)
def test_bad_input_gets_the_words_of_the_command_line(gate: Gate, path: str, status: int, told: str) -> None:
    answer = get(gate, path)
    assert (answer.status_code, told in answer.json()["detail"]) == (status, True), answer.text


def test_the_desk_and_its_rows_are_served_and_described(gate: Gate) -> None:
    keep_rows([desk_row("AAPL")])
    assert [row["ticker"] for row in get(gate, "/forecasts").json()] == ["AAPL"]
    page = get(gate, "/")
    assert page.headers["content-type"].startswith("text/html")
    assert "Content-Security-Policy" in page.text
    assert {"/", "/forecasts", "/forecast/{stock}"} == set(get(gate, "/openapi.json").json()["paths"])


def test_other_hosts_other_pages_and_callers_without_the_login_are_refused(gate: Gate) -> None:
    assert get(gate, "/", host="evil.example").status_code == 403
    assert get(gate, "/", origin="https://evil.example").status_code == 403
    assert get(gate, "/forecasts", authorization="").status_code == 401
