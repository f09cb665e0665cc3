"""The next sessions of one stock, from its latest prices and a trained adapter."""

from datetime import date
from pathlib import Path

from prefect import flow

from features.config import FrozenModel
from flows.config import PipelineConfig
from flows.steps import market_source, training_here
from tasks.adapters import adapter_folder, read_card
from tasks.forecasting import INTERVAL, forecast_next
from tasks.market_data import fetch_bars
from tasks.paths import Workspace
from tasks.preprocess import read_bars
from tasks.progress import progress_reporter
from tasks.registry import CHAMPION, fetch_registered
from tasks.store import Store
from tasks.tracking import connect
from tasks.train import base_model_for
from training.backends import select
from training.errors import AdapterError


class Session(FrozenModel):
    """The forecast of one session: median and bounds of the band, USD."""

    date: date
    median: float
    lower: float
    upper: float


class Forecast(FrozenModel):
    """The coming sessions of one stock.

    `origin` is the last session known, `last_close` its adjusted close in USD, `interval` the share of outcomes the
    band should hold.
    """

    ticker: str
    origin: date
    last_close: float
    adapter: str
    interval: float
    sessions: tuple[Session, ...]


@flow(name="forecast", flow_run_name="{config.stock}", persist_result=False)
def forecast(config: PipelineConfig, adapter: Path | None = None, alias: str = CHAMPION) -> Forecast:
    """Forecast the next sessions of a stock.

    Args:
        config: Stock, data and backend; everything else comes from the adapter.
        adapter: Folder of an adapter; without it the registered one is used.
        alias: Which registered adapter: an alias or a version number.
    """
    return forecast_stock(config, adapter=adapter, alias=alias)


def forecast_stock(config: PipelineConfig, *, adapter: Path | None, alias: str = CHAMPION) -> Forecast:
    """What the flow `forecast` does, without a flow run; arguments as there.

    Raises:
        AdapterError: If the folder is no adapter or belongs to another stock.
        NotRegistered: If nothing is registered under the alias; says what is.
        FeaturesError: If the prices are faulty or too few.
    """
    workspace = Workspace.current()
    store = Store(workspace.store)
    folder = adapter_folder(adapter)
    bars = read_bars(fetch_bars.fn(market_source(config), config.stock, store=store))
    if folder is None:
        folder = fetch_registered(connect(workspace), f"{config.stock}@{alias}", cache=workspace.pulled)
    card = read_card(folder)
    if card.ticker != config.stock:
        raise AdapterError(f"the adapter {folder} was trained for {card.ticker}: add --stock {card.ticker}")
    training = training_here(card.training, config=config.training)
    select(training.backend, model=training.model)
    with progress_reporter() as report:
        table = forecast_next(
            bars,
            ticker=config.stock,
            base_model=base_model_for(card, folder, store=store),
            adapter=folder,
            features=card.features,
            training=training,
            seed=card.seed,
            on_progress=report,
        )
    last = bars.iloc[-1]
    return Forecast(
        ticker=config.stock,
        origin=last["date"].date(),
        last_close=float(last["adj_close"]),
        adapter=str(folder) if adapter else f"{config.stock}@{alias}",
        interval=INTERVAL,
        sessions=tuple(
            Session(date=day.date(), median=median, lower=lower, upper=upper)
            for day, median, lower, upper in zip(
                table["date"], table["median"], table["lower"], table["upper"], strict=True
            )
        ),
    )
