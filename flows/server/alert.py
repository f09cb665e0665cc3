"""Alerts about flow runs that end without a result: hooks for `on_failure` and `on_crashed`."""

from typing import TYPE_CHECKING, Any

from tickerforge.flows.errors import NightFailed
from tickerforge.tasks.outputs.alerts import send_alert

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State


def alert(flow: "Flow[..., Any]", flow_run: "FlowRun", state: "State") -> None:
    """Send an alert about a run that ended before its table was published; later failures send their own."""
    reason = state.message or "See its log in Prefect."
    if NightFailed.__name__ not in reason:
        send_alert(f"TickerForge: {flow.name} {flow_run.name} has {(state.name or 'failed').lower()}", reason)


def alert_if_scheduled(flow: "Flow[..., Any]", flow_run: "FlowRun", state: "State") -> None:
    """As `alert`, but not about a run that a person started and watches."""
    if flow_run.auto_scheduled:
        alert(flow, flow_run, state)
