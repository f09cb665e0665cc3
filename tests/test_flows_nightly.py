"""The night in one process: the fault of one ticker leaves the others alone and ends the night red."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny_pipeline import tiny_config
from web_server import Reply
from yahoo_server import up_to, yahoo_server

from features.bars import read_csv
from features.synthetic import market
from flows.config import with_overrides
from flows.errors import NightFailed
from flows.nightly import nightly
from tasks.disk import tree_hashes
from tasks.price_files import keep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
]


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    """A data folder with a good ticker between two faulty ones: a negative price, and too few sessions."""
    folder = tmp_path / "prices"
    folder.mkdir()
    names = ["Date", "Open", "High", "Low", "Close", "Adj Close", "Volume"]
    table = market(tiny_config().synthetic).set_axis(names, axis=1)
    faulty = table.copy()
    faulty.loc[50, "Close"] = -1.0
    for stock, frame in {"BAD": faulty, "GOOD": table, "SHORT": table.head(30)}.items():
        frame.to_csv(folder / f"{stock}.csv", index=False, date_format="%Y-%m-%d")
    return folder


def night_table() -> list[dict[str, Any]]:
    """The newest table of a night on the server."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = [each for each in client.read_artifacts() if each.key == "night"]
    return json.loads(max(found, key=lambda each: each.created).data)


def test_a_good_ticker_is_done_and_the_night_ends_red_with_a_table_of_who_failed_and_why(
    prefect_server: None, working_folder: Path, prices: Path
) -> None:
    config = with_overrides(tiny_config(), ["stock=GOOD", f"data={prices}", "warm_start=champion"])
    with pytest.raises(NightFailed, match=r"3 tickers: \d promoted, 2 failed") as failure:
        nightly(config)
    told = str(failure.value).splitlines()[1:]
    assert [line.partition(":")[0] for line in told] == ["BAD", "SHORT"]
    assert "negative" in told[0] or "Close" in told[0]
    table = night_table()
    assert [row["Stock"] for row in table] == ["BAD", "SHORT", "GOOD"]
    assert [row["Outcome"] for row in table[:2]] == ["failed", "failed"]
    assert all(row["Why"] for row in table)
    assert table[2]["Outcome"] in ("kept", "promoted")
    assert "% by " in table[2]["Forecast"]
    assert [path.name for path in (working_folder / "models" / "tiny").iterdir()] == ["GOOD"]
    before = tree_hashes(working_folder / "models")
    again = nightly(config, tickers=("GOOD", "GOOD"))
    assert [each.stock for each in again.tickers] == ["GOOD"]
    assert tree_hashes(working_folder / "models") == before
    assert [row["Stock"] for row in night_table()] == ["GOOD"]


def test_prices_are_updated_first_and_a_ticker_that_cannot_be_goes_on_with_what_it_has_and_says_so(
    prefect_server: None, working_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yesterday = f"{pd.Timestamp.now('America/New_York') - pd.offsets.BDay(1):%Y-%m-%d}"
    bars = up_to(market(tiny_config().synthetic), last=yesterday)
    for stock in ("FRESH", "LAGS"):
        keep(working_folder / "prices", stock, bars.head(397))
    config = with_overrides(tiny_config(), ["stock=FRESH", "data=prices", "warm_start=champion", "update=yahoo"])
    with yahoo_server(monkeypatch, {"FRESH": bars, "LAGS": bars}) as yahoo:
        yahoo.now = f"{yesterday} 17:30"
        yahoo.instead["LAGS"] = [Reply(status=503)]
        with pytest.raises(NightFailed, match=r"3 tickers: \d promoted, 1 failed") as failure:
            nightly(config, tickers=("FRESH", "LAGS", "NOPE"))
    assert "NOPE: MarketDataError: NOPE: Yahoo" in str(failure.value)
    sessions = {stock: len(read_csv(Path("prices", f"{stock}.csv"), ticker=stock)) for stock in ("FRESH", "LAGS")}
    assert sessions == {"FRESH": 400, "LAGS": 397}
    table = {row["Stock"]: row for row in night_table()}
    assert table["NOPE"]["Outcome"] == "failed"
    assert "% by " in table["FRESH"]["Forecast"]
    assert "% by " in table["LAGS"]["Forecast"]
    last = f"{bars['date'].iloc[396]:%Y-%m-%d}"
    assert f"The prices end on {last}, as they could not be updated (MarketDataError: LAGS" in table["LAGS"]["Watch"]
    assert "updated" not in table["FRESH"]["Watch"]
