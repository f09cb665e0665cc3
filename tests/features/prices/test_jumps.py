"""Prices that jump as no market does are named with date, factor and cause; real crashes are not."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tickerforge.features.config import QualityConfig, SyntheticConfig
from tickerforge.features.errors import JumpError
from tickerforge.features.prices.bars import read_csv
from tickerforge.features.prices.jumps import Jump, check_recent, find_jumps, without_jumps
from tickerforge.features.prices.quality import assess, check
from tickerforge.features.prices.schemas import PRICE_COLUMNS, Columns, bar_columns
from tickerforge.features.synthetic import market

STOCKNET = Path(__file__).resolve().parents[4] / "shared" / "data" / "stocknet"
ROW = 200
BARS = bar_columns(market(SyntheticConfig(sessions=400, process="random_walk")))
SESSION = BARS["date"][ROW].astype("datetime64[D]").item()


def scaled(factor: float, rows: slice, *, columns: Sequence[str] = PRICE_COLUMNS) -> Columns:
    changed = {column: values.copy() for column, values in BARS.items()}
    for column in columns:
        changed[column][rows] *= factor
    return changed


def test_calm_prices_and_real_crashes_have_no_jumps() -> None:
    assert find_jumps(BARS) == []
    for factor in (0.7, 0.6, 0.75, 1.4):
        assert find_jumps(scaled(factor, slice(ROW, None))) == []


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 7, 10, 20, 50, 100])
def test_a_step_by_a_factor_is_named_and_its_repair_restores_the_moves(factor: int) -> None:
    for by, cause in (
        (1 / factor, f"a split of {factor} for 1 that is not adjusted"),
        (factor, f"a reverse split of 1 for {factor} that is not adjusted"),
    ):
        bars = scaled(by, slice(ROW, None))
        (jump,) = find_jumps(bars)
        assert (jump.session, jump.kind) == (SESSION, "step")
        assert jump.cause == cause if factor != 100 else "pence and pounds" in jump.cause
        repaired = without_jumps(bars, [jump])
        np.testing.assert_allclose(repaired["adj_close"] / BARS["adj_close"], by, rtol=1e-12)
        np.testing.assert_array_equal(repaired["close"], bars["close"])
        assert find_jumps(repaired) == []


@pytest.mark.parametrize("factor", [100.0, 0.01, 10.0, 0.1, 1000.0])
def test_a_spike_by_a_factor_is_named_and_repaired(factor: float) -> None:
    bars = scaled(factor, slice(ROW, ROW + 1))
    (jump,) = find_jumps(bars)
    assert (jump.session, jump.kind) == (SESSION, "spike")
    assert "decimal point" in jump.cause
    np.testing.assert_allclose(without_jumps(bars, [jump])["close"], BARS["close"], rtol=1e-12)


def test_a_spike_by_no_factor_or_of_one_price_is_named_and_not_repaired() -> None:
    (jump,) = find_jumps(scaled(1.35, slice(ROW, ROW + 1)))
    assert (jump.kind, jump.cause, jump.repair) == ("spike", "back at once: a typing error", None)
    (jump,) = find_jumps(scaled(100, slice(ROW, ROW + 1), columns=("adj_close",)))
    assert jump.repair is None


def test_an_adjusted_close_that_changes_its_basis_alone_is_named_as_that() -> None:
    (jump,) = find_jumps(scaled(0.5, slice(ROW), columns=("adj_close",)))
    assert jump.cause == "the adjusted close changes its basis, the close does not"
    split = scaled(2, slice(ROW), columns=("open", "high", "low", "close"))
    assert find_jumps(split) == []


def test_the_newest_jump_is_named_but_not_certain() -> None:
    (jump,) = find_jumps(scaled(0.5, slice(399, None)))
    assert (jump.session, jump.repair) == (BARS["date"][399].astype("datetime64[D]").item(), None)


def test_a_forecast_refuses_jumps_in_its_own_sessions_only() -> None:
    old, new = scaled(0.5, slice(ROW, None)), scaled(0.5, slice(380, None))
    assert len(check_recent(old, ticker="ACME", sessions=60, mode="refuse")[1]) == 1
    with pytest.raises(JumpError, match=r"jumps in the last 60 sessions.*\n.*split of 2 for 1"):
        check_recent(new, ticker="ACME", sessions=60, mode="refuse")
    assert len(check_recent(new, ticker="ACME", sessions=60, mode="accept")[1]) == 1
    repaired, left = check_recent(new, ticker="ACME", sessions=60, mode="repair")
    assert left == []
    np.testing.assert_allclose(repaired["adj_close"] / BARS["adj_close"], 0.5, rtol=1e-12)


def test_the_quality_report_lists_jumps_and_its_check_refuses_them() -> None:
    bars = pd.DataFrame(scaled(0.25, slice(ROW, None)))
    report = assess(bars, ticker="ACME", repairs={}, note="")
    assert [jump.session for jump in report.jumps] == [SESSION]
    assert f"{SESSION}: times 0.2" in {row["What"]: row["Meaning"] for row in report.rows_of_table()}["jumps"]
    with pytest.raises(JumpError) as caught:
        check(report, QualityConfig())
    for part in ("split of 4 for 1", "1 of them can be repaired: --repair-jumps", "--accept-jumps"):
        assert part in str(caught.value)
    check(report, QualityConfig(jumps="accept"))


def test_a_jump_reads_as_a_sentence() -> None:
    jump = Jump(session=date(2024, 6, 10), factor=0.1003, kind="step", cause="a split")
    assert str(jump) == "2024-06-10: times 0.1003, a split"


@pytest.mark.skipif(not STOCKNET.is_dir(), reason="the StockNet prices are not here")
def test_real_prices_raise_no_false_alarm() -> None:
    found = {path.stem: find_jumps(bar_columns(read_csv(path, ticker=path.stem))) for path in STOCKNET.glob("*.csv")}
    assert len(found) >= 64
    assert {ticker: jumps for ticker, jumps in found.items() if jumps} == {}
