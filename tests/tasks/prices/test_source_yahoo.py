"""Prices from Yahoo: yfinance itself against a server on this machine that answers as Yahoo does."""

import time
import warnings
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tickerforge.features.config import SyntheticConfig
from tickerforge.features.errors import BarsError
from tickerforge.features.prices.bars import validate_frame
from tickerforge.features.synthetic import market
from tickerforge.tasks.base.errors import MarketDataError
from tickerforge.tasks.prices import source_yahoo
from tickerforge.tasks.prices.price_files import as_csv, keep, stored_bars
from tickerforge.tasks.prices.source_yahoo import fill
from web_server import Reply
from yahoo_server import Yahoo, up_to, yahoo_server

BARS = up_to(market(SyntheticConfig(sessions=120)), last="2026-11-25")
FIRST = f"{BARS['date'].iloc[0]:%Y-%m-%d}"


@pytest.fixture
def yahoo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Yahoo]:
    with yahoo_server(monkeypatch, {"AAPL": BARS}) as server:
        yield server


def stored(folder: Path) -> pd.DataFrame:
    bars = stored_bars(folder, "AAPL")
    assert bars is not None
    return bars


def test_a_new_file_holds_what_yahoo_tells_to_the_last_bit(yahoo: Yahoo, tmp_path: Path) -> None:
    filled = fill(tmp_path, "AAPL", now=yahoo.instant)
    assert (filled.sessions, filled.added, filled.last, filled.note) == (120, 120, date(2026, 11, 25), "")
    pd.testing.assert_frame_equal(stored(tmp_path), BARS)
    assert yahoo.asked == [("AAPL", "2010-01-01")]


def test_only_the_sessions_after_the_last_one_and_five_before_are_asked_for(yahoo: Yahoo, tmp_path: Path) -> None:
    keep(tmp_path, "AAPL", BARS.head(117))
    filled = fill(tmp_path, "AAPL", now=yahoo.instant)
    assert (filled.sessions, filled.added) == (120, 3)
    assert yahoo.asked == [("AAPL", f"{BARS['date'].iloc[112]:%Y-%m-%d}")]
    assert (tmp_path / "AAPL.csv").read_bytes() == as_csv(BARS)


def test_an_adjusted_history_is_fetched_anew_and_said(yahoo: Yahoo, tmp_path: Path) -> None:
    keep(tmp_path, "AAPL", BARS.head(117))
    dividend = BARS.copy()
    dividend.loc[:117, "adj_close"] *= 1 - 4e-5
    yahoo.bars["AAPL"] = dividend
    filled = fill(tmp_path, "AAPL", now=yahoo.instant)
    assert filled.added == 3
    assert filled.note == "fetched again: history was adjusted (a dividend or a split)"
    assert [first for _, first in yahoo.asked] == [f"{BARS['date'].iloc[112]:%Y-%m-%d}", FIRST]
    pd.testing.assert_frame_equal(stored(tmp_path), dividend)


def test_noise_of_single_precision_is_no_adjustment(yahoo: Yahoo, tmp_path: Path) -> None:
    keep(tmp_path, "AAPL", BARS.head(117))
    yahoo.bars["AAPL"] = BARS.assign(adj_close=BARS["adj_close"].astype(np.float32).astype(float))
    assert fill(tmp_path, "AAPL", now=yahoo.instant).note == ""
    assert len(yahoo.asked) == 1
    pd.testing.assert_frame_equal(stored(tmp_path).head(117), BARS.head(117))


def test_a_session_under_way_is_not_stored(yahoo: Yahoo, tmp_path: Path) -> None:
    yahoo.now = "2026-11-25 15:59"
    assert fill(tmp_path, "AAPL", now=yahoo.instant).last == date(2026, 11, 24)
    yahoo.now = "2026-11-25 16:00"
    assert fill(tmp_path, "AAPL", now=yahoo.instant).last == date(2026, 11, 25)


def test_nothing_is_asked_where_the_last_session_is_there(yahoo: Yahoo, tmp_path: Path) -> None:
    keep(tmp_path, "AAPL", BARS)
    holiday = pd.Timestamp("2026-11-26 23:30", tz="America/New_York").to_pydatetime()
    assert fill(tmp_path, "AAPL", now=holiday, exchange="XNYS").note == "up to date"
    assert yahoo.asked == []
    assert fill(tmp_path, "AAPL", now=yahoo.instant).note == "nothing new"
    assert len(yahoo.asked) == 1


def test_an_earlier_first_day_fetches_all_of_it(yahoo: Yahoo, tmp_path: Path) -> None:
    keep(tmp_path, "AAPL", BARS.tail(20))
    filled = fill(tmp_path, "AAPL", now=yahoo.instant, first=date(2020, 1, 1))
    assert (filled.added, yahoo.asked) == (100, [("AAPL", "2020-01-01")])
    assert "the file began on" in filled.note


def test_rows_without_prices_are_left_out_and_counted(yahoo: Yahoo, tmp_path: Path) -> None:
    gap = BARS.copy()
    gap.loc[50, gap.columns != "date"] = np.nan
    yahoo.bars["AAPL"] = gap
    filled = fill(tmp_path, "AAPL", now=yahoo.instant)
    assert (filled.sessions, filled.note) == (119, "rows without prices, left out: 1")


def test_a_row_that_lacks_some_prices_is_an_error(yahoo: Yahoo, tmp_path: Path) -> None:
    keep(tmp_path, "AAPL", BARS.head(100))
    yahoo.bars["AAPL"] = BARS.assign(high=BARS["high"].where(BARS.index != 110))
    with pytest.raises(BarsError, match="AAPL at Yahoo, row 16, column High: nan"):
        fill(tmp_path, "AAPL", now=yahoo.instant)
    assert (tmp_path / "AAPL.csv").read_bytes() == as_csv(BARS.head(100))


def test_a_busy_yahoo_is_asked_again_as_late_as_it_says(yahoo: Yahoo, tmp_path: Path) -> None:
    good = yahoo.answer("/v8/finance/chart/AAPL?period1=0", {})
    yahoo.asked.clear()
    yahoo.instead["AAPL"] = [Reply(status=429, headers={"Retry-After": "1"}), Reply(status=503), good]
    assert fill(tmp_path, "AAPL", now=yahoo.instant).sessions == 120
    assert len(yahoo.asked) == 3


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (
            Reply(status=429, headers={"Retry-After": "86400"}),
            r"Yahoo does not answer as it should \(RequestException: .*not asked: for 10 minutes",
        ),
        (Reply(status=500, body=b"oops"), "Yahoo does not answer as it should"),
        (Reply(b'{"chart": {"result": [{'), "Yahoo does not answer as it should"),
        (Reply(b'{"chart": {"result": null, "error": null}}'), "Yahoo has no prices"),
        (Reply(b'{"chart": {"result": [{"meta": {}}], "error": null}}'), "Yahoo does not answer as it should"),
        (Reply(b"x" * 1000, sent=10), "Yahoo does not answer as it should"),
    ],
)
def test_what_is_no_answer_is_told_and_the_stored_history_stays(
    yahoo: Yahoo, tmp_path: Path, reply: Reply, said: str
) -> None:
    keep(tmp_path, "AAPL", BARS.head(100))
    yahoo.instead["AAPL"] = [reply]
    with pytest.raises(MarketDataError, match=f"AAPL: {said}"):
        fill(tmp_path, "AAPL", now=yahoo.instant)
    assert (tmp_path / "AAPL.csv").read_bytes() == as_csv(BARS.head(100))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("refusal", [Reply(status=429, headers={"Retry-After": "86400"}), Reply(b"x" * 1000, sent=10)])
def test_after_a_refusal_no_other_stock_is_asked_for(yahoo: Yahoo, tmp_path: Path, refusal: Reply) -> None:
    yahoo.bars["MSFT"] = BARS
    yahoo.instead["AAPL"] = [refusal]
    for stock in ("AAPL", "MSFT"):
        with pytest.raises(MarketDataError, match=f"{stock}: Yahoo does not answer"):
            fill(tmp_path, stock, now=yahoo.instant)
    assert {stock for stock, _ in yahoo.asked} == {"AAPL"}


def test_a_yahoo_that_falls_silent_is_not_waited_for(
    yahoo: Yahoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_yahoo, "SILENCE_SECONDS", 1.0)
    keep(tmp_path, "AAPL", BARS.head(100))
    yahoo.instead["AAPL"] = [Reply(b"x" * 1000, sent=10, silence=60.0)]
    began = time.monotonic()
    with pytest.raises(MarketDataError, match=r"AAPL: Yahoo does not answer as it should \(Timeout"):
        fill(tmp_path, "AAPL", now=yahoo.instant)
    assert time.monotonic() - began < 30
    assert (tmp_path / "AAPL.csv").read_bytes() == as_csv(BARS.head(100))


def test_one_stock_that_yahoo_trips_over_leaves_the_others_alone(yahoo: Yahoo, tmp_path: Path) -> None:
    yahoo.bars["MSFT"] = BARS
    yahoo.instead["AAPL"] = [Reply(status=500, body=b"oops")]
    with pytest.raises(MarketDataError, match="AAPL: Yahoo does not answer"):
        fill(tmp_path, "AAPL", now=yahoo.instant)
    assert fill(tmp_path, "MSFT", now=yahoo.instant).sessions == 120


def test_a_stock_that_yahoo_does_not_know_is_named(yahoo: Yahoo, tmp_path: Path) -> None:
    with pytest.raises(MarketDataError, match=r"NOPE: Yahoo .*"):
        fill(tmp_path, "NOPE", now=yahoo.instant)
    assert not list(tmp_path.iterdir())


def test_a_refetched_history_that_lacks_stored_sessions_is_refused(yahoo: Yahoo, tmp_path: Path) -> None:
    keep(tmp_path, "AAPL", BARS.head(117))
    yahoo.bars["AAPL"] = BARS.drop(index=[3, 4]).assign(adj_close=BARS["adj_close"] / 2)
    with pytest.raises(MarketDataError, match="holds 2 sessions that the new prices lack"):
        fill(tmp_path, "AAPL", now=yahoo.instant)
    assert (tmp_path / "AAPL.csv").read_bytes() == as_csv(BARS.head(117))


@pytest.mark.parametrize("tickers", ["AAPL", ["AAPL"], ["AAPL", "MSFT"]])
@pytest.mark.parametrize("options", [{}, {"group_by": "ticker"}, {"multi_level_index": False}])
def test_what_yfinance_downloads_is_taken_as_it_is(
    yahoo: Yahoo, tickers: str | list[str], options: dict[str, Any]
) -> None:
    import yfinance

    yahoo.bars["MSFT"] = BARS.assign(close=BARS["close"] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        frame = yfinance.download(
            tickers, start="2020-01-01", end="2030-01-01", auto_adjust=False, progress=False, threads=False, **options
        )
    pd.testing.assert_frame_equal(validate_frame(frame, source="AAPL"), BARS)
