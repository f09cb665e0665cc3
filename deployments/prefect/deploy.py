"""Puts work pools, limits, the heartbeat automation and all deployments on the Prefect server at `PREFECT_API_URL`."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tickerforge.deployments.prefect.entries import (
    NIGHTLY_PREFIX,
    NIGHTLY_TAGS,
    OWN_SLUG,
    TICKERS_FILE,
    TRAIN_TICKER,
    Entry,
    Tickers,
    for_night,
    nightly_entries,
    read_entries,
    read_tickers,
)
from tickerforge.features.pooling import POOL
from tickerforge.flows.errors import ConfigError
from tickerforge.flows.remote.gpu_pool import CPU_POOL, GPU_POOL
from tickerforge.flows.server.slots import GPU_LIMIT
from tickerforge.flows.settings.config import PipelineConfig, build_config, check_source, with_overrides
from tickerforge.tasks.prices.market_data import list_tickers

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.objects import DeploymentSchedule

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 30
# Long enough for a server or a database that is away for a minute or two: the run itself is well then.
SILENCE_SECONDS = 180
AUTOMATION = "tickerforge: a run without a heartbeat has crashed"
_OVER = ("Completed", "Failed", "Cancelled", "Crashed")


def deploy(
    *,
    working_dir: Path | None = None,
    data: Path | None = None,
    recipe: Path | None = None,
    tickers: Path | None = None,
    gpus: int = 1,
    pool_type: str = "process",
) -> list[str]:
    """Make or renew everything that the Prefect server must know; a second call changes nothing.

    A schedule that was switched on or off in the UI, and a deployment that was paused there, stay so.

    Args:
        working_dir: Folder that workers run in, where `results/` and `models/` appear; without it a temporary one.
        data: Folder with one `{STOCK}.csv` a ticker; without it there is the synthetic market only.
        recipe: TOML file with the settings that all deployments start from.
        tickers: TOML file of tickers with a deployment of their own; without it the one that comes along, or, where
            there is a data folder, none.
        gpus: How many heavy stages may run at a time.
        pool_type: Type of the work pools where they are made anew: `process`, `kubernetes`, ...

    Returns:
        Names of the deployments, such as `train-ticker/manual`.

    Raises:
        ConfigError: If a file is faulty or parameters do not fit their flow.
    """
    from prefect.client.orchestration import get_client

    config = build_config(recipe=recipe, flags={"data": data.resolve() if data else None})
    stocks = list_tickers(data) if data else [config.synthetic.ticker]
    listed = Tickers() if data and tickers is None else read_tickers(tickers or TICKERS_FILE)
    nights = [for_night(entry, listed) for entry in read_entries()]
    entries = (*nights, *nightly_entries(listed))
    prepared = [(entry, *prepare(entry, config=config, stocks=stocks)) for entry in entries]
    with get_client(sync_client=True) as client:
        for name in (CPU_POOL, GPU_POOL):
            _make_pool(client, name, pool_type=pool_type, working_dir=working_dir)
        client.upsert_global_concurrency_limit_by_name(GPU_LIMIT, gpus)
        _make_automation(client)
        _remove_unlisted(client, {entry.name for entry in entries})
        return [_apply(client, entry, flow, parameters, stocks=stocks) for entry, flow, parameters in prepared]


def _remove_unlisted(client: "SyncPrefectClient", names: set[str]) -> None:
    """Delete the nights of single tickers that are not listed any more; their runs and models stay."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=list(NIGHTLY_TAGS)))
    for deployment in client.read_deployments(deployment_filter=ours):
        if deployment.name.startswith(NIGHTLY_PREFIX) and deployment.name not in names:
            logger.info("%s is not listed any more: its deployment is removed", deployment.name)
            client.delete_deployment(deployment.id)


def prepare(entry: Entry, *, config: PipelineConfig, stocks: list[str]) -> "tuple[Flow[Any, Any], dict[str, Any]]":
    """The flow of an entry and its parameters, with the configuration that all deployments start from below its own.

    Raises:
        ConfigError: If the entry point does not load, the parameters do not fit, or the stock has no prices.
    """
    from prefect.flows import load_flow_from_entrypoint

    try:
        flow: Flow[Any, Any] = load_flow_from_entrypoint(entry.entrypoint, use_placeholder_flow=False)
    except Exception as error:
        raise ConfigError(f"{entry.name}: the entry point {entry.entrypoint} does not load: {error}") from error
    parameters = dict(entry.parameters)
    if "config" in parameters:
        own = dict(parameters["config"])
        if not entry.name.startswith(NIGHTLY_PREFIX) and own.get("stock") not in stocks:
            own["stock"] = config.stock if config.stock in stocks else stocks[0]
        full = with_overrides(config, [f"{key}={value}" for key, value in own.items()])
        check_source(full)
        if full.stock not in (*stocks, POOL):
            raise ConfigError(f"{flow.name}/{entry.name}: the data folder holds no prices for {full.stock}")
        parameters["config"] = full.model_dump(mode="json")
        try:
            flow.validate_parameters(parameters)
        except Exception as error:
            raise ConfigError(f"{flow.name}/{entry.name}: the parameters do not fit the flow: {error}") from error
    elif unknown := set(parameters) - set(flow.parameters.properties):
        raise ConfigError(f"{flow.name}/{entry.name}: the flow has no parameter {', '.join(sorted(unknown))}")
    return flow, parameters


def _apply(
    client: "SyncPrefectClient",
    entry: Entry,
    flow: "Flow[Any, Any]",
    parameters: Mapping[str, Any],
    *,
    stocks: list[str],
) -> str:
    """Make or renew one deployment, and keep what the user switched in the UI."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.deployments.runner import RunnerDeployment

    name = f"{flow.name}/{entry.name}"
    paused, existing = _choices(client, name)
    limit = entry.concurrency_limit
    deployment = RunnerDeployment.from_entrypoint(
        entry.entrypoint,
        entry.name,
        parameters=dict(parameters),
        description=entry.description,
        tags=list(entry.tags),
        work_pool_name=entry.work_pool.name,
        # Prefect's own beat of three minutes would make the automation take healthy runs for crashed ones.
        job_variables={"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS)}}
        | entry.work_pool.job_variables,
        paused=paused,
        concurrency_limit=ConcurrencyLimitConfig(**limit.model_dump()) if limit else None,
        schedules=_schedules(entry, existing),
    )
    # Flows without parameters here are called by other flows, also for a stock that is newer than the deployment.
    _narrow_form(deployment, _offered(entry, parameters, stocks=stocks) if parameters else None)
    deployment.apply()
    return name


def _schedules(entry: Entry, existing: "Sequence[DeploymentSchedule]") -> "list[DeploymentScheduleCreate]":
    """The entry's own schedules, switched on or off as they are on the server, and those that a user added there."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    switched = {schedule.slug: schedule.active for schedule in existing}
    added = [schedule for schedule in existing if not (schedule.slug or "").startswith(OWN_SLUG)]
    return [
        DeploymentScheduleCreate(
            schedule=CronSchedule(cron=schedule.cron, timezone=schedule.timezone),
            active=switched.get(schedule.slug, schedule.active),
            slug=schedule.slug,
        )
        for schedule in entry.schedules
    ] + [
        DeploymentScheduleCreate(**schedule.model_dump(include={"schedule", "active", "slug", "parameters"}))
        for schedule in added
    ]


def _offered(entry: Entry, parameters: Mapping[str, Any], *, stocks: list[str]) -> list[str]:
    """The stocks that a form offers, and, where a data folder can be trained on as a whole, the pool of them."""
    pooled = entry.entrypoint == TRAIN_TICKER and parameters["config"]["data"] is not None and POOL not in stocks
    return [*stocks, POOL] if pooled else stocks


def _narrow_form(deployment: Any, stocks: list[str] | None) -> None:
    """Let the form offer these stocks alone, where they are given, and refuse any parameter that the flow lacks."""
    from prefect.utilities.callables import ParameterSchema

    class ClosedSchema(ParameterSchema):
        additionalProperties: bool

    schema = deployment._parameter_openapi_schema
    if stocks is not None:
        schema.definitions["PipelineConfig"]["properties"]["stock"]["enum"] = stocks
    deployment._parameter_openapi_schema = ClosedSchema(**schema.model_dump(), additionalProperties=False)


def _choices(client: "SyncPrefectClient", name: str) -> "tuple[bool, list[DeploymentSchedule]]":
    """Whether a deployment is paused, and the schedules it has; none where it is not there yet."""
    from prefect.exceptions import ObjectNotFound

    try:
        existing = client.read_deployment_by_name(name)
    except ObjectNotFound:
        return False, []
    return existing.paused, existing.schedules


def _make_pool(client: "SyncPrefectClient", name: str, *, pool_type: str, working_dir: Path | None) -> None:
    """Make a work pool, or tell the one that is there the folder to run in."""
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template() if pool_type == "process" else {}
        pool = client.create_work_pool(WorkPoolCreate(name=name, type=pool_type, base_job_template=template))
    if working_dir is not None and pool.type == "process":
        template = pool.base_job_template
        settings = template["variables"]["properties"]
        settings["working_dir"]["default"] = str(working_dir.resolve())
        # A run that writes to its worker ends with it, of a broken pipe; Prefect and `pipeline.log` have its lines.
        settings["stream_output"]["default"] = False
        client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))


def _make_automation(client: "SyncPrefectClient") -> None:
    """Free what a run holds whose worker died: after some seconds without a heartbeat it counts as crashed."""
    from datetime import timedelta

    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    beat = "prefect.flow-run.heartbeat"
    automation = AutomationCore(
        name=AUTOMATION,
        description=f"A flow run that was heard of and then silent for {SILENCE_SECONDS} s is marked as crashed.",
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            after={beat},
            expect={beat, *(f"prefect.flow-run.{state}" for state in _OVER)},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENCE_SECONDS),
        ),
        actions=[
            ChangeFlowRunState(
                name=None, state=StateType.CRASHED, message="no heartbeat: its worker or machine is gone", force=False
            )
        ],
    )
    existing = client.read_automations_by_name(AUTOMATION)
    if existing:
        client.update_automation(existing[0].id, automation)
    else:
        client.create_automation(automation)
