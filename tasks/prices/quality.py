"""The data-quality report of one ticker's bars as a stored artifact, `quality.json`, and as a table of the run."""

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from tickerforge.features.config import QualityConfig
from tickerforge.features.prices.history import HistoryChange
from tickerforge.features.prices.quality import QualityReport, assess, check
from tickerforge.features.prices.schemas import Columns
from tickerforge.tasks.base.errors import MarketDataError
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.base.paths import QUALITY_FILE
from tickerforge.tasks.prices.sessions import AUTO, NO_EXCHANGE, exchange_of, recorded, sessions_between
from tickerforge.tasks.store.artifacts import ArtifactRef, Scalar, Store, code_version

HISTORY, REPAIR_COUNTS = "history", "repairs"
"""Where the meta of bars keeps what has changed of the past, and what was repaired; both as JSON."""

_MODULES = (
    "tickerforge.features.prices.quality",
    "tickerforge.features.prices.bars",
    "tickerforge.features.prices.dialects",
    "tickerforge.features.prices.jumps",
    "tickerforge.tasks.prices.quality",
    "tickerforge.tasks.prices.sessions",
)
"""The code that `quality.json` depends on; calendars change with their library."""


def assess_bars(
    bars: ArtifactRef, read: Callable[[], Columns], *, config: QualityConfig, store: Store
) -> tuple[ArtifactRef, QualityReport]:
    """Examine bars, and store the report.

    The report is an artifact of its own, so that another calendar does not change bars, windows and adapters.

    Args:
        bars: Artifact of `fetch_bars`.
        read: Returns the bars; called only if there is no report yet.
        config: The exchange whose sessions are expected.
        store: Where the artifact goes.

    Raises:
        MarketDataError: If the exchange that `config` names is not known.
    """
    repairs = json.loads(str(bars.meta.get(REPAIR_COUNTS) or "{}"))
    currency = str(bars.meta.get("currency", ""))

    def build(folder: Path) -> Mapping[str, Scalar]:
        report = _assessed(
            read(), ticker=str(bars.meta["ticker"]), repairs=repairs, currency=currency, exchange=config.exchange
        )
        (folder / QUALITY_FILE).write_text(report.model_dump_json(indent=2), encoding="utf-8")
        return {"ticker": report.ticker, "missing": len(report.missing), "extra": len(report.extra)}

    made = store.build(
        "quality",
        {
            "bars": bars,
            "ticker": bars.meta["ticker"],
            "repairs": repairs,
            "exchange": config.exchange,
            "currency": currency,
        },
        build,
        code=code_version(*_MODULES, libraries=("pandas", "numpy", "exchange-calendars")),
    )
    return made, read_quality(made)


def hold_to_limits(report: QualityReport, config: QualityConfig) -> None:
    """Show the report in the current task run, if there is one, and check it against the limits.

    Raises:
        QualityError: If a limit is exceeded.
        JumpError: If the prices jump, and `config` does not accept that; accepted jumps are logged as a warning.
    """
    if report.jumps and config.jumps == "accept":
        run_logger(__name__).warning(
            "%s: the adjusted close jumps, which is accepted: %s", report.ticker, "; ".join(map(str, report.jumps))
        )
    if _in_task_run():
        from tickerforge.tasks.base.prefect_artifacts import publish_table

        publish_table(
            f"quality-{report.ticker}", report.rows_of_table(), description=f"Data quality of {report.ticker}"
        )
    check(report, config)


def read_quality(quality: ArtifactRef) -> QualityReport:
    """Read the report of an artifact of `assess_bars`."""
    return QualityReport.model_validate_json((quality.path / QUALITY_FILE).read_bytes())


def with_history(report: QualityReport, bars: ArtifactRef) -> QualityReport:
    """Add to the report what has changed in the history since the former bars."""
    text = bars.meta.get(HISTORY)
    change = HistoryChange.model_validate_json(str(text)) if text else None
    return report.model_copy(update={"history": change})


def _assessed(
    prices: Columns, *, ticker: str, repairs: Mapping[str, int], currency: str, exchange: str
) -> QualityReport:
    examined = partial(assess, prices, ticker=ticker, repairs=repairs, currency=currency)
    if exchange == NO_EXCHANGE:
        note = "no exchange is named (quality.exchange = none)"
        return examined(note=note)
    dates = prices["date"]
    name = exchange_of(ticker, dates) if exchange == AUTO else exchange
    days = dates.astype("datetime64[D]")
    try:
        sessions = sessions_between(days[0].item(), days[-1].item(), exchange=name)
        first, last = recorded(name)
    except MarketDataError as error:
        if exchange != AUTO:
            raise
        return examined(note=str(error))
    unknown = dates[(days < np.datetime64(first)) | (days > np.datetime64(last))]
    note = ""
    if len(unknown):
        note = f"{name} is recorded from {first} to {last}; the {len(unknown)} days outside are not compared"
        sessions = np.union1d(sessions, unknown)
    return examined(exchange=name, sessions=sessions, note=note)


def _in_task_run() -> bool:
    if "prefect" not in sys.modules:
        return False
    from prefect.context import TaskRunContext

    return TaskRunContext.get() is not None
