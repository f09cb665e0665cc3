"""The flow `benchmark-stocknet`: the published protocol for baselines, forecasts from a file, and our own stages."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from prefect import flow
from pydantic import Field

from tickerforge.evaluation.baselines.rivals import GARCH, classical, common_drift, persistence, ridge, walks
from tickerforge.evaluation.bench.predictions import sampled_entry
from tickerforge.evaluation.bench.standings import ProtocolForecast, Standings, standings_of, whole_of
from tickerforge.evaluation.comparison.recalibrate import recalibrated_frame
from tickerforge.evaluation.core.contracts import BASE, PERSISTENCE, Floats
from tickerforge.evaluation.core.errors import EvaluationError
from tickerforge.evaluation.core.protocol import HORIZON, Protocol, protocol_of, series_of
from tickerforge.evaluation.core.recalibration import Recalibration
from tickerforge.features.config import FeatureConfig, FrozenModel
from tickerforge.features.errors import FeaturesError
from tickerforge.features.pooling import POOL
from tickerforge.features.prices.bars import read_csv
from tickerforge.features.stages import LAST_STAGE, AdapterStage
from tickerforge.features.tables import read_frame
from tickerforge.flows.errors import ConfigError
from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.flows.train.steps import Steps, adapters_of
from tickerforge.tasks.base.paths import FORECASTS_FILE
from tickerforge.tasks.outputs.benchmark import only_test
from tickerforge.tasks.outputs.evaluate import read_report, read_verdict
from tickerforge.tasks.prices.folders import csv_path, list_tickers
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.windows.preprocess import read_windows

logger = logging.getLogger(__name__)

CHEAP: Mapping[str, Callable[[Protocol], Floats]] = {"common_drift": common_drift, "ridge": ridge}
"""Quick forecasters of points."""


class StageForecasts(FrozenModel):
    """The forecasts of our stages by model, what recalibrates them, the one that validation chose, and the verdict."""

    windows: ArtifactRef
    forecasts: dict[str, ArtifactRef]
    chosen: str | None
    headline: str
    left_out: dict[str, str] = Field(default={})
    recalibrations: dict[str, Recalibration] = Field(default={})


def read_protocol(folder: Path) -> tuple[Protocol, list[str]]:
    """Read the protocol's test windows of all tickers of a folder; a note names each faulty ticker that is left out.

    Raises:
        EvaluationError: If no ticker is usable.
        MarketDataError: If there is no such folder.
    """
    series, notes = [], []
    for ticker in list_tickers(folder):
        try:
            series.append(series_of(read_csv(csv_path(folder, ticker), ticker=ticker), ticker=ticker))
        except (FeaturesError, EvaluationError) as error:
            logger.warning("%s is left out: %s", ticker, error)
            notes.append(f"{ticker} is left out: {error}")
    if not series:
        raise EvaluationError(f"{folder} holds no usable ticker: put one STOCK.csv per ticker there")
    return protocol_of(series), notes


def check_protocol(config: PipelineConfig) -> None:
    """Refuse settings with which our stages would forecast other windows than the protocol's.

    Raises:
        ConfigError: Names the setting.
    """
    published = FeatureConfig(horizon=HORIZON)
    for name in ("horizon", "train_fraction", "test_fraction"):
        given, wanted = getattr(config.features, name), getattr(published, name)
        if given != wanted:
            raise ConfigError(f"features.{name} = {given}: the published protocol has {wanted}; leave it as it is")


def stand(
    protocol: Protocol,
    *,
    baselines: Sequence[str] = (),
    predictions: Sequence[ProtocolForecast] = (),
    stages: StageForecasts | None = None,
    notes: Sequence[str] = (),
) -> Standings:
    """Make the table of standings: cheap baselines, then slower ones, the forecasts of a file, and our stages.

    Args:
        protocol: The test windows.
        baselines: Names from `evaluation.baselines.rivals.CLASSICAL`.
        predictions: From `evaluation.bench.predictions.read_predictions`.
        stages: From `stage_forecasts`.
        notes: Remarks for the reader.

    Raises:
        EvaluationError: If a baseline is unknown or needs a library that is not installed, or a name occurs twice.
    """
    free = walks(protocol)
    everything = np.arange(len(protocol.place))
    entries = [_whole(PERSISTENCE, persistence(protocol))]
    entries += [
        replace(_whole(name, middle), whole=whole_of(protocol, [(everything, paths)]))
        for name, (middle, paths) in free.items()
    ]
    entries += [_whole(name, forecast(protocol)) for name, forecast in CHEAP.items()]
    for name in baselines:
        logger.info("%s: fitting one model per ticker, which takes seconds each", name)
        middle, moves = classical(protocol, name, on_ticker=lambda ticker: logger.debug("%s", ticker))
        simulated = name == GARCH
        whole = whole_of(protocol, [(everything, moves)], independent=simulated, are_paths=simulated)
        entries.append(replace(_whole(name, middle), whole=whole))
    remarks = list(notes)
    if stages is not None:
        windows = read_windows(stages.windows)
        for model, artifact in stages.forecasts.items():
            drawn, own = read_frame(artifact.path / FORECASTS_FILE), stages.recalibrations.get(model, Recalibration())
            frame = recalibrated_frame(windows, drawn, recalibration=own)
            entries.append(sampled_entry(frame, protocol, name=model, is_chosen=model == stages.chosen))
        remarks.append(stages.headline)
        remarks += [f"our stages leave out {ticker}: {why}" for ticker, why in stages.left_out.items()]
    return standings_of(protocol, [*entries, *predictions], notes=remarks)


def _whole(name: str, forecast: Floats) -> ProtocolForecast:
    return ProtocolForecast(name, forecast, asked=np.ones(len(forecast), dtype=bool))


@flow(name="benchmark-stocknet", persist_result=False)
def stage_forecasts(config: PipelineConfig, until: AdapterStage = LAST_STAGE) -> StageForecasts:
    """Train our stages on all tickers of a folder together, and forecast the protocol's test windows.

    Every model forecasts the windows that `evaluation.max_windows` selects, by default 1000 per split, spread over the
    tickers. The adapter that validation chooses forecasts all test windows, unless that limit is set.

    Args:
        config: Settings of all stages; the stock is the pool of all tickers.
        until: Last stage to train.
    """
    store = Store.current()
    config = config.model_copy(update={"stock": POOL})
    steps = Steps(config, store)
    data = steps.data()
    base_model = steps.base_model()
    stages = steps.trained(data.windows, base_model, until=until)
    adapters = adapters_of(stages)
    forecasts = steps.forecasts_of_all(data.windows, base_model, adapters)
    comparison = steps.comparison(data.windows, base_model, adapters, bars=data.all_bars)
    report, verdict = read_report(comparison), read_verdict(comparison)
    chosen = report.chosen
    if chosen is not None and config.evaluation.max_windows is None:
        tests = only_test(data.windows, store=store)
        everything = config.evaluation.model_copy(update={"max_windows": max(2, int(str(tests.meta["test"])))})
        asked = Steps(config.model_copy(update={"evaluation": everything}), store)
        forecasts[chosen] = asked.forecasts(tests, base_model, model=chosen, adapter=adapters[chosen])
    return StageForecasts(
        windows=store.here(data.windows),
        forecasts={model: store.here(forecasts[model]) for model in (BASE, *adapters)},
        chosen=chosen,
        headline=verdict.headline,
        left_out=data.left_out,
        recalibrations=report.recalibrations,
    )
