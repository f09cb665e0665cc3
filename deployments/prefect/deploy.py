"""Work pools, limits, the heartbeat automation and all deployments, made on the server at `PREFECT_API_URL`."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tickerforge.deployments.prefect.entries import (
    FORMER,
    FORMS,
    NIGHTLY_PREFIX,
    NIGHTLY_TAGS,
    OWN_SLUG,
    TICKERS_FILE,
    TRAIN_TICKER,
    DeploymentEntry,
    TickersFile,
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
from tickerforge.flows.settings.form import (
    DEFAULT_RECIPE,
    HIDDEN,
    LABELS,
    config_of_form,
    overrides_of,
    recipe_like,
    recipes,
)
from tickerforge.tasks.prices.folders import list_tickers

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.objects import DeploymentSchedule

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 30
# Longer than a restart of the server or its database, during which a run is alive and silent.
LONGEST_SILENCE_SECONDS = 180
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
    """Create or update everything on the Prefect server; a second call changes nothing.

    Schedules that a user switched on or off in the UI stay so, and so do paused deployments.

    Args:
        working_dir: Folder in which workers run and write `results/` and `models/`; a temporary one by default.
        data: Folder with one `{STOCK}.csv` per ticker; only the synthetic market by default.
        recipe: TOML file with the settings that all deployments start from.
        tickers: TOML file of tickers with their own deployments; by default the packaged one, or none if there is a
            data folder.
        gpus: Most heavy stages at a time.
        pool_type: Type of new work pools: `process`, `kubernetes`, ...

    Returns:
        Names of the deployments, such as `train-ticker/1-train-one-stock`.

    Raises:
        ConfigError: If a file is faulty or parameters do not fit their flow.
    """
    from prefect.client.orchestration import get_client

    config = build_config(recipe=recipe, flags={"data": data.resolve() if data else None})
    stocks = list_tickers(data) if data else [config.synthetic.ticker]
    listed = TickersFile() if data and tickers is None else read_tickers(tickers or TICKERS_FILE)
    nights = [for_night(entry, listed) for entry in read_entries()]
    entries = (*nights, *nightly_entries(listed))
    prepared = [(entry, *resolve_entry(entry, config=config, stocks=stocks)) for entry in entries]
    with get_client(sync_client=True) as client:
        # First, before our own changes make events.
        _make_automation(client)
        for name in (CPU_POOL, GPU_POOL):
            _make_pool(client, name, pool_type=pool_type, working_dir=working_dir)
        client.upsert_global_concurrency_limit_by_name(GPU_LIMIT, gpus)
        _remove_unlisted(client, {entry.name for entry in entries})
        names = [_apply(client, entry, flow, parameters, stocks=stocks) for entry, flow, parameters in prepared]
        _remove_former(client)
        return names


def _remove_former(client: "SyncPrefectClient") -> None:
    """Delete the deployments that have other names now; their runs and models stay."""
    from prefect.exceptions import ObjectNotFound

    for name, former in FORMER.items():
        try:
            found = client.read_deployment_by_name(former)
        except ObjectNotFound:
            continue
        if "tickerforge" in found.tags:
            logger.info("the deployment %s is now %s", former, name)
            client.delete_deployment(found.id)


def _remove_unlisted(client: "SyncPrefectClient", names: set[str]) -> None:
    """Delete the nightly deployments of tickers that are no longer listed; their runs and models stay."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=list(NIGHTLY_TAGS)))
    for deployment in client.read_deployments(deployment_filter=ours):
        if deployment.name.startswith(NIGHTLY_PREFIX) and deployment.name not in names:
            logger.info("removing the deployment %s: its ticker is no longer listed", deployment.name)
            client.delete_deployment(deployment.id)


def resolve_entry(
    entry: DeploymentEntry, *, config: PipelineConfig, stocks: list[str]
) -> "tuple[Flow[Any, Any], dict[str, Any]]":
    """Load the flow of an entry, and complete its parameters with the configuration that all deployments share.

    Raises:
        ConfigError: If the entry point does not load, the parameters do not fit, or the stock has no prices.
    """
    from prefect.flows import load_flow_from_entrypoint

    try:
        flow: Flow[Any, Any] = load_flow_from_entrypoint(entry.entrypoint, use_placeholder_flow=False)
    except Exception as error:
        raise ConfigError(f"{entry.name}: the entry point {entry.entrypoint} does not load: {error}") from error
    parameters = dict(entry.parameters)
    if unknown := set(parameters) - set(flow.parameters.properties):
        raise ConfigError(f"{flow.name}/{entry.name}: the flow has no parameter {', '.join(sorted(unknown))}")
    if entry.entrypoint in FORMS:
        parameters = _form_parameters(entry, parameters, flow, config=config, stocks=stocks)
    elif "config" in parameters:
        own = dict(parameters["config"])
        if not entry.name.startswith(NIGHTLY_PREFIX) and own.get("stock") not in stocks:
            own["stock"] = config.stock if config.stock in stocks else stocks[0]
        full = with_overrides(config, [f"{key}={value}" for key, value in own.items()])
        check_source(full)
        if full.stock not in (*stocks, POOL):
            raise ConfigError(f"{flow.name}/{entry.name}: the data folder has no prices for {full.stock}")
        parameters["config"] = full.model_dump(mode="json")
        _check_parameters(flow, entry, parameters)
    return flow, parameters


def _form_parameters(
    entry: DeploymentEntry,
    parameters: dict[str, Any],
    flow: "Flow[Any, Any]",
    *,
    config: PipelineConfig,
    stocks: list[str],
) -> dict[str, Any]:
    """Complete the fields of a form with the configuration that all deployments share, and check them."""
    takes = flow.parameters.properties
    model = "" if config.training.model == PipelineConfig().training.model else config.training.model
    fields = {"data": str(config.data) if config.data else "", "model": model, "update": config.update}
    full = {name: value for name, value in fields.items() if name in takes} | parameters
    if "stock" in takes and not entry.name.startswith(NIGHTLY_PREFIX) and full.get("stock") not in stocks:
        full["stock"] = config.stock if config.stock in stocks else stocks[0]
    own = {"stock", "data", "update", "warm_start", *(["training.model"] if "model" in takes else [])}
    full["recipe"] = full.get("recipe") or recipe_like(config, without=own)
    shared = overrides_of(config, without=own) if full["recipe"] == DEFAULT_RECIPE else ""
    full["overrides"] = "\n".join(filter(None, (shared, full.get("overrides", ""))))
    _check_parameters(flow, entry, full)
    given = {name: value for name, value in full.items() if name not in (*HIDDEN, "tickers", "retrain")}
    try:
        found = config_of_form(**given)
    except ConfigError as error:
        raise ConfigError(f"{flow.name}/{entry.name}: {error}") from error
    if "stock" in takes:
        check_source(found)
        if found.stock not in (*stocks, POOL):
            raise ConfigError(f"{flow.name}/{entry.name}: the data folder has no prices for {found.stock}")
    return full


def _check_parameters(flow: "Flow[Any, Any]", entry: DeploymentEntry, parameters: dict[str, Any]) -> None:
    try:
        flow.validate_parameters(parameters)
    except Exception as error:
        raise ConfigError(f"{flow.name}/{entry.name}: the parameters do not fit the flow: {error}") from error


def _apply(
    client: "SyncPrefectClient",
    entry: DeploymentEntry,
    flow: "Flow[Any, Any]",
    parameters: Mapping[str, Any],
    *,
    stocks: list[str],
) -> str:
    """Create or update one deployment, and keep what the user switched in the UI."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.deployments.runner import RunnerDeployment

    name = f"{flow.name}/{entry.name}"
    paused, existing = _switches(client, name, FORMER.get(name, name))
    limit = entry.concurrency_limit
    deployment = RunnerDeployment.from_entrypoint(
        entry.entrypoint,
        entry.name,
        parameters=dict(parameters),
        description=entry.description,
        tags=list(entry.tags),
        work_pool_name=entry.work_pool.name,
        # With Prefect's default of three minutes the automation would mark healthy runs as crashed.
        job_variables={"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS)}}
        | entry.work_pool.job_variables,
        paused=paused,
        concurrency_limit=ConcurrencyLimitConfig(**limit.model_dump()) if limit else None,
        schedules=_schedules(entry, existing),
    )
    # Entries without parameters are started by other flows, possibly for a stock that is newer than the deployment.
    offered = _offered(entry, parameters, stocks=stocks) if parameters else None
    _narrow_form(deployment, offered, hidden=HIDDEN if entry.entrypoint in FORMS else ())
    deployment.apply()
    return name


def _schedules(entry: DeploymentEntry, existing: "Sequence[DeploymentSchedule]") -> "list[DeploymentScheduleCreate]":
    """Join the entry's schedules, switched on or off as on the server, with those that a user added there."""
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


def _offered(entry: DeploymentEntry, parameters: Mapping[str, Any], *, stocks: list[str]) -> list[str]:
    """List the stocks that a form offers, with the pool of all if the entry trains on a data folder."""
    pooled = entry.entrypoint == TRAIN_TICKER and parameters["data"] and POOL not in stocks
    return [*stocks, POOL] if pooled else stocks


def _narrow_form(deployment: Any, stocks: list[str] | None, *, hidden: Sequence[str]) -> None:
    """Restrict the form to these stocks, if there are any, and to parameters that the flow has.

    The UI shows a field per property. Hidden parameters are accepted by their patterns.
    """
    from prefect.utilities.callables import ParameterSchema

    class ClosedSchema(ParameterSchema):
        additionalProperties: bool
        patternProperties: dict[str, Any]

    schema = deployment._parameter_openapi_schema.model_dump()
    fields = schema["properties"]
    apart = {f"^{name}$": fields.pop(name) for name in hidden if name in fields}
    if stocks is not None:
        place = fields if "stock" in fields else schema["definitions"].get("PipelineConfig", {}).get("properties", {})
        if "stock" in fields or not hidden:
            place["stock"]["enum"] = stocks
    if hidden:
        fields["recipe"]["enum"] = list(recipes())
        for name, field in fields.items():
            field["title"] = LABELS[name]
            field.pop("description", None)
    deployment._parameter_openapi_schema = ClosedSchema(**schema, additionalProperties=False, patternProperties=apart)


def _switches(client: "SyncPrefectClient", *names: str) -> "tuple[bool, list[DeploymentSchedule]]":
    """Return whether the first deployment that exists is paused, and its schedules; none if none exists yet."""
    from prefect.exceptions import ObjectNotFound

    for name in names:
        try:
            existing = client.read_deployment_by_name(name)
        except ObjectNotFound:
            continue
        return existing.paused, existing.schedules
    return False, []


def _make_pool(client: "SyncPrefectClient", name: str, *, pool_type: str, working_dir: Path | None) -> None:
    """Create a work pool if it is missing; renew the template of one for processes, and set the folder of its runs.

    Default values that a user chose in the template stay.
    """
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        pool = client.create_work_pool(WorkPoolCreate(name=name, type=pool_type))
    if pool.type != "process":
        return
    template = ProcessWorker.get_default_base_job_template()
    settings = template["variables"]["properties"]
    # A run may set its parameters, but not the command that executes it. Older pools allow it.
    settings.pop("command", None)
    template["job_configuration"].pop("command", None)
    former = pool.base_job_template.get("variables", {}).get("properties", {})
    for setting, chosen in former.items():
        if setting in settings and "default" in chosen:
            settings[setting]["default"] = chosen["default"]
    if working_dir is not None:
        settings["working_dir"]["default"] = str(working_dir.resolve())
        # A run that writes to its worker's output dies of a broken pipe when the worker ends. Its lines are in Prefect
        # and in `pipeline.log`.
        settings["stream_output"]["default"] = False
    client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))


def _make_automation(client: "SyncPrefectClient") -> None:
    """Mark a run whose worker died as crashed after a time without heartbeats, which frees what it held.

    An automation that is correct already is not updated. In Prefect 3.7 on SQLite, the server can deadlock if an
    automation changes while it reads an event: its loop then waits forever for a lock that it holds itself.
    """
    from datetime import timedelta

    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    beat = "prefect.flow-run.heartbeat"
    automation = AutomationCore(
        name=AUTOMATION,
        description=f"Marks a flow run as crashed {LONGEST_SILENCE_SECONDS} s after its last heartbeat.",
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            after={beat},
            expect={beat, *(f"prefect.flow-run.{state}" for state in _OVER)},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=LONGEST_SILENCE_SECONDS),
        ),
        actions=[
            ChangeFlowRunState(
                name=None, state=StateType.CRASHED, message="no heartbeat: its worker or machine is gone", force=False
            )
        ],
    )
    existing = client.read_automations_by_name(AUTOMATION)
    if not existing:
        client.create_automation(automation)
    elif AutomationCore.model_validate(existing[0].model_dump()) != automation:
        client.update_automation(existing[0].id, automation)
