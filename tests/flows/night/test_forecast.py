"""Forecasts on record: one that cannot be recorded fails alone, and a ticker's own exchange says when it is due."""

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from tickerforge.flows.night.forecast import _issued
from tickerforge.flows.night.next_sessions import Forecast, Session, StockForecast


@pytest.fixture(autouse=True)
def _own_home(working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TICKERFORGE_STORE", raising=False)


def made(ticker: str, *, exchange: str = "") -> StockForecast:
    days = [date(2026, 11, 9), date(2026, 11, 10)]
    sessions = tuple(Session(date=day, median=100.0, lower=None, upper=None) for day in days)
    forecast = Forecast(
        ticker=ticker,
        origin=date(2026, 11, 6),
        last_close=100.0,
        adapter="free",
        version=None,
        sigma=0.01,
        interval=0.8,
        answers=0,
        valid=0,
        sessions=sessions,
        issuer="random_walk",
        exchange=exchange,
    )
    return StockForecast(stock=ticker, forecast=forecast)


def test_a_forecast_that_cannot_be_recorded_fails_alone(tmp_path: Path) -> None:
    assert _issued(made("DEMO"), exchange=None).issued is not None
    (record,) = (path for path in (tmp_path / "home").rglob("DEMO/*") if path.is_file())
    record.write_text("{")
    failed = _issued(made("DEMO"), exchange=None)
    assert failed.failed
    assert failed.issued is None
    assert record.name in failed.note
    assert _issued(made("OTHER"), exchange=None).issued is not None


@pytest.mark.parametrize(
    ("ticker", "own", "schedule", "first_close"),
    [
        ("7203.T", "XTKS", "XNYS", datetime(2026, 11, 9, 6, 30, tzinfo=UTC)),
        ("7203.T", "", "XNYS", datetime(2026, 11, 9, 6, 30, tzinfo=UTC)),
        ("7203", "", "XTKS", datetime(2026, 11, 9, 6, 30, tzinfo=UTC)),
        ("ACME", "", "XNYS", datetime(2026, 11, 9, 21, tzinfo=UTC)),
        ("ACME", "", None, datetime(2026, 11, 9, 21, tzinfo=UTC)),
    ],
)
def test_prices_are_due_by_the_tickers_own_exchange_and_else_by_that_of_the_schedule(
    ticker: str, own: str, schedule: str | None, first_close: datetime
) -> None:
    issued = _issued(made(ticker, exchange=own), exchange=schedule).issued
    assert issued is not None
    assert issued.first_close == first_close
