"""The flows that train and forecast batches of tickers on workers of `gpu-pool`."""

import logging
from collections.abc import Sequence

from prefect import flow
from prefect.runtime import flow_run

from tickerforge.features.config import FrozenModel
from tickerforge.flows.night.next_sessions import StockForecast, forecast_registered
from tickerforge.flows.remote.gpu_pool import ANSWERS
from tickerforge.flows.remote.here import Here, Recording
from tickerforge.flows.remote.requests import StageOutput
from tickerforge.flows.server.begin import begin
from tickerforge.flows.server.outcome import in_words
from tickerforge.flows.server.slots import gpu_slot
from tickerforge.flows.settings.config import PipelineConfig, use_devices
from tickerforge.flows.train.steps import Steps, adapters_of
from tickerforge.tasks.registry.versions import RegisteredAdapter
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.store.records import write_record

logger = logging.getLogger(__name__)


class TickerJob(FrozenModel):
    """The heavy stages of one ticker: training starts from `start` and is compared with `champion`."""

    config: PipelineConfig
    windows: ArtifactRef
    start: RegisteredAdapter | None = None
    champion: RegisteredAdapter | None = None


class TickerStages(FrozenModel):
    """The results of the heavy stages of one ticker by the names of their requests, and the error if one failed."""

    stock: str
    results: dict[str, StageOutput]
    error: str = ""


class BatchAnswer(FrozenModel):
    """One entry per ticker, in the order of the jobs."""

    tickers: tuple[TickerStages, ...]


class ForecastJob(FrozenModel):
    """One ticker to forecast, from these bars."""

    config: PipelineConfig
    bars: ArtifactRef


class ForecastAnswer(FrozenModel):
    """One entry per ticker, in the order of the jobs."""

    stocks: tuple[StockForecast, ...]


@flow(
    name="train-batch",
    flow_run_name="{jobs[0].config.stock} and others",
    persist_result=False,
    on_running=[begin],
)
def train_batch(jobs: list[TickerJob]) -> None:
    """Run the heavy stages of several tickers in one warm process; if one fails, the others continue.

    Args:
        jobs: One per ticker, as `nightly` sends them.
    """
    use_devices(jobs[0].config)
    # Held once for all tickers: to request it per ticker takes longer than an unchanged ticker.
    with gpu_slot():
        tickers = tuple(_run_ticker(job) for job in jobs)
    write_record(ANSWERS, str(flow_run.id), BatchAnswer(tickers=tickers))


@flow(
    name="forecast-batch",
    flow_run_name="{jobs[0].config.stock} and others",
    persist_result=False,
    on_running=[begin],
)
def forecast_batch(jobs: list[ForecastJob]) -> None:
    """Forecast several tickers in one warm process; if one fails, the others continue.

    Args:
        jobs: One per ticker, as `forecast` and `nightly` send them.
    """
    use_devices(jobs[0].config)
    write_record(ANSWERS, str(flow_run.id), ForecastAnswer(stocks=forecast_all(jobs)))


def forecast_all(jobs: Sequence[ForecastJob]) -> tuple[StockForecast, ...]:
    """Forecast each ticker with its champion, or else for free; an error becomes a note."""
    with gpu_slot():
        return tuple(forecast_registered(job.config, bars=job.bars) for job in jobs)


def _run_ticker(job: TickerJob) -> TickerStages:
    """Run the heavy stages of one ticker, without its slot: the run that holds it may wait for this very worker."""
    stock, results = job.config.stock, dict[str, StageOutput]()
    store = Store.current()
    steps = Steps(job.config, store, Recording(Here(store), results))
    try:
        base_model = steps.base_model()
        stages = steps.trained(job.windows, base_model, start=job.start)
        adapters = adapters_of(stages)
        steps.forecasts_of_all(job.windows, base_model, adapters, start=job.start)
        if job.champion is not None:
            steps.champion_forecasts(job.windows, job.champion)
    except Exception as error:
        logger.exception("%s failed", stock)
        return TickerStages(stock=stock, results=results, error=in_words(error))
    return TickerStages(stock=stock, results=results)
