"""The desk after a night: a row per ticker, its files, and the links to them in Prefect and MLflow."""

import logging
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import pandas as pd

from tickerforge.evaluation.monitoring.live import LiveScores
from tickerforge.evaluation.report.desk import HISTORY, DeskRow
from tickerforge.features.price_text import price_text
from tickerforge.flows.night.next_sessions import StockForecast
from tickerforge.tasks.base.errors import TrackingError
from tickerforge.tasks.base.paths import FORECASTS_FOLDER
from tickerforge.tasks.base.prefect_artifacts import plain, publish_link, publish_markdown
from tickerforge.tasks.outputs.desk import keep_rows, read_row, read_rows, write_desk
from tickerforge.tasks.tracking.desk import log_desk

logger = logging.getLogger(__name__)


def forecast_part(stock: str, found: StockForecast | None, *, bars: pd.DataFrame | None) -> DeskRow:
    """Return the row of a ticker with its issued forecast; the rest is that of its former row.

    Args:
        stock: Ticker.
        found: Its issued forecast; without one, the row keeps the former one.
        bars: Its bars up to the origin.
    """
    former = read_row(stock) or DeskRow(ticker=stock)
    issued = found.issued if found is not None else None
    if issued is None or bars is None:
        return former
    same = (former.issuer, former.version) == (issued.issuer, issued.version)
    known = bars[bars["date"] <= pd.Timestamp(issued.origin)]["adj_close"].tail(HISTORY)
    beside = found.beside if found is not None else None
    return former.model_copy(
        update={
            "currency": issued.currency,
            "origin": issued.origin,
            "last_close": issued.origin_close,
            # A dividend or a split since the forecast was issued rescales older closes.
            "closes": tuple((known * (issued.origin_close / known.iloc[-1])).tolist()) if len(known) else (),
            "sigma": issued.sigma,
            "interval": issued.interval,
            "dates": issued.target_dates,
            "provisional": issued.provisional_dates,
            "median": issued.median,
            "lower": issued.lower,
            "upper": issued.upper,
            "quantiles": issued.quantiles,
            "issuer": issued.issuer,
            "version": issued.version,
            "issued_at": issued.issued_at,
            "since": former.since if same and former.since else issued.issued_at,
            "why": issued.why,
            "thoughts": issued.thoughts,
            "challenger": beside.median if beside is not None else (),
            # The next night forecasts again, unless the caller is a night, which sets it.
            "basis": "",
        }
    )


def live_part(live: LiveScores) -> dict[str, object]:
    """Return the fields of a row about the scores of earlier forecasts."""
    return {"crps_skill": live.crps_skill, "scored": live.distributions, "live": live.text}


def forecast_cells(row: DeskRow) -> dict[str, str]:
    """Return what a person comes for: the next session with its band, the whole horizon, and who issued it."""
    if not row.median or row.last_close is None:
        return dict.fromkeys(("Next session", "Median (band)", "Horizon", "Issued by"), "")
    written = partial(price_text, like=row.last_close)
    return {
        "Next session": str(row.dates[0]),
        "Median (band)": f"{written(row.median[0])} ({_band(row, 0)})",
        "Horizon": f"{row.median[-1] / row.last_close - 1:+.2%}",
        "Issued by": row.issued_by,
    }


def _band(row: DeskRow, place: int) -> str:
    lower, upper = row.lower[place], row.upper[place]
    if lower is None or upper is None:
        return "no band"
    return f"{price_text(lower, like=row.last_close)} to {price_text(upper, like=row.last_close)}"


def live_cell(row: DeskRow) -> str:
    """Return the CRPS skill of the scored forecasts, with their number."""
    return "" if row.crps_skill is None else f"{row.crps_skill:+.1%} of {row.scored}"


def publish_stock(row: DeskRow, *, version: str, seconds: float) -> None:
    """Create the Markdown artifact `stock-{ticker}` of the current run: the forecast, the verdict and what to watch."""
    lines = [f"# {plain(row.ticker)}"]
    if row.median and row.last_close is not None:
        written = partial(price_text, like=row.last_close)
        lines += [
            f"Closed at {written(row.last_close, currency=plain(row.currency))} (adjusted) on {row.origin}. Issued by "
            f"{plain(row.issued_by)}{f': {plain(row.why)}' if row.why else ''}.",
            f"| Session | Median | {row.interval:.0%} band | Move |\n|---|---:|---:|---:|\n"
            + "\n".join(
                f"| {day} | {written(median)} | {_band(row, place)} | {median / row.last_close - 1:+.2%} |"
                for place, (day, median) in enumerate(zip(row.dates, row.median, strict=True))
            ),
        ]
    registered = f" Registered as version {version}." if version else ""
    lines.append(f"**{row.outcome}**: {plain(row.verdict) or 'it did not finish.'}{registered}")
    if row.report:
        lines.append(f"[Report]({row.report})")
    lines += [f"- {plain(text)}" for text in row.watch]
    lines += [plain(row.live), f"Took {seconds:.1f} s, without the time on workers of the GPU pool."]
    publish_markdown(
        f"stock-{row.ticker}", "\n\n".join(filter(None, lines)), description=f"Forecast and verdict of {row.ticker}."
    )


def publish_desk(rows: Sequence[DeskRow], *, at: datetime) -> str:
    """Keep the rows of some tickers, refresh the files over all tickers, and link to the page in MLflow and Prefect.

    Returns:
        The address of the page: in MLflow, or of the file.

    Raises:
        StoreError: If a record cannot be read or written.
        PublishError: If a file cannot be written.
    """
    keep_rows(rows)
    files = write_desk(read_rows(), folder=Path(FORECASTS_FOLDER), at=at)
    logger.info("the desk is %s", files.page)
    address = ""
    try:
        address = log_desk(files.page, at=at)
    except TrackingError as error:
        logger.warning("MLflow lacks the new desk page until the next night: %s", error)
    address = address or files.page.resolve().as_uri()
    publish_link("desk", address, text="The desk: all tickers", description="All tickers with their latest forecasts.")
    return address
