"""Quality reports as artifacts: which calendar a ticker is held against, what is stored, and what the run shows."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hostile import good_lines, text
from tickerforge.features.config import JumpMode, QualityConfig
from tickerforge.features.errors import JumpError, QualityError
from tickerforge.features.prices.bars import parse_csv, read_csv
from tickerforge.features.prices.quality import assess, check
from tickerforge.tasks.base.errors import MarketDataError
from tickerforge.tasks.prices.market_data import FolderSource, fetch_with_quality
from tickerforge.tasks.prices.sessions import YAHOO_ENDINGS, exchange_of, sessions_between
from tickerforge.tasks.store.artifacts import Store
from tickerforge.tasks.windows.preprocess import read_bars


def written(folder: Path, lines: list[str], *, ticker: str = "ACME") -> FolderSource:
    (folder / f"{ticker}.csv").write_text(text(lines))
    return FolderSource(folder=folder)


def test_new_years_day_and_a_missing_week_are_told_apart(tmp_path: Path) -> None:
    lines = good_lines()
    source = written(tmp_path, lines[:110] + lines[115:])
    _, report = fetch_with_quality(source, "ACME", store=Store(tmp_path / "store"), quality=QualityConfig())
    assert report is not None
    assert report.exchange == "XNYS"
    assert [str(day) for day in report.missing] == [line[:10] for line in lines[110:115]]
    closed = {"2015-01-19", "2015-02-16", "2015-04-03", "2015-07-03", "2015-09-07", "2015-11-26", "2015-12-25"}
    assert {str(day) for day in report.extra} >= closed
    [stored] = (tmp_path / "store" / "quality").glob("*/quality.json")
    assert type(report).model_validate_json(stored.read_text()) == report


def test_another_calendar_makes_another_report_and_the_same_bars(tmp_path: Path) -> None:
    source, store = written(tmp_path, good_lines()), Store(tmp_path / "store")
    bars, new_york = fetch_with_quality(source, "ACME", store=store, quality=QualityConfig())
    again, london = fetch_with_quality(source, "ACME", store=store, quality=QualityConfig(exchange="XLON"))
    _, none = fetch_with_quality(source, "ACME", store=store, quality=QualityConfig(exchange="none"))
    assert again.cached
    assert again.sha256 == bars.sha256
    assert new_york is not None
    assert london is not None
    assert none is not None
    assert (new_york.exchange, london.exchange, none.exchange) == ("XNYS", "XLON", "")
    assert new_york.extra != london.extra


def test_limits_hold_for_what_is_stored_already_and_an_unknown_exchange_is_refused(tmp_path: Path) -> None:
    source, store = written(tmp_path, good_lines()), Store(tmp_path / "store")
    fetch_with_quality(source, "ACME", store=store, quality=QualityConfig())
    with pytest.raises(QualityError, match=r"ACME: \d+ of the 300 days .*quality\.max_extra"):
        fetch_with_quality(source, "ACME", store=store, quality=QualityConfig(max_extra=0.001))
    with pytest.raises(MarketDataError, match="there is no exchange 'MARS'"):
        fetch_with_quality(source, "ACME", store=store, quality=QualityConfig(exchange="MARS"))


def test_the_calendar_follows_from_the_name_then_from_weekends() -> None:
    weekdays = pd.bdate_range("2020-01-01", periods=200).to_numpy()
    every_day = pd.date_range("2020-01-01", periods=200).to_numpy()
    assert exchange_of("AAPL", weekdays) == exchange_of("BRK.B", weekdays) == "XNYS"
    assert exchange_of("VOD.L", weekdays) == "XLON"
    assert exchange_of("BBCA.JK", weekdays) == "XIDX"
    assert exchange_of("BTC-USD", every_day) == exchange_of("BRK.B", every_day) == "24/7"


def test_an_ending_outweighs_weekends_so_that_shifted_dates_do_not_make_a_market_without_holidays() -> None:
    # Sessions of Tokyo and of Riyadh: Monday to Friday written in UTC, and Sunday to Thursday.
    sundays = pd.bdate_range("2020-01-01", periods=200, freq="C", weekmask="1111001").to_numpy()
    assert exchange_of("7203.T", sundays) == "XTKS"
    assert exchange_of("2222.SR", sundays) == "XSAU"


def test_only_dates_on_saturdays_and_on_sundays_make_a_market_without_holidays() -> None:
    for mask in ("1111001", "1111110"):
        dates = pd.bdate_range("2020-01-01", periods=200, freq="C", weekmask=mask).to_numpy()
        assert exchange_of("POLI", dates) == "XNYS"


def test_days_that_the_calendar_does_not_record_are_neither_missing_nor_extra(tmp_path: Path) -> None:
    days = pd.bdate_range("2020-06-01", periods=300, freq="C", weekmask="1111001")
    lines = good_lines()
    dated = [f"{day:%Y-%m-%d}{line[10:]}" for day, line in zip(days, lines[1:], strict=True)]
    source = written(tmp_path, [lines[0], *dated], ticker="2222.SR")
    _, report = fetch_with_quality(source, "2222.SR", store=Store(tmp_path / "store"), quality=QualityConfig())
    assert report is not None
    assert report.exchange == "XSAU"
    assert report.missing == ()
    assert min(report.extra) > pd.Timestamp("2021-01-01").date()
    assert "XSAU is recorded from 2021-01-01" in report.note
    assert "compared in part" in [row["Count"] for row in report.rows_of_table()]


def test_every_calendar_that_an_ending_stands_for_is_known() -> None:
    from exchange_calendars import get_calendar_names

    assert set(YAHOO_ENDINGS.values()) <= set(get_calendar_names())


def test_sessions_are_those_of_the_exchange_over_decades() -> None:
    found = sessions_between(pd.Timestamp("2009-12-20").date(), pd.Timestamp("2010-01-10").date(), exchange="XNYS")
    inside = found[(found >= np.datetime64("2009-12-24")) & (found <= np.datetime64("2010-01-05"))]
    assert [str(day)[:10] for day in inside] == [
        *("2009-12-24", "2009-12-28", "2009-12-29", "2009-12-30", "2009-12-31", "2010-01-04", "2010-01-05"),
    ]
    assert (np.diff(found) > np.timedelta64(0)).all()


def test_real_prices_lie_on_the_sessions_of_new_york_and_within_all_limits(stocknet: Path) -> None:
    for path in sorted(stocknet.glob("*.csv"))[::4]:
        bars = read_csv(path, ticker=path.stem)
        first, last = bars["date"].iloc[[0, -1]].dt.date
        days = sessions_between(first, last, exchange="XNYS")
        report = assess(bars, ticker=path.stem, repairs={}, exchange="XNYS", sessions=days)
        check(report, QualityConfig(max_missing=0.01, max_extra=0))


def test_a_jump_refuses_prices_until_it_is_accepted_or_repaired(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines, store = good_lines(), Store(tmp_path / "store")
    bars = read_csv_text(lines)
    unadjusted = [*lines[:150], *(by(line, 0.5) for line in lines[150:])]
    source, session = written(tmp_path, unadjusted), unadjusted[150][:10]

    def fetched(jumps: JumpMode) -> pd.DataFrame:
        made, report = fetch_with_quality(source, "ACME", store=store, quality=QualityConfig(jumps=jumps))
        assert report is not None
        assert report.repairs == ({"repaired_jumps": 1} if jumps == "repair" else {})
        return read_bars(made)

    with pytest.raises(JumpError, match=rf"ACME: the adjusted close jumps(.|\n)*{session}: times 0\.\d+, a split of 2"):
        fetched("refuse")
    assert fetched("accept")["adj_close"].iloc[0] == bars["adj_close"].iloc[0]
    assert f"the adjusted close jumps, which is accepted: {session}" in caplog.text
    np.testing.assert_allclose(fetched("repair")["adj_close"], bars["adj_close"] / 2, rtol=1e-12)


def by(line: str, factor: float) -> str:
    """A row of a price file with all prices multiplied."""
    day, *prices, volume = line.split(",")
    return ",".join([day, *(repr(float(price) * factor) for price in prices), volume])


def read_csv_text(lines: list[str]) -> pd.DataFrame:
    return parse_csv(text(lines).encode(), path="x", ticker="ACME").bars
