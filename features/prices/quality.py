"""The data-quality report of a ticker's bars: repairs, oddities, missing and extra sessions."""

from collections.abc import Mapping
from datetime import date

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from tickerforge.features.config import FrozenModel, QualityConfig
from tickerforge.features.errors import QualityError
from tickerforge.features.prices.dialects import REPAIRS
from tickerforge.features.prices.history import HistoryChange
from tickerforge.features.prices.jumps import Jump, check_jumps, find_jumps
from tickerforge.features.prices.schemas import Columns, bar_columns

USUAL_PRICES = (1e-6, 1e9)
LONGEST_STANDSTILL = 10
_ROUNDING = 1e-6
_SHOWN_DATES = 3

ODDITIES: dict[str, str] = {
    "prices_outside_range": "rows whose open or close is not between low and high",
    "extreme_prices": f"rows with a price below {USUAL_PRICES[0]:g} or above {USUAL_PRICES[1]:g}",
    "sessions_without_volume": "rows with a volume of 0",
    "standstill": f"sessions in runs of {LONGEST_STANDSTILL} or more with the same adjusted close",
}
"""What is kept unchanged and counted, in words."""


class QualityReport(FrozenModel):
    """The findings on one ticker's bars.

    Attributes:
        ticker: Name of the ticker.
        rows: Sessions with prices.
        first: The first of them.
        last: The last of them.
        currency: Code of the prices' currency, if their source names it.
        repairs: How often each of `features.prices.dialects.REPAIRS` was made.
        oddities: How many rows are odd in each way of `ODDITIES`.
        exchange: The calendar that the dates were compared with; empty if they were not.
        sessions: Sessions of that exchange from `first` to `last`.
        missing: Sessions of the exchange without prices.
        extra: Days with prices on which the exchange had no session.
        jumps: Moves of the adjusted close that no market makes.
        note: Why the dates, or some of them, were not compared with a calendar.
        history: What has changed in the history since the former bars; empty in the stored report, which depends on
            the bars alone.
    """

    ticker: str
    rows: int
    first: date
    last: date
    currency: str = ""
    repairs: dict[str, int] = Field(default={})
    oddities: dict[str, int] = Field(default={})
    jumps: tuple[Jump, ...] = ()
    exchange: str = ""
    sessions: int = 0
    missing: tuple[date, ...] = ()
    extra: tuple[date, ...] = ()
    note: str = ""
    history: HistoryChange | None = None

    def rows_of_table(self) -> list[dict[str, str]]:
        """Make a table for people: what, how often, and what it means."""
        calendar = self.exchange or "none"
        table = [
            ("sessions", _count(self.rows), f"{self.first} to {self.last}"),
            ("currency", self.currency or "not known", "of all prices, as their source names it"),
            ("missing sessions", _count(len(self.missing)), f"of {self.sessions} of {calendar}{_dates(self.missing)}"),
            ("extra sessions", _count(len(self.extra)), f"days on which {calendar} is closed{_dates(self.extra)}"),
            *((name, _count(count), REPAIRS[name]) for name, count in self.repairs.items()),
            *((name, _count(count), ODDITIES[name]) for name, count in self.oddities.items()),
        ]
        if self.jumps:
            table.append(("jumps", _count(len(self.jumps)), "; ".join(map(str, self.jumps[:_SHOWN_DATES]))))
        if self.history:
            table.append((f"{self.history.kind}_history", _count(self.history.rows), str(self.history)))
        if self.note and self.exchange:
            table.append(("calendar", "compared in part", self.note))
        elif self.note:
            table[2:4] = [("calendar", "not compared", self.note)]
        return [{"What": what.replace("_", " "), "Count": count, "Meaning": meaning} for what, count, meaning in table]


def assess(
    bars: pd.DataFrame | Mapping[str, NDArray],
    *,
    ticker: str,
    repairs: Mapping[str, int],
    currency: str = "",
    exchange: str = "",
    sessions: NDArray[np.datetime64] | None = None,
    note: str = "",
) -> QualityReport:
    """Examine a ticker's bars.

    Args:
        bars: As `features.prices.bars.read_csv` returns them.
        ticker: Name of the ticker.
        repairs: What was repaired when they were read.
        currency: Code of the currency, if it is known.
        exchange: The exchange whose sessions these are.
        sessions: The exchange's sessions, ascending (datetime64[s]), at least from the first bar to the last; without
            them nothing is compared.
        note: Why nothing is compared, or not all days.
    """
    values = bar_columns(bars)
    dates = values["date"].astype("datetime64[s]")
    missing = extra = np.array([], dtype="datetime64[s]")
    expected = 0
    if sessions is not None:
        due = sessions[(sessions >= dates[0]) & (sessions <= dates[-1])].astype("datetime64[s]")
        expected = len(due)
        if not np.array_equal(due, dates):
            missing, extra = np.setdiff1d(due, dates), np.setdiff1d(dates, due)
    return QualityReport(
        ticker=ticker,
        rows=len(dates),
        first=_day(dates[0]),
        last=_day(dates[-1]),
        currency=currency,
        repairs=dict(repairs),
        oddities={name: count for name, count in _oddities(values).items() if count},
        jumps=tuple(find_jumps(values)),
        exchange=exchange if sessions is not None else "",
        sessions=expected,
        missing=tuple(map(_day, missing)),
        extra=tuple(map(_day, extra)),
        note=note,
    )


def check(report: QualityReport, config: QualityConfig) -> None:
    """Check a report against the limits.

    Raises:
        QualityError: If a limit is exceeded; names every such limit, the dates, and the setting.
        JumpError: If the prices jump as no market does, and the configuration does not accept that.
    """
    without = report.repairs.get("rows_without_prices", 0)
    faults = [
        f"{count} {what} ({count / max(total, 1):.1%}{_dates(which)}); {limit:.0%} are allowed (quality.{setting})"
        for what, count, total, which, limit, setting in (
            (
                f"of the {report.sessions} sessions of {report.exchange} have no prices",
                *(len(report.missing), report.sessions, report.missing, config.max_missing, "max_missing"),
            ),
            (
                f"of the {report.rows} days with prices are not sessions of {report.exchange}",
                *(len(report.extra), report.rows, report.extra, config.max_extra, "max_extra"),
            ),
            (
                f"of the {report.rows + without} rows hold no prices",
                *(without, report.rows + without, (), config.max_without_prices, "max_without_prices"),
            ),
        )
        if count > limit * total
    ]
    if faults:
        raise QualityError(
            f"{report.ticker}: {'; '.join(faults)}. Download the prices again, name the right calendar "
            "(quality.exchange), or raise the limit."
        )
    if config.jumps != "accept":
        check_jumps(report.jumps, ticker=report.ticker, where=f"{report.rows:,} sessions")


def _count(count: int) -> str:
    return f"{count:,}"


def _oddities(bars: Columns) -> dict[str, int]:
    open_, high, low, close, adjusted = (bars[name] for name in ("open", "high", "low", "close", "adj_close"))
    top, bottom = high * (1 + _ROUNDING), low * (1 - _ROUNDING)
    outside = (open_ > top) | (open_ < bottom) | (close > top) | (close < bottom)
    smallest = np.minimum(np.minimum(low, adjusted), np.minimum(open_, close))
    largest = np.maximum(np.maximum(high, adjusted), np.maximum(open_, close))
    changes = np.flatnonzero(np.diff(adjusted) != 0) + 1
    runs = np.diff(np.concatenate([[0], changes, [len(adjusted)]]))
    return {
        "prices_outside_range": int(outside.sum()),
        "extreme_prices": int(((smallest < USUAL_PRICES[0]) | (largest > USUAL_PRICES[1])).sum()),
        "sessions_without_volume": int((bars["volume"] == 0).sum()),
        "standstill": int(runs[runs >= LONGEST_STANDSTILL].sum()),
    }


def _day(instant: np.datetime64) -> date:
    return instant.astype("datetime64[D]").item()


def _dates(days: tuple[date, ...]) -> str:
    if not days:
        return ""
    more = f" and {len(days) - _SHOWN_DATES} more" if len(days) > _SHOWN_DATES else ""
    return f": {', '.join(map(str, days[:_SHOWN_DATES]))}{more}"
