"""Which price file of a folder is a ticker's, and the tickers of a file that holds many."""

import logging
from pathlib import Path

import pandas as pd
import pytest

from price_sources import UNADJUSTED, bars_to_write, long_file, plain, stooq_bulk
from tickerforge.features.config import QualityConfig
from tickerforge.features.errors import BarsError, TickerNameError
from tickerforge.features.prices.tickers import matching_ticker, prefect_name, spelled, ticker_of_file
from tickerforge.tasks.base.errors import MarketDataError
from tickerforge.tasks.prices.folders import csv_path, list_tickers, opened, pool_tickers
from tickerforge.tasks.prices.market_data import FolderSource, fetch_with_quality
from tickerforge.tasks.prices.price_files import as_csv
from tickerforge.tasks.prices.source_local import import_prices
from tickerforge.tasks.store.artifacts import Store
from tickerforge.tasks.windows.preprocess import read_bars

BARS = bars_to_write(adjusted=False)


@pytest.mark.parametrize(
    ("name", "ticker"),
    [
        ("AAPL.csv", "AAPL"),
        ("aapl.csv", "AAPL"),
        ("aapl.us.txt", "AAPL"),
        ("aapl_us_d.csv", "AAPL"),
        ("AAPL Historical Data.csv", "AAPL"),
        ("AAPL Historical Data (2).csv", "AAPL"),
        ("NASDAQ_AAPL, 1D.csv", "AAPL"),
        ("BATS_AAPL, 1D_a1b2c.csv", "AAPL"),
        ("daily_adjusted_AAPL.csv", "AAPL"),
        ("AAPL_data.csv", "AAPL"),
        ("Binance_BTCUSDT_d.csv", "BTCUSDT"),
        ("XBTUSD_1440.csv", "XBTUSD"),
        ("BTCUSDT-1d-2024-01.zip", "BTCUSDT"),
        ("EURUSD_D1_20200101_20260101.csv", "EURUSD"),
        ("SAP.DE.csv.gz", "SAP.DE"),
        ("M&M.NS.csv", "M&M.NS"),
        ("BRK.B.parquet", "BRK.B"),
        ("0700.HK.csv", "0700.HK"),
        ("^GSPC.csv", "^GSPC"),
        ("spaced name.csv", "spaced name"),
        ("README.md", None),
        (".hidden.csv", None),
    ],
)
def test_a_file_name_gives_the_ticker(name: str, ticker: str | None) -> None:
    assert ticker_of_file(name) == ticker


def test_tickers_are_spelled_in_capitals_with_a_dash_for_a_slash() -> None:
    assert [spelled(name) for name in ("aapl", "EUR/USD", "brk/b", "M&M.NS")] == ["AAPL", "EUR-USD", "BRK-B", "M&M.NS"]
    assert prefect_name("M&M.NS") == "M+M.NS"
    for name in ("../x", "/etc/x", "a//b", "", "A/"):
        with pytest.raises(TickerNameError):
            spelled(name)


def test_a_ticker_matches_other_spellings_only_if_one_fits() -> None:
    names = ["BRK.B", "AAPL.US", "MSFT US Equity", "NASDAQ:TSLA", "BF.B", "BF-B"]
    found = {name: matching_ticker(name, names) for name in ("BRK-B", "aapl", "MSFT", "TSLA", "BF/B", "BF-B", "X")}
    assert found == {"BRK-B": "BRK.B", "aapl": "AAPL.US", "MSFT": "MSFT US Equity", "TSLA": "NASDAQ:TSLA",
                     "BF/B": None, "BF-B": "BF-B", "X": None}  # fmt: skip


def folder_of(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "prices"
    folder.mkdir()
    for name in names:
        (folder / name).write_text(plain(BARS))
    return folder


def test_files_of_any_name_are_found_and_notes_beside_them_are_not_prices(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "msft.csv", "BRK.B.csv", "AAPL Historical Data.csv")
    (folder / "nvda.us.txt").write_text(stooq_bulk(BARS))
    (folder / "IBM.parquet").write_bytes(UNADJUSTED["Parquet"](BARS))
    (folder / "README.txt").write_text("Prices of 2026.\nOpen, high and low are missing for some days.\n")
    assert list_tickers(folder) == ["AAPL", "BRK.B", "IBM", "MSFT", "NVDA"]
    found = {stock: csv_path(folder, stock).name for stock in ("msft", "BRK-B", "brk/b", "aapl")}
    assert found == {"msft": "msft.csv", "BRK-B": "BRK.B.csv", "brk/b": "BRK.B.csv", "aapl": "AAPL Historical Data.csv"}
    with pytest.raises(MarketDataError, match=r"NVDIA\.csv is missing\. Did you mean NVDA\? There are AAPL"):
        csv_path(folder, "NVDIA")


def test_the_canonical_file_comes_first_and_two_others_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "AAPL.csv", "aapl.us.txt", "msft.csv", "MSFT_data.csv")
    assert csv_path(folder, "AAPL").name == "AAPL.csv"
    with pytest.raises(MarketDataError, match=r"several files of MSFT: MSFT_data\.csv, msft\.csv\. Keep one"):
        csv_path(folder, "MSFT")


def test_a_file_with_many_tickers_is_a_source_like_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, store = tmp_path / "sp500.csv", Store(tmp_path / "store")
    source.write_text(long_file(BARS))
    assert list_tickers(source) == pool_tickers(source) == ["ACME", "OTHER"]

    def fetched(stock: str) -> tuple[pd.DataFrame, bool]:
        made, report = fetch_with_quality(FolderSource(folder=source), stock, store=store, quality=QualityConfig())
        assert report is not None
        assert report.repairs == {"no_adjusted_close": 1, "other_columns": 1}
        return read_bars(made), made.cached

    with caplog.at_level(logging.INFO):
        bars, cached = fetched("ACME")
    assert not cached
    assert "no adjusted close: the close serves as both" in caplog.text
    pd.testing.assert_frame_equal(bars, BARS, check_exact=True)
    with pytest.raises(MarketDataError, match=r"no prices for ACNE in .*sp500\.csv\. Did you mean ACME\?"):
        fetched("ACNE")
    # Other tickers in the file may change.
    source.write_text(long_file(BARS) + "2030-01-01,1,1,1,1,1,THIRD\n")
    assert fetched("ACME")[1]
    assert list_tickers(source) == ["ACME", "OTHER", "THIRD"]


def test_a_named_file_of_one_ticker_counts_for_it_and_for_no_other(tmp_path: Path) -> None:
    for name in ("AAPL.csv", "HistoricalData_1700000000000.csv"):
        (tmp_path / name).write_text(plain(BARS))
    assert csv_path(tmp_path / "AAPL.csv", "aapl") == tmp_path / "AAPL.csv"
    with pytest.raises(MarketDataError, match="no prices for MSFT"):
        csv_path(tmp_path / "AAPL.csv", "MSFT")
    assert csv_path(tmp_path / "HistoricalData_1700000000000.csv", "MSFT").name.startswith("Historical")
    (tmp_path / "broken.csv").write_text("nothing\n")
    with pytest.raises(BarsError, match=r"broken\.csv: column Date is missing"):
        list_tickers(tmp_path / "broken.csv")


def test_an_import_writes_canonical_files_and_overwrites_no_other_prices(tmp_path: Path) -> None:
    source, folder = tmp_path / "all.csv", tmp_path / "prices"
    source.write_text(long_file(BARS))
    done = import_prices(folder, "ACME", source=source)
    assert done.note == "all.csv; no adjusted close: the close serves as both; 1 columns other than Yahoo's, ignored"
    assert (folder / "ACME.csv").read_bytes() == as_csv(BARS)
    assert import_prices(folder, "ACME", source=source).added == 0
    source.write_text(long_file(BARS.assign(close=BARS["low"])))
    with pytest.raises(MarketDataError, match=r"ACME\.csv holds other prices of \d+ sessions"):
        import_prices(folder, "ACME", source=source)
    assert (folder / "ACME.csv").read_bytes() == as_csv(BARS)


def test_a_long_file_is_opened_once_for_all_its_tickers(tmp_path: Path) -> None:
    source = tmp_path / "all.csv"
    source.write_text(long_file(BARS))
    assert opened(source) is opened(source)
