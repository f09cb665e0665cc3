import logging
from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from tickerforge.features.config import FeatureConfig, QualityConfig, SyntheticConfig
from tickerforge.features.errors import BarsError, InsufficientHistoryError, PublishedLayoutError, TickerNameError
from tickerforge.features.prices.bars import read_csv
from tickerforge.features.synthetic import market
from tickerforge.features.windows import build_windows
from tickerforge.tasks.base.errors import MarketDataError, PublishError
from tickerforge.tasks.prices.folders import list_tickers
from tickerforge.tasks.prices.market_data import FolderSource, SyntheticSource, fetch_bars, fetch_with_quality
from tickerforge.tasks.prices.price_files import keep
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.windows.preprocess import (
    export_published,
    import_published,
    read_bars,
    read_train_rows,
    read_windows,
    store_windows,
)

YAHOO = {"date": "Date", "open": "Open", "high": "High", "low": "Low", "close": "Close", "adj_close": "Adj Close"}


def write_prices(folder: Path, ticker: str, *, sessions: int = 400) -> Path:
    bars = market(SyntheticConfig(sessions=sessions)).rename(columns=YAHOO | {"volume": "Volume"})
    path = folder / f"{ticker}.csv"
    bars.to_csv(path, index=False)
    return path


def fetch(folder: Path, ticker: str, store: Store) -> ArtifactRef:
    return fetch_bars.fn(FolderSource(folder=folder), ticker, store=store)


def test_bars_from_a_folder_are_stored_as_they_are_in_the_file(tmp_path: Path) -> None:
    path = write_prices(tmp_path, "BRK-A")
    ref = fetch(tmp_path, "BRK-A", Store(tmp_path / "store"))
    assert ref.meta == {
        "ticker": "BRK-A",
        "rows": 400,
        "first": "2015-01-02",
        "last": "2016-07-14",
        "without_prices": 0,
        "dates_without_prices": "",
        "repairs": "{}",
    }
    stored, written = read_bars(ref), pd.read_csv(path, parse_dates=["Date"])
    assert stored["date"].dtype == "datetime64[s]"
    assert (stored["date"].to_numpy() == written["Date"].to_numpy()).all()
    assert stored["adj_close"].to_numpy() == pytest.approx(written["Adj Close"].to_numpy(), rel=1e-12)


def test_the_bars_follow_the_files_content_and_not_its_place(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (tmp_path / "copy").mkdir()
    path = write_prices(tmp_path, "AAPL")
    first = fetch(tmp_path, "AAPL", store)
    (tmp_path / "copy" / "AAPL.csv").write_bytes(path.read_bytes())
    assert fetch(tmp_path / "copy", "AAPL", store).cached
    write_prices(tmp_path, "AAPL", sessions=401)
    changed = fetch(tmp_path, "AAPL", store)
    assert not changed.cached
    assert changed.key != first.key


def test_a_missing_ticker_is_refused_with_some_that_are_there(tmp_path: Path) -> None:
    for number in range(10):
        write_prices(tmp_path, f"T{number}", sessions=100)
    with pytest.raises(MarketDataError, match=r"MSFT\.csv is missing\. There are T0, T1, .*T7 and 2 more\."):
        fetch(tmp_path, "MSFT", Store(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_an_empty_or_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(MarketDataError, match="holds no price files"):
        fetch(tmp_path, "AAPL", Store(tmp_path / "store"))
    with pytest.raises(MarketDataError, match="no folder"):
        list_tickers(tmp_path / "nowhere")


def test_a_folder_or_a_broken_link_is_no_stock_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "FOLDER.csv").mkdir()
    (data / "BROKEN.csv").symlink_to(tmp_path / "nowhere.csv")
    (data / "LINKED.csv").symlink_to(write_prices(tmp_path, "AAPL"))
    assert list_tickers(data) == ["LINKED"]
    assert "BROKEN.csv, FOLDER.csv" in caplog.text
    with pytest.raises(MarketDataError, match=r"There are LINKED\.$"):
        fetch(data, "MSFT", Store(tmp_path / "store"))
    for name in ("BROKEN", "FOLDER"):
        with pytest.raises(MarketDataError, match=rf"{name}\.csv is a folder or a broken link"):
            fetch(data, name, Store(tmp_path / "store"))
    assert fetch(data, "LINKED", Store(tmp_path / "store")).meta["rows"] == 400


def test_a_ticker_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_prices(tmp_path, "secret")
    with pytest.raises(TickerNameError):
        fetch(tmp_path / "data", "../secret", Store(tmp_path / "store"))


def test_faulty_prices_are_refused_and_nothing_is_stored(tmp_path: Path) -> None:
    path = write_prices(tmp_path, "AAPL")
    lines = path.read_text().splitlines()
    lines[5] = lines[5].replace(lines[5].split(",")[1], "oops")
    path.write_text("\n".join(lines))
    store = Store(tmp_path / "store")
    with pytest.raises(BarsError, match=r"AAPL\.csv, row 6, column Open: 'oops'"):
        fetch(tmp_path, "AAPL", store)
    assert not list(store.root.rglob("*.parquet"))


def test_rows_without_prices_are_left_out_counted_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = write_prices(tmp_path, "REX").read_text().splitlines()
    for row in (100, 200):
        lines[row] = f"{lines[row][:10]},null,null,null,null,null,null"
    (tmp_path / "REX.csv").write_text("\n".join(lines))
    dates = f"{lines[100][:10]} {lines[200][:10]}"
    for _ in ("built", "cached"):
        caplog.clear()
        ref = fetch(tmp_path, "REX", Store(tmp_path / "store"))
        assert (ref.meta["rows"], ref.meta["without_prices"], ref.meta["dates_without_prices"]) == (398, 2, dates)
        assert f"REX: rows without prices, left out: 2 ({dates})" in caplog.text
    assert not set(dates.split()) & set(read_bars(ref)["date"].dt.strftime("%Y-%m-%d"))


def test_bars_until_a_day_are_those_of_a_file_that_ends_there(tmp_path: Path) -> None:
    bars = market(SyntheticConfig(sessions=200))
    day, late = bars["date"].iloc[99], bars.index >= 150
    # A split, and a month without prices, both after the day.
    whole = bars.assign(**{name: bars[name] / (1.0 + 3.0 * late) for name in ("open", "high", "low", "close")})
    keep(tmp_path / "whole", "ACME", whole.assign(adj_close=whole["close"]).drop(index=range(110, 145)))
    keep(tmp_path / "cut", "ACME", bars[:100].assign(adj_close=bars["close"][:100]))
    store, quality = Store(tmp_path / "store"), QualityConfig(exchange="24/7", max_missing=0.35, jumps="repair")
    found = [
        fetch_with_quality(FolderSource(folder=tmp_path / name), "ACME", store=store, quality=quality, until=until)
        for name, until in (("whole", day.date()), ("cut", None))
    ]
    pd.testing.assert_frame_equal(*(read_bars(bars) for bars, _ in found))
    assert found[0][1] == found[1][1]
    with pytest.raises(MarketDataError, match=r"begin on 20.*name a later day"):
        fetch_bars.fn(FolderSource(folder=tmp_path / "cut"), "ACME", store=store, until=date(1990, 1, 1))


def test_the_synthetic_market_goes_by_the_tickers_name(tmp_path: Path) -> None:
    source = SyntheticSource(config=SyntheticConfig(sessions=200))
    ref = fetch_bars.fn(source, "DEMO", store=Store(tmp_path))
    assert ref.meta["ticker"] == "DEMO"
    assert ref.meta["rows"] == 200
    assert fetch_bars.fn(source, "DEMO", store=Store(tmp_path)).cached


def test_windows_keep_their_dates_splits_and_train_rows_on_disk(tmp_path: Path) -> None:
    store, config = Store(tmp_path / "store"), FeatureConfig()
    write_prices(tmp_path, "AAPL")
    bars = fetch(tmp_path, "AAPL", store)
    windows = store_windows.fn(bars, config=config, store=store)
    frame = read_windows(windows)
    assert {split: windows.meta[split] for split in ("train", "validation", "test")} == dict(
        frame["split"].value_counts()
    )
    assert list(frame["origin"]) == sorted(frame["origin"])
    assert set(read_windows(windows, splits=("test",))["split"]) == {"test"}
    train = read_train_rows(windows)
    assert len(train) == 280
    assert train["adj_close"].mean() == pytest.approx(frame["train_mean"].iloc[0])


@pytest.mark.parametrize("scope", ["series", "window"])
def test_stored_windows_are_read_as_they_are_built_to_the_last_bit(scope: str, tmp_path: Path) -> None:
    store, config = Store(tmp_path / "store"), FeatureConfig(indicator_scope=scope)
    path = write_prices(tmp_path, "AAPL")
    stored = read_windows(store_windows.fn(fetch(tmp_path, "AAPL", store), config=config, store=store))
    built = build_windows(read_csv(path, ticker="AAPL"), ticker="AAPL", config=config)
    pd.testing.assert_frame_equal(stored, built, check_exact=True)
    assert stored["origin"].dtype == stored["target_dates"].iloc[0].dtype == "datetime64[s]"


def test_prompt_style_and_units_do_not_change_the_windows(tmp_path: Path) -> None:
    store = Store(tmp_path)
    bars = fetch_bars.fn(SyntheticSource(config=SyntheticConfig(sessions=400)), "DEMO", store=store)
    store_windows.fn(bars, config=FeatureConfig(), store=store)
    assert store_windows.fn(bars, config=FeatureConfig(prompt_style="prices"), store=store).cached
    assert not store_windows.fn(bars, config=FeatureConfig(sigma_window=40), store=store).cached


def test_too_short_a_history_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    bars = fetch_bars.fn(SyntheticSource(config=SyntheticConfig(sessions=100)), "DEMO", store=store)
    with pytest.raises(InsufficientHistoryError, match="DEMO: 100 sessions"):
        store_windows.fn(bars, config=FeatureConfig(), store=store)


def test_published_files_come_back_as_windows_with_an_embargoed_validation_split(tmp_path: Path) -> None:
    store, config = Store(tmp_path / "store"), FeatureConfig(prompt_style="prices")
    write_prices(tmp_path, "AAPL")
    bars = fetch(tmp_path, "AAPL", store)
    export_published(bars, tmp_path / "published", config=config)
    pair = {
        split: (tmp_path / "published" / f"AAPL_{split}_x.csv", tmp_path / "published" / f"AAPL_{split}_y.csv")
        for split in ("train", "test")
    }
    windows = import_published(pair["train"], pair["test"], ticker="AAPL", config=config, store=store)
    frame = read_windows(windows)
    prices = read_bars(bars)["adj_close"].to_numpy()
    assert frame["origin"].dtype == frame["target_dates"].iloc[0].dtype == "datetime64[s]"
    mean, std = prices[:280].mean(), prices[:280].std()
    last_train = frame[frame["split"] == "train"].iloc[-1]["target"][-1]
    first_validation = frame[frame["split"] == "validation"].iloc[0]
    as_price = {"last train target": last_train, "first validation target": first_validation["target"][0]}
    found = {name: round((value - 1e5) * std + mean, 2) for name, value in as_price.items()}
    assert found == {
        "last train target": round(prices[279 - config.embargo], 2),
        "first validation target": round(prices[280], 2),
    }
    assert read_train_rows(windows)["adj_close"].mean() == pytest.approx(1e5, abs=1e-3)
    assert len(read_train_rows(windows)) == 280
    assert windows.meta["test"] == 71
    without_test = import_published(pair["train"], None, ticker="AAPL", config=config, store=store)
    assert without_test.meta["test"] == 0


def test_published_files_that_are_missing_or_broken_are_named(tmp_path: Path) -> None:
    store, config = Store(tmp_path / "store"), FeatureConfig()
    with pytest.raises(MarketDataError, match=r"x\.csv"):
        import_published((tmp_path / "x.csv", tmp_path / "y.csv"), None, ticker="AAPL", config=config, store=store)
    (tmp_path / "x.csv").write_text("nonsense\n")
    with pytest.raises(PublishedLayoutError, match=r"x\.csv"):
        import_published((tmp_path / "x.csv", tmp_path / "x.csv"), None, ticker="AAPL", config=config, store=store)


def test_the_published_layout_says_where_it_cannot_be_written(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    bars = fetch_bars.fn(SyntheticSource(config=SyntheticConfig(sessions=400)), "DEMO", store=store)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(PublishError, match="out"):
        export_published(bars, tmp_path / "out", config=FeatureConfig())


def test_a_last_session_that_has_not_closed_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_prices(tmp_path, "AAPL", sessions=401)
    store, source = Store(tmp_path / "store"), FolderSource(folder=tmp_path)
    day = read_bars(fetch_bars.fn(source, "AAPL", store=store))["date"].iloc[-1].tz_localize("America/New_York")
    before, after = (day + pd.Timedelta(hours=hour) for hour in (11, 17))
    quality = QualityConfig(exchange="XNYS")
    with caplog.at_level(logging.INFO):
        bars, report = fetch_with_quality(source, "AAPL", store=store, quality=quality, now=before.to_pydatetime())
    assert (bars.meta["rows"], bars.meta["repairs"]) == (400, '{"running_session": 1}')
    assert report is not None
    assert report.rows == 400
    assert "a last row whose session has not closed, left out" in caplog.text
    assert fetch_bars.fn(source, "AAPL", store=store, quality=quality, now=after.to_pydatetime()).meta["rows"] == 401
