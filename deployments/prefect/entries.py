"""The deployments in `prefect.yaml` and `recipes/tickers.toml`; an unknown key in these files is an error."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError, field_validator

from tickerforge.features.config import FrozenModel
from tickerforge.features.pooling import POOL
from tickerforge.features.prices.tickers import prefect_name, spelled
from tickerforge.flows.errors import ConfigError
from tickerforge.flows.remote.gpu_pool import CPU_POOL, GPU_POOL, PoolName
from tickerforge.tasks.prices.sessions import exchange_timezone

PREFECT_FILE = Path(__file__).parents[1] / "prefect.yaml"
TICKERS_FILE = Path(__file__).parents[1] / "recipes" / "tickers.toml"
TRAIN_TICKER = "tickerforge.flows.train.pipeline.train_ticker"
NIGHTLY = "tickerforge.flows.night.nightly.nightly"
FORECAST = "tickerforge.flows.night.forecast.forecast"
FORMS = (TRAIN_TICKER, NIGHTLY, FORECAST)
"""Flows whose parameters a person sets in a short form."""
FORMER = {
    "train-ticker/1-train-one-stock": "train-ticker/manual",
    "nightly/2-retrain-all-stocks": "nightly/all",
    "forecast/3-forecast-all-stocks": "forecast/daily",
    "heavy-stage/internal": "heavy-stage/gpu",
    "train-batch/internal": "train-batch/gpu",
    "forecast-batch/internal": "forecast-batch/gpu",
    "stage/one-stage": "stage/gpu",
}
"""The names that deployments had in earlier versions."""
NIGHTLY_PREFIX, NIGHTLY_TAGS = "nightly-", ("tickerforge", "nightly")
OWN_SLUG = "tickerforge-"
NIGHT_SLUG = f"{OWN_SLUG}night"


def _readable(cron: str) -> str:
    from prefect.client.schemas.schedules import CronSchedule

    return CronSchedule(cron=cron).cron


Cron = Annotated[str, AfterValidator(_readable)]


class Schedule(FrozenModel):
    """When a deployment runs by itself; its slug distinguishes it from schedules that a user added in the UI."""

    slug: str = Field(pattern=f"^{OWN_SLUG}")
    cron: Cron
    timezone: str
    active: bool = True

    @field_validator("timezone")
    @classmethod
    def _timezone_exists(cls, timezone: str) -> str:
        from prefect.client.schemas.schedules import CronSchedule

        CronSchedule(cron="0 0 * * *", timezone=timezone)
        return timezone


class WorkPool(FrozenModel):
    """Where a deployment runs."""

    name: PoolName
    job_variables: dict[str, Any] = Field(default={})


class ConcurrencyLimit(FrozenModel):
    """Most runs of a deployment at a time, and what happens to one more."""

    limit: int = Field(ge=1)
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"] = "ENQUEUE"


class DeploymentEntry(FrozenModel):
    """One deployment, as the files describe it."""

    name: str
    entrypoint: str
    description: str
    tags: tuple[str, ...] = ()
    parameters: dict[str, Any] = Field(default={})
    schedules: tuple[Schedule, ...] = ()
    concurrency_limit: ConcurrencyLimit | None = None
    work_pool: WorkPool


class PrefectFile(FrozenModel):
    """The parts of Prefect's project file that TickerForge uses."""

    name: str
    prefect_version: str = Field(alias="prefect-version")
    pull: tuple[dict[str, Any], ...] = ()
    deployments: tuple[DeploymentEntry, ...]


class Ticker(FrozenModel):
    """A ticker with its own deployment; a missing value defaults to the one at the top of the file."""

    exchange: str | None = None
    cron: Cron | None = None


class TickersFile(FrozenModel):
    """The file `tickers.toml`."""

    exchange: str = "XNYS"
    cron: Cron = "30 23 * * 1-5"
    tickers: dict[str, Ticker] = Field(default={})

    @field_validator("tickers")
    @classmethod
    def _names_are_tickers(cls, tickers: dict[str, Ticker]) -> dict[str, Ticker]:
        return {spelled(name): ticker for name, ticker in tickers.items()}


def read_entries(path: Path = PREFECT_FILE) -> tuple[DeploymentEntry, ...]:
    """Read the deployments of a project file.

    Raises:
        ConfigError: If the file cannot be read, or holds an unknown key, an unknown pool or an invalid cron.
    """
    try:
        return PrefectFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))).deployments
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {_problems(error)}") from error


def read_tickers(path: Path = TICKERS_FILE) -> TickersFile:
    """Read the tickers with their own deployments.

    Raises:
        ConfigError: If the file cannot be read, or holds an unknown key or a name that is not a ticker.
    """
    try:
        return TickersFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {_problems(error)}") from error


def for_night(entry: DeploymentEntry, tickers: TickersFile) -> DeploymentEntry:
    """Give the entry of the night the tickers, exchange and hour of the tickers' file; return others unchanged.

    The daily forecast gets the exchange and its time zone, and keeps its hour.

    Raises:
        MarketDataError: If the exchange is unknown.
    """
    if entry.entrypoint == FORECAST:
        zone = exchange_timezone(tickers.exchange)
        schedules = tuple(each.model_copy(update={"timezone": zone}) for each in entry.schedules)
        parameters = entry.parameters | {"exchange": tickers.exchange}
        return entry.model_copy(update={"parameters": parameters, "schedules": schedules})
    if entry.entrypoint != NIGHTLY:
        return entry
    own = {"tickers": [name for name in tickers.tickers if name != POOL], "exchange": tickers.exchange}
    schedule = Schedule(slug=NIGHT_SLUG, cron=tickers.cron, timezone=exchange_timezone(tickers.exchange))
    return entry.model_copy(update={"parameters": entry.parameters | own, "schedules": (schedule,)})


def nightly_entries(tickers: TickersFile) -> tuple[DeploymentEntry, ...]:
    """Make one deployment `nightly-{TICKER}` per ticker.

    Raises:
        MarketDataError: If an exchange is unknown.
    """
    entries = []
    for name, ticker in tickers.tickers.items():
        exchange = ticker.exchange or tickers.exchange
        schedule = Schedule(
            slug=NIGHT_SLUG,
            cron=ticker.cron or tickers.cron,
            timezone=exchange_timezone(exchange),
            active=ticker.cron is not None,
        )
        entries.append(
            DeploymentEntry(
                name=f"{NIGHTLY_PREFIX}{prefect_name(name)}",
                entrypoint=TRAIN_TICKER,
                description=f"Retrain {name} at night, on days with a session at {exchange}.",
                tags=NIGHTLY_TAGS,
                parameters={
                    "heavy_stages": GPU_POOL,
                    "exchange": exchange,
                    "stock": name,
                    "warm_start": "champion",
                },
                schedules=(schedule,),
                work_pool=WorkPool(name=CPU_POOL),
            )
        )
    return tuple(entries)


def _problems(error: ValidationError) -> str:
    """Join the faults in one line: `deployments.0.work_pol: Extra inputs are not permitted; ...`."""
    return "; ".join(
        f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors(include_url=False)
    )
