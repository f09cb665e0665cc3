"""Updates before prices are read: what is fetched, which prices are used if it fails, and what is reported."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tickerforge.features.config import SyntheticConfig
from tickerforge.features.synthetic import market
from tickerforge.flows.errors import ConfigError
from tickerforge.flows.night.nightly import Prepared, ticker_night
from tickerforge.flows.prices.price_updates import update_prices
from tickerforge.flows.settings.config import PipelineConfig, with_overrides
from tickerforge.tasks.base.errors import MarketDataError
from tickerforge.tasks.prices.market_data import FolderSource, fetch_bars
from tickerforge.tasks.prices.price_files import as_csv, keep
from tickerforge.tasks.store.artifacts import Store
from tickerforge.tasks.windows.preprocess import store_windows
from tiny_pipeline import tiny_config
from web_server import Reply
from yahoo_server import Yahoo, up_to, yahoo_server

YESTERDAY = f"{pd.Timestamp.now('America/New_York') - pd.offsets.BDay(1):%Y-%m-%d}"
BARS = up_to(market(SyntheticConfig(sessions=120)), last=YESTERDAY)


@pytest.fixture
def yahoo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Yahoo]:
    with yahoo_server(monkeypatch, {"AAPL": BARS}) as server:
        server.now = f"{YESTERDAY} 17:30"
        yield server


def config(folder: Path | None, **settings: str) -> PipelineConfig:
    return PipelineConfig(stock="AAPL", data=folder, **settings)


def test_without_being_told_nothing_is_updated(yahoo: Yahoo, tmp_path: Path) -> None:
    keep(tmp_path, "AAPL", BARS.head(100))
    assert update_prices(config(tmp_path), exchange=None) == ""
    assert yahoo.asked == []
    assert (tmp_path / "AAPL.csv").read_bytes() == as_csv(BARS.head(100))


def test_a_file_is_brought_up_to_date_or_made(yahoo: Yahoo, tmp_path: Path) -> None:
    keep(tmp_path, "AAPL", BARS.head(100))
    for folder in (tmp_path, tmp_path / "new"):
        assert update_prices(config(folder, update="yahoo"), exchange="XNYS") == ""
        assert (folder / "AAPL.csv").read_bytes() == as_csv(BARS)


def test_a_failed_update_is_told_and_the_file_stays_but_without_one_there_is_no_going_on(
    yahoo: Yahoo, tmp_path: Path
) -> None:
    yahoo.instead["AAPL"] = [Reply(status=503)]
    keep(tmp_path, "AAPL", BARS.head(100))
    assert "MarketDataError: AAPL: Yahoo does not" in update_prices(config(tmp_path, update="yahoo"), exchange=None)
    assert (tmp_path / "AAPL.csv").read_bytes() == as_csv(BARS.head(100))
    with pytest.raises(MarketDataError, match="AAPL: Yahoo does not"):
        update_prices(config(tmp_path / "new", update="yahoo"), exchange=None)


def test_an_update_needs_a_folder() -> None:
    with pytest.raises(ConfigError, match="update = yahoo needs a folder of price files: give --data FOLDER"):
        update_prices(config(None, update="yahoo"), exchange=None)


def test_the_table_of_the_night_says_on_which_day_prices_end_that_could_not_be_updated(
    working_folder: Path, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    keep(tmp_path, "AAPL", BARS)
    bars = fetch_bars.fn(FolderSource(folder=tmp_path), "AAPL", store=store)
    small = with_overrides(tiny_config(), ["stock=AAPL", f"data={tmp_path}", "update=yahoo"])
    windows = store_windows.fn(bars, config=small.features, store=store)
    told = {}
    for fault in ("", "MarketDataError: no answer"):
        last = BARS["date"].iloc[-1].date()
        ready = Prepared(config=small, bars=bars, windows=windows, last=last, not_updated=fault)
        night = ticker_night("AAPL", ready=ready, result=None, forecast=None, failure="", seconds=0.0)
        told[fault] = " ".join(night.desk.watch)
    sentence = f"The prices end on {YESTERDAY}, as they could not be updated (MarketDataError: no answer)."
    assert sentence in told["MarketDataError: no answer"]
    assert "updated" not in told[""]


def test_the_pool_updates_each_of_its_tickers_and_asks_for_none_that_bears_its_name(
    yahoo: Yahoo, tmp_path: Path
) -> None:
    keep(tmp_path, "AAPL", BARS.head(100))
    keep(tmp_path, "MSFT", BARS.head(100))
    told = update_prices(PipelineConfig(stock="ALL", data=tmp_path, update="yahoo"), exchange=None)
    assert (tmp_path / "AAPL.csv").read_bytes() == as_csv(BARS)
    assert told.startswith("MSFT: MarketDataError")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["AAPL.csv", "MSFT.csv"]


def test_no_price_file_may_bear_the_name_of_the_pool(tmp_path: Path) -> None:
    with pytest.raises(MarketDataError, match=r"ALL-US\.csv"):
        keep(tmp_path, "ALL", BARS)
