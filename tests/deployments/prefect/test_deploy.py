"""The deployments on the server: schedules, days, heartbeats, and what a second `deploy` leaves alone."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tickerforge.deployments.prefect.deploy import AUTOMATION, LONGEST_SILENCE_SECONDS, deploy
from tickerforge.deployments.prefect.entries import read_tickers

MANUAL, NIGHT, DAILY = (
    "train-ticker/1-train-one-stock",
    "nightly/2-retrain-all-stocks",
    "forecast/3-forecast-all-stocks",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with two stocks."""
    folder = tmp_path_factory.mktemp("prices")
    for stock in ("AAPL", "BRK.B"):
        (folder / f"{stock}.csv").touch()
    return folder


@pytest.fixture(scope="module")
def tickers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One ticker with an hour of its own in Tokyo, one as at the top of the file."""
    path = tmp_path_factory.mktemp("tickers") / "tickers.toml"
    path.write_text('exchange = "XNYS"\n[tickers.AAPL]\n[tickers."BRK.B"]\nexchange = "XTKS"\ncron = "0 18 * * 1-5"\n')
    return path


@pytest.fixture(scope="module")
def client(prefect_server: None, data: Path, tickers: Path) -> Iterator[Any]:
    """A client of a server on which everything is deployed."""
    from prefect.client.orchestration import get_client

    deploy(data=data, tickers=tickers)
    with get_client(sync_client=True) as client:
        yield client


def test_the_night_of_a_ticker_has_its_own_hour_in_the_time_zone_of_its_exchange(client: Any) -> None:
    tokyo = client.read_deployment_by_name("train-ticker/nightly-BRK.B")
    (schedule,) = tokyo.schedules
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 18 * * 1-5", "Asia/Tokyo")
    assert schedule.active
    assert tokyo.parameters["exchange"] == "XTKS"
    assert tokyo.parameters["stock"] == "BRK.B"
    assert tokyo.parameters["warm_start"] == "champion"
    (off,) = client.read_deployment_by_name("train-ticker/nightly-AAPL").schedules
    assert (off.schedule.cron, off.schedule.timezone) == (read_tickers().cron, "America/New_York")
    assert not off.active
    assert client.read_deployment_by_name(NIGHT).parameters["tickers"] == ["AAPL", "BRK.B"]


def test_every_active_schedule_gets_its_runs_from_the_servers_scheduler_and_no_other(client: Any) -> None:
    from prefect.server.services.scheduler import schedule_deployments

    # The very service that a server runs every minute, on the tests' database: their server runs without services.
    asyncio.run(schedule_deployments())
    deployed = client.read_deployments()
    active = {each.id for each in deployed if any(schedule.active for schedule in each.schedules)}
    runs = [run for run in client.read_flow_runs() if run.auto_scheduled]
    assert {each.name for each in deployed if each.id in active} == {
        "2-retrain-all-stocks",
        "3-forecast-all-stocks",
        "nightly-BRK.B",
    }
    assert {run.deployment_id for run in runs} == active
    assert {run.state.type.value for run in runs} == {"SCHEDULED"}
    for run in runs:
        (schedule,) = next(each.schedules for each in deployed if each.id == run.deployment_id)
        due = run.expected_start_time.in_timezone(schedule.schedule.timezone)
        assert f"{due.minute} {due.hour} * * 1-5" == schedule.schedule.cron
        assert due.weekday() < 5


def snapshot(client: Any) -> dict[str, Any]:
    deployed = {each.name + str(each.flow_id): each for each in client.read_deployments()}
    return {
        "deployments": {
            name: each.model_dump(mode="json", exclude={"updated", "last_polled", "status", "schedules", "version_id"})
            | {"schedules": [one.model_dump(mode="json", exclude={"updated"}) for one in each.schedules]}
            | {"pull_steps": each.pull_steps or []}
            for name, each in deployed.items()
        },
        # The time of its last change too: changing one while the server reads an event can hang it.
        "automations": [
            (each["name"], each["updated"]) for each in client._client.post("/automations/filter", json={}).json()
        ],
        "limits": [
            (each.id, each.name, each.limit) for each in client.read_global_concurrency_limits(limit=100, offset=0)
        ],
        "pools": [(each.id, each.base_job_template) for each in client.read_work_pools()],
    }


def test_deploying_twice_changes_nothing(client: Any, data: Path, tickers: Path) -> None:
    before = snapshot(client)
    deploy(data=data, tickers=tickers)
    after = snapshot(client)
    for name, each in before["deployments"].items():
        assert after["deployments"][name] == each
    assert after == before
    assert [name for name, _ in after["automations"]].count(AUTOMATION) == 1


def test_no_run_chooses_the_command_that_executes_it(client: Any) -> None:
    for name in ("cpu-pool", "gpu-pool"):
        template = client.read_work_pool(name).base_job_template
        assert "working_dir" in template["variables"]["properties"]
        assert "command" not in template["variables"]["properties"]
        assert "command" not in template["job_configuration"]


@pytest.mark.parametrize("kind", ["made by hand", "of an older version"])
def test_a_pool_with_another_template_gets_ours_and_keeps_the_values_that_a_user_chose(
    client: Any, data: Path, tickers: Path, kind: str
) -> None:
    from prefect.client.schemas.actions import WorkPoolUpdate
    from prefect.workers.process import ProcessWorker

    ours = client.read_work_pool("cpu-pool").base_job_template
    template: dict[str, Any] = {}
    if kind == "of an older version":
        template = ProcessWorker.get_default_base_job_template()
        assert "command" in template["job_configuration"]
        template["variables"]["properties"]["name"]["default"] = "ours"
    client.update_work_pool("cpu-pool", WorkPoolUpdate(base_job_template=template))
    deploy(data=data, tickers=tickers)
    found = client.read_work_pool("cpu-pool").base_job_template
    if template:
        ours["variables"]["properties"]["name"]["default"] = "ours"
    assert found == ours


def test_what_a_user_switched_paused_or_added_in_the_ui_outlives_a_new_deployment(
    client: Any, data: Path, tickers: Path
) -> None:
    from prefect.client.schemas.schedules import CronSchedule

    night, daily, aapl, manual = (
        client.read_deployment_by_name(name) for name in (NIGHT, DAILY, "train-ticker/nightly-AAPL", MANUAL)
    )
    client.update_deployment_schedule(night.id, night.schedules[0].id, active=False)
    client.update_deployment_schedule(aapl.id, aapl.schedules[0].id, active=True)
    client.pause_deployment(daily.id)
    for added in (manual, night):
        client.create_deployment_schedules(added.id, [(CronSchedule(cron="5 4 * * *", timezone="UTC"), True)])
    for _ in range(2):
        deploy(data=data, tickers=tickers)
        found = client.read_deployment_by_name(NIGHT).schedules
        assert {each.schedule.cron: each.active for each in found} == {"30 23 * * 1-5": False, "5 4 * * *": True}
        assert [each.active for each in client.read_deployment_by_name("train-ticker/nightly-AAPL").schedules] == [True]
        assert client.read_deployment_by_name(DAILY).paused
        assert [each.schedule.cron for each in client.read_deployment_by_name(MANUAL).schedules] == ["5 4 * * *"]
    for added in (manual, night):
        for schedule in client.read_deployment_by_name(
            f"{'train-ticker' if added is manual else 'nightly'}/{added.name}"
        ).schedules:
            if schedule.schedule.cron == "5 4 * * *":
                client.delete_deployment_schedule(added.id, schedule.id)


def test_every_run_beats_more_often_than_the_automation_waits_whatever_the_worker_is_told(client: Any) -> None:
    ours = [each for each in client.read_deployments() if "tickerforge" in each.tags]
    assert len(ours) > 5
    for each in ours:
        beat = int(each.job_variables["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
        assert 2 * beat < LONGEST_SILENCE_SECONDS, each.name


@pytest.mark.parametrize(
    ("instant", "works"),
    [("2026-11-26T23:30:00-05:00", False), ("2026-11-27T01:00:00+00:00", False), ("2026-11-27T23:30:00-05:00", True)],
)
def test_the_day_of_a_run_is_the_one_it_was_due_on_in_the_exchanges_time_zone(
    monkeypatch: pytest.MonkeyPatch, instant: str, works: bool
) -> None:
    from datetime import datetime

    from tickerforge.flows.settings import scope

    monkeypatch.setattr(scope, "due", lambda: datetime.fromisoformat(instant))
    assert scope.due_on_session("XNYS") is works


@pytest.mark.parametrize("name", [NIGHT, DAILY])
def test_a_scheduled_run_due_on_thanksgiving_does_nothing_and_says_so(
    client: Any, working_folder: Path, name: str
) -> None:
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.flow_engine import run_flow
    from prefect.flows import load_flow_from_entrypoint
    from prefect.states import Pending

    deployed = client.read_deployment_by_name(name)
    client.update_deployment_schedule(deployed.id, deployed.schedules[0].id, active=True)
    times = {"start_time": "2026-11-26T17:00:00-05:00", "end_time": "2026-11-27T00:00:00-05:00"}
    client._client.post(f"/deployments/{deployed.id}/schedule", json=times).raise_for_status()
    wanted = {"deployment_id": {"any_": [deployed.id]}, "expected_start_time": {"before_": times["end_time"]}}
    (run, *_) = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted))
    # A worker does so when the time has come.
    client.set_flow_run_state(run.id, Pending(), force=True)
    run = client.read_flow_run(run.id)
    flow = load_flow_from_entrypoint(deployed.entrypoint)
    run_flow(flow, flow_run=run, parameters=flow.validate_parameters(run.parameters))
    state = client.read_flow_run(run.id).state
    assert (state.name, state.message) == ("Skipped", "XNYS has no session on 2026-11-26")
    assert not list(working_folder.iterdir())
