"""Rows of the desk for tests."""

from datetime import UTC, date, datetime, timedelta

import numpy as np

from tickerforge.evaluation.core.contracts import ISSUED_LEVELS
from tickerforge.evaluation.report.desk import DeskRow

ORIGIN = date(2026, 11, 20)
EVENING = datetime(2026, 11, 20, 22, tzinfo=UTC)


def desk_row(ticker: str = "AAPL", **changed: object) -> DeskRow:
    """A row with a forecast of three sessions from a close of 100, by a free forecaster."""
    fan = 100 + np.outer(np.sqrt([1, 2, 3]), np.array(ISSUED_LEVELS) * 10 - 5)
    row = DeskRow(
        ticker=ticker,
        currency="USD",
        origin=ORIGIN,
        last_close=100.0,
        closes=(98.0, 99.0, 100.0),
        sigma=0.015,
        dates=tuple(ORIGIN + timedelta(days=day) for day in (3, 4, 5)),
        provisional=(ORIGIN + timedelta(days=5),),
        median=tuple(fan[:, 9]),
        lower=tuple(fan[:, 1]),
        upper=tuple(fan[:, 17]),
        quantiles=tuple(map(tuple, fan)),
        issuer="random_walk_har",
        issued_at=EVENING,
        since=EVENING,
        why="its CRPS is lowest",
    )
    return row.model_copy(update=changed)
