"""When a scheduled run is due, and whether its exchange has a session on that day."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import Field

from tickerforge.tasks.prices.sessions import exchange_date, is_session

Exchange = Annotated[
    str | None,
    Field(
        pattern=r"^[A-Z0-9_/]{3,8}$", description="Calendar such as XNYS: on a day without a session nothing is done."
    ),
]


def due() -> datetime:
    """The instant that this flow run was scheduled for, in UTC; now outside of a flow run."""
    from prefect.runtime import flow_run

    scheduled = flow_run.scheduled_start_time if flow_run.id else None
    return scheduled if isinstance(scheduled, datetime) else datetime.now(UTC)


def due_on_session(exchange: str) -> bool:
    """Whether the exchange has a session on the day, in its own time zone, for which this run was scheduled.

    Raises:
        MarketDataError: If there is no such exchange.
    """
    return is_session(exchange_date(due(), exchange=exchange), exchange=exchange)
