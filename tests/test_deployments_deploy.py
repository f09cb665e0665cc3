"""The deployments: the shipped files, the form, the schedules, and what a second `deploy` leaves alone."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.deploy import AUTOMATION, SILENCE_SECONDS, deploy, prepare
from deployments.entries import NIGHTLY, PREFECT_FILE, for_night, nightly_entries, read_entries, read_tickers
from features.synthetic import market
from flows.config import PipelineConfig, with_overrides
from flows.errors import ConfigError
from tasks.errors import MarketDataError

MANUAL, NIGHT, DAILY = "train-ticker/manual", "nightly/all", "forecast/daily"
DEMO = with_overrides(PipelineConfig(), ["stock=DEMO"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with two stocks."""
    folder = tmp_path_factory.mktemp("prices")
    names = ["Date", "Open", "High", "Low", "Close", "Adj Close", "Volume"]
    table = market(DEMO.synthetic).set_axis(names, axis=1)
    for stock in ("AAPL", "BRK.B"):
        table.to_csv(folder / f"{stock}.csv", index=False, date_format="%Y-%m-%d")
    return folder


@pytest.fixture(scope="module")
def tickers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One ticker with an hour of its own in Tokyo, one as at the top of the file."""
    return written(
        tmp_path_factory.mktemp("tickers"),
        'exchange = "XNYS"\n[tickers.AAPL]\n[tickers."BRK.B"]\nexchange = "XTKS"\ncron = "0 18 * * 1-5"\n',
    )


def written(folder: Path, text: str, *, name: str = "tickers.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def client(prefect_server: None, data: Path, tickers: Path) -> Iterator[Any]:
    """A client of a server on which everything is deployed."""
    from prefect.client.orchestration import get_client

    deploy(data=data, tickers=tickers)
    with get_client(sync_client=True) as client:
        yield client


def test_the_shipped_files_are_read_and_all_their_flows_load_and_take_the_parameters() -> None:
    listed = read_tickers()
    entries = (*read_entries(), *nightly_entries(listed))
    names = {f"{prepare(entry, config=DEMO, stocks=['DEMO'])[0].name}/{entry.name}" for entry in entries}
    assert {MANUAL, NIGHT, DAILY, "heavy-stage/gpu", "train-batch/gpu", "train-ticker/nightly-DEMO"} <= names
    assert len(names) == len(entries)
    assert {entry.work_pool.name for entry in entries} == {"cpu-pool", "gpu-pool"}


@pytest.mark.parametrize(
    ("shipped", "mistake", "told"),
    [
        ("work_pool: {name: cpu-pool}", "work_pol: {name: cpu-pool}", r"deployments\.0\.work_pol: Extra inputs"),
        ("work_pool: {name: cpu-pool}", "work_pool: {nmae: cpu-pool}", r"work_pool\.nmae: Extra inputs"),
        ("    work_pool: {name: cpu-pool}\n", "", r"deployments\.0\.work_pool: Field required"),
        ("work_pool: {name: cpu-pool}", "work_pool: {name: cpu-poool}", "'cpu-pool' or 'gpu-pool'"),
        ("30 23 * * 1-5", "30 25 * * 1-5", "Invalid cron"),
        ("timezone: America/New_York", "timezone: America/New_Yrok", "Invalid timezone"),
        ("collision_strategy: ENQUEUE", "collision_strategy: QUEUE", "collision_strategy: Input should be"),
        ("name: tickerforge\n", "name: [tickerforge\n", "cannot read"),
    ],
)
def test_a_mistake_in_the_project_file_is_told_by_its_place(
    tmp_path: Path, shipped: str, mistake: str, told: str
) -> None:
    text = PREFECT_FILE.read_text()
    assert shipped in text
    with pytest.raises(ConfigError, match=told):
        read_entries(written(tmp_path, text.replace(shipped, mistake, 1), name="prefect.yaml"))


@pytest.mark.parametrize(
    ("shipped", "mistake", "told"),
    [
        ("flows.pipeline.train_ticker", "flows.pipeline.train_tickers", "manual: the entry point .* does not load"),
        ("flows.pipeline.train_ticker", "flows.pipelin.train_ticker", "manual: the entry point .* does not load"),
        ("config: {stock: DEMO}", "config: {stok: DEMO}", "unknown setting stok"),
        ("config: {stock: DEMO}", "config: {stock: DEMO, seed: -1}", "seed = -1: must be a whole number"),
        ("config: {stock: DEMO}", "config: {stock: DEMO}\n      exchnge: XNYS", "manual: .*exchnge"),
        ("heavy_stages: gpu-pool", "heavy_stages: gpu", "manual: .*heavy_stages"),
    ],
)
def test_an_entry_that_could_not_run_is_refused_before_anything_is_deployed(
    tmp_path: Path, shipped: str, mistake: str, told: str
) -> None:
    text = PREFECT_FILE.read_text()
    assert shipped in text
    entries = read_entries(written(tmp_path, text.replace(shipped, mistake, 1), name="prefect.yaml"))
    with pytest.raises(ConfigError, match=f"(?s){told}"):
        prepare(entries[0], config=DEMO, stocks=["DEMO"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[tickers.AAPL]\ncorn = '0 0 * * *'", r"tickers\.AAPL\.corn: Extra inputs"),
        ("[tickers.'a/b']", "tickers: "),
        ("[tickers.AAPL", "cannot read"),
    ],
)
def test_a_mistake_in_the_file_of_tickers_is_told_by_its_place(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_tickers(written(tmp_path, text))


def test_a_bad_cron_an_unknown_exchange_and_a_ticker_without_prices_are_refused(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ConfigError, match="Invalid cron"):
        deploy(tickers=written(tmp_path, "[tickers.DEMO]\ncron = '99 * * * *'"))
    with pytest.raises(MarketDataError, match="XNIX"):
        deploy(tickers=written(tmp_path, "exchange = 'XNIX'\n[tickers.DEMO]"))
    with pytest.raises(ConfigError, match=r"nightly-MSFT: .*no prices for MSFT"):
        deploy(data=data, tickers=written(tmp_path, "[tickers.MSFT]"))


def test_the_night_of_a_ticker_has_its_own_hour_in_the_time_zone_of_its_exchange(client: Any) -> None:
    tokyo = client.read_deployment_by_name("train-ticker/nightly-BRK.B")
    (schedule,) = tokyo.schedules
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 18 * * 1-5", "Asia/Tokyo")
    assert schedule.active
    assert tokyo.parameters["exchange"] == "XTKS"
    assert tokyo.parameters["config"]["stock"] == "BRK.B"
    assert tokyo.parameters["config"]["warm_start"] == "champion"
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
    assert {each.name for each in deployed if each.id in active} == {"all", "daily", "nightly-BRK.B"}
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
        "automations": [(each.id, each.name) for each in client.read_automations()],
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
    assert [name for _, name in after["automations"]].count(AUTOMATION) == 1


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


def leaves(node: dict[str, Any], definitions: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in node["properties"].items():
        yield f"{path}{name}", field
        if "$ref" in field:
            yield from leaves(definitions[field["$ref"].rsplit("/", 1)[-1]], definitions, f"{path}{name}.")


def settings_of(model: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        yield f"{path}{name}", field
        if hasattr(field.annotation, "model_fields"):
            yield from settings_of(field.annotation, f"{path}{name}.")


def test_every_field_of_the_form_has_a_description_and_every_choice_and_bound_of_the_model(client: Any) -> None:
    from typing import Literal, get_args, get_origin

    schema = client.read_deployment_by_name(MANUAL).parameter_openapi_schema
    assert schema["additionalProperties"] is False
    assert all(definition["additionalProperties"] is False for definition in schema["definitions"].values())
    form = dict(leaves(schema, schema["definitions"], ""))
    assert [name for name, field in form.items() if not field.get("description")] == []
    assert form["heavy_stages"]["enum"] == ["here", "gpu-pool"]
    assert form["config.stock"]["enum"] == ["AAPL", "BRK.B", "ALL"]
    words = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
    compared = 0
    for name, field in settings_of(PipelineConfig):
        shown = form[f"config.{name}"]
        if get_origin(field.annotation) is Literal:
            assert shown["enum"] == list(get_args(field.annotation)), name
            compared += 1
        number = next(
            (each for each in (shown, *shown.get("anyOf", [])) if each.get("type") in ("integer", "number")), {}
        )
        for constraint in field.metadata:
            for attribute, word in words.items():
                if hasattr(constraint, attribute):
                    assert number[word] == getattr(constraint, attribute), name
                    compared += 1
    assert compared > 60


def test_a_heavy_stage_is_taken_for_a_stock_that_is_newer_than_the_deployment(client: Any) -> None:
    schema = client.read_deployment_by_name("heavy-stage/gpu").parameter_openapi_schema
    assert "enum" not in schema["definitions"]["PipelineConfig"]["properties"]["stock"]


def test_every_run_beats_more_often_than_the_automation_waits_whatever_the_worker_is_told(client: Any) -> None:
    ours = [each for each in client.read_deployments() if "tickerforge" in each.tags]
    assert len(ours) > 5
    for each in ours:
        beat = int(each.job_variables["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
        assert 2 * beat < SILENCE_SECONDS, each.name


def submit(client: Any, changes: dict[str, Any], **parameters: Any) -> tuple[int, str]:
    """Start a run as the form does, and put it away where it was accepted."""
    from prefect.exceptions import PrefectHTTPStatusError

    manual = client.read_deployment_by_name(MANUAL)
    config = json.loads(json.dumps(manual.parameters["config"]))
    for key, value in changes.items():
        *parents, leaf = key.split(".")
        group = config
        for parent in parents:
            group = group[parent]
        group[leaf] = value
    body = {"parameters": {**manual.parameters, "config": config, **parameters}}
    try:
        answer = client._client.post(f"/deployments/{manual.id}/create_flow_run", json=body)
    except PrefectHTTPStatusError as error:
        return error.response.status_code, error.response.text
    client.delete_flow_run(answer.json()["id"])
    return answer.status_code, answer.text


def test_the_form_takes_good_values(client: Any) -> None:
    assert submit(client, {"stock": "BRK.B", "training.grpo_1st.learning_rate": None, "seed": 3})[0] == 201
    assert submit(client, {}, heavy_stages="here", exchange="XNYS")[0] == 201


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stock", "MSFT"),
        ("stock", "../AAPL"),
        ("seed", -1),
        ("seed", 1.5),
        ("seed", "7"),
        ("warm_start", "champ"),
        ("features.horizon", 0),
        ("features.units", "sigmas"),
        ("training.backend", "jax"),
        ("training.lora_rank", 1000),
        ("training.tiny.hidden_size", 100),
        ("training.grpo_1st.learning_rate", 0),
        ("training.sampling.temperature", "hot"),
        ("evaluation.interval", 1),
        ("gate.max_p_value", None),
    ],
)
def test_the_form_refuses_a_bad_value_and_names_its_field(client: Any, key: str, value: object) -> None:
    status, text = submit(client, {key: value})
    assert status in (409, 422)
    assert f"config.{key}" in text


def test_the_form_refuses_what_the_flow_does_not_know(client: Any) -> None:
    for answer in (submit(client, {"training.lora_rnk": 4}), submit(client, {}, heavy_stage="here")):
        assert answer[0] in (409, 422)
        assert "lora_rnk" in answer[1] or "heavy_stage" in answer[1]
    assert submit(client, {}, heavy_stages="moon")[0] == 409
    assert submit(client, {}, exchange="nyse")[0] == 409


@pytest.mark.parametrize(
    ("instant", "works"),
    [("2026-11-26T23:30:00-05:00", False), ("2026-11-27T01:00:00+00:00", False), ("2026-11-27T23:30:00-05:00", True)],
)
def test_the_day_of_a_run_is_the_one_it_was_due_on_in_the_exchanges_time_zone(
    monkeypatch: pytest.MonkeyPatch, instant: str, works: bool
) -> None:
    from datetime import datetime

    from flows import schedule

    monkeypatch.setattr(schedule, "due", lambda: datetime.fromisoformat(instant))
    assert schedule.due_on_session("XNYS") is works


@pytest.mark.parametrize("name", [MANUAL, NIGHT, DAILY])
def test_a_run_due_on_thanksgiving_does_nothing_and_ends_completed(
    client: Any, working_folder: Path, name: str
) -> None:
    from datetime import datetime

    from prefect.flow_engine import run_flow
    from prefect.flows import load_flow_from_entrypoint
    from prefect.states import Pending, Scheduled

    deployed = client.read_deployment_by_name(name)
    due = datetime.fromisoformat("2026-11-26T23:30:00-05:00")
    run = client.create_flow_run_from_deployment(
        deployed.id, parameters={"exchange": "XNYS"}, state=Scheduled(scheduled_time=due)
    )
    # A worker does so when the time has come.
    client.set_flow_run_state(run.id, Pending(), force=True)
    run = client.read_flow_run(run.id)
    flow = load_flow_from_entrypoint(deployed.entrypoint)
    run_flow(flow, flow_run=run, parameters=flow.validate_parameters(run.parameters))
    assert client.read_flow_run(run.id).state.is_completed()
    assert not list(working_folder.iterdir())


def test_the_pool_of_all_tickers_may_have_a_night_of_its_own_and_is_no_ticker_of_the_night(
    tmp_path: Path, data: Path
) -> None:
    listed = read_tickers(written(tmp_path, "[tickers.AAPL]\n[tickers.ALL]\ncron = '0 18 * * 5'\n"))
    (night,) = (for_night(entry, listed) for entry in read_entries() if entry.entrypoint == NIGHTLY)
    assert night.parameters["tickers"] == ["AAPL"]
    (pool,) = (entry for entry in nightly_entries(listed) if entry.name == "nightly-ALL")
    config = with_overrides(PipelineConfig(), ["stock=AAPL", f"data={data}"])
    _, parameters = prepare(pool, config=config, stocks=["AAPL", "BRK.B"])
    assert (parameters["config"]["stock"], parameters["config"]["warm_start"]) == ("ALL", "champion")
    assert pool.schedules[0].active
    with pytest.raises(ConfigError, match="give --data FOLDER"):
        prepare(pool, config=DEMO, stocks=["DEMO"])
