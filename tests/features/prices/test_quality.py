"""The quality report: what it counts, against whose sessions, and where it ends a run."""

from datetime import date

import numpy as np
import pandas as pd
import pytest

from tickerforge.features.config import QualityConfig, SyntheticConfig
from tickerforge.features.errors import QualityError
from tickerforge.features.prices.quality import QualityReport, assess, check
from tickerforge.features.synthetic import market


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return market(SyntheticConfig(sessions=200))


def sessions(bars: pd.DataFrame) -> np.ndarray:
    return bars["date"].to_numpy()


def report(bars: pd.DataFrame, days: np.ndarray | None = None) -> QualityReport:
    return assess(bars, ticker="ACME", repairs={}, exchange="XNYS", sessions=days)


def test_bars_without_fault_have_nothing_to_report(bars: pd.DataFrame) -> None:
    found = report(bars, sessions(bars))
    assert found.missing == found.extra == ()
    assert found.oddities == {}
    assert (found.rows, found.sessions, found.exchange) == (200, 200, "XNYS")
    check(found, QualityConfig(max_missing=0, max_extra=0, max_without_prices=0))


def test_sessions_missing_and_extra_are_named_by_date(bars: pd.DataFrame) -> None:
    found = report(bars.drop(index=[50, 51]), np.delete(sessions(bars), [100]))
    assert found.missing == tuple(bars["date"].iloc[[50, 51]].dt.date)
    assert found.extra == (bars["date"].iloc[100].date(),)
    assert found.sessions == 199


def test_sessions_before_the_first_and_after_the_last_bar_are_not_missed(bars: pd.DataFrame) -> None:
    assert report(bars.iloc[20:150], sessions(bars)).missing == ()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"close": lambda bars: bars["high"] * 1.01}, {"prices_outside_range": 1}),
        ({"open": lambda bars: bars["low"] * 0.99}, {"prices_outside_range": 1}),
        ({"high": lambda bars: bars["high"] * 1e9}, {"extreme_prices": 1}),
        ({"volume": lambda bars: bars["volume"] * 0}, {"sessions_without_volume": 1}),
    ],
)
def test_what_is_odd_is_counted_and_kept(bars: pd.DataFrame, change: dict, expected: dict[str, int]) -> None:
    odd = bars.copy()
    for column, change_of in change.items():
        odd.loc[70, column] = change_of(bars)[70]
    assert report(odd, sessions(bars)).oddities == expected


def test_a_standstill_counts_its_sessions_once_it_lasts_ten(bars: pd.DataFrame) -> None:
    still = bars.copy()
    still.loc[30:38, "adj_close"] = still.loc[38, "adj_close"]
    assert "standstill" not in report(still).oddities
    still.loc[30:39, "adj_close"] = still.loc[38, "adj_close"]
    assert report(still).oddities["standstill"] == 10


def test_each_limit_that_is_passed_is_named_with_its_setting(bars: pd.DataFrame) -> None:
    kept = bars.drop(index=range(50, 80))
    found = assess(
        kept,
        ticker="ACME",
        repairs={"rows_without_prices": 30},
        exchange="XNYS",
        sessions=np.delete(sessions(bars), range(100, 140)),
    )
    with pytest.raises(QualityError) as caught:
        check(found, QualityConfig())
    message = str(caught.value)
    assert message.startswith("ACME: 30 of the 160 sessions of XNYS have no prices (18.8%: ")
    for part in ("quality.max_missing", "40 of the 170 days", "quality.max_extra", "quality.max_without_prices"):
        assert part in message
    check(found, QualityConfig(max_missing=0.2, max_extra=0.3, max_without_prices=0.2))


def test_where_no_calendar_was_compared_the_report_says_why_and_no_limit_on_sessions_holds(bars: pd.DataFrame) -> None:
    found = assess(bars, ticker="ACME", repairs={}, note="no exchange is named")
    check(found, QualityConfig(max_missing=0, max_extra=0))
    assert found.exchange == ""
    assert {row["What"]: row["Meaning"] for row in found.rows_of_table()}["calendar"] == "no exchange is named"


def test_the_table_says_in_words_what_each_count_means(bars: pd.DataFrame) -> None:
    found = assess(bars.drop(index=[50]), ticker="ACME", repairs={"blank_rows": 2}, exchange="XNYS",
                   sessions=sessions(bars))  # fmt: skip
    table = {row["What"]: (row["Count"], row["Meaning"]) for row in found.rows_of_table()}
    assert table["blank rows"] == ("2", "empty rows, left out")
    assert table["missing sessions"] == ("1", f"of 200 of XNYS: {bars['date'].iloc[50].date()}")
    assert table["sessions"][0] == "199"


def test_the_report_survives_json(bars: pd.DataFrame) -> None:
    found = report(bars.drop(index=[50]), sessions(bars))
    assert QualityReport.model_validate_json(found.model_dump_json()) == found
    assert found.missing[0] == date.fromisoformat(found.model_dump(mode="json")["missing"][0])
