"""The alert after a night: failures, promotions and flags, or one line if all is well."""

from collections.abc import Sequence

from tickerforge.evaluation.report.desk import FAILED, PROMOTED, DeskRow

_MOST = 40


def night_message(rows: Sequence[DeskRow], *, address: str) -> tuple[str, str]:
    """Return the title and the text of the alert after a night.

    Args:
        rows: The stocks of the night.
        address: The desk.
    """
    counts = {name: sum(row.outcome == name for row in rows) for name in (PROMOTED, FAILED)}
    stocks = "1 stock" if len(rows) == 1 else f"{len(rows)} stocks"
    title = f"TickerForge night: {stocks}, {counts[PROMOTED]} promoted, {counts[FAILED]} failed"
    noticed = [row for row in rows if row.flags or row.outcome == PROMOTED]
    lines = [_line(row) for row in sorted(noticed, key=lambda row: (row.outcome != FAILED, row.ticker))]
    if more := lines[_MOST:]:
        lines = [*lines[:_MOST], f"and {len(more)} more"]
    return title, "\n".join([*(lines or ["Nothing to watch."]), f"Desk: {address}"])


def _line(row: DeskRow) -> str:
    promoted = [row.verdict] if row.outcome == PROMOTED else []
    names = ", ".join([*(["promoted"] if promoted else []), *row.flags])
    return f"{row.ticker} ({names}): {' '.join([*row.watch, *promoted])}"
