"""Days without a session: a run on a schedule says that it skips them, and one by hand does its work."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.flow_engine import run_flow
from prefect.states import Pending, Scheduled

from tickerforge.flows.settings import scope
from tickerforge.flows.settings.config import PipelineConfig

SATURDAY, MONDAY = datetime(2026, 11, 28, 17, tzinfo=UTC), datetime(2026, 11, 30, 17, tzinfo=UTC)


@flow(name="on-sessions")
def on_sessions() -> str:
    nothing = scope.skipped("XNYS", result="nothing")
    return "work" if nothing is None else nothing


@pytest.mark.parametrize(
    ("scheduled", "instant", "outcome"),
    [
        (True, SATURDAY, ("Skipped", "XNYS has no session on 2026-11-28", "nothing")),
        (True, MONDAY, ("Completed", None, "work")),
        (False, SATURDAY, ("Completed", None, "work")),
    ],
)
def test_only_a_scheduled_run_skips_a_day_without_a_session_and_says_so(
    prefect_server: None, scheduled: bool, instant: datetime, outcome: tuple[Any, ...]
) -> None:
    deployment = on_sessions.to_deployment("test", cron="0 17 * * *").apply()
    with get_client(sync_client=True) as client:
        if scheduled:
            around = {"start_time": str(instant - timedelta(hours=1)), "end_time": str(instant + timedelta(hours=1))}
            client._client.post(f"/deployments/{deployment}/schedule", json=around).raise_for_status()
            wanted = {"deployment_id": {"any_": [deployment]}, "expected_start_time": {"before_": instant}}
            (run, *_) = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted))
        else:
            run = client.create_flow_run_from_deployment(deployment, state=Scheduled(scheduled_time=instant))
        assert run.expected_start_time == instant
        # A worker does so when the time has come.
        client.set_flow_run_state(run.id, Pending(), force=True)
        returned = run_flow(on_sessions, flow_run=client.read_flow_run(run.id))
        state = client.read_flow_run(run.id).state
        client.delete_deployment(deployment)
    assert state is not None
    assert (state.name, state.message, returned) == outcome
    assert state.is_completed()


def test_stocks_are_spelled_as_everywhere_each_once_and_a_name_of_no_stock_stays() -> None:
    config = PipelineConfig()
    asked = ("aapl", "AAPL", "eur/usd", "../x")
    assert scope.chosen_stocks(asked, config) == ("AAPL", "EUR-USD", "../x")
    assert scope.chosen_stocks((), config) == (config.synthetic.ticker,)
