"""The flow `nightly`: retrains, judges, forecasts and watches every ticker; if one fails, the others continue."""

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import pandas as pd
from prefect import flow
from pydantic import Field

from tickerforge.evaluation.monitoring.drift import RECENT_WINDOWS, InputDrift, input_drift
from tickerforge.evaluation.monitoring.live import LiveScores
from tickerforge.evaluation.report.desk import FAILED, KEPT, PROMOTED, DeskRow
from tickerforge.features.config import FrozenModel, UpdateSource
from tickerforge.flows.errors import NightFailed, StageFailed
from tickerforge.flows.night.alerts import night_message
from tickerforge.flows.night.batches import BatchAnswer, ForecastJob, TickerJob, TickerStages
from tickerforge.flows.night.desk import (
    forecast_cells,
    forecast_part,
    live_cell,
    live_part,
    publish_desk,
    publish_stock,
)
from tickerforge.flows.night.forecast import forecast_and_issue
from tickerforge.flows.night.next_sessions import StockForecast
from tickerforge.flows.prices.price_updates import update_prices
from tickerforge.flows.remote.gpu_pool import BATCH_DEPLOYMENT, GPU_POOL, MOST_JOBS, Call, Where, call_all
from tickerforge.flows.remote.here import Finished
from tickerforge.flows.server.begin import begin
from tickerforge.flows.server.outcome import in_words
from tickerforge.flows.settings import form
from tickerforge.flows.settings.choices import Retrain
from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.flows.settings.scope import Exchange, Tickers, due, skipped, stocks_of, with_stock
from tickerforge.flows.train.champions import current_champion, warm_start
from tickerforge.flows.train.pipeline import PipelineResult, PreparedTicker, train
from tickerforge.flows.train.steps import Steps
from tickerforge.tasks.base.prefect_artifacts import publish_table
from tickerforge.tasks.models.forecasting import too_few_valid
from tickerforge.tasks.outputs.alerts import send_alert
from tickerforge.tasks.outputs.desk import read_row
from tickerforge.tasks.outputs.live import live_error_drift, record_outcomes, score_issued, seal_records
from tickerforge.tasks.prices.sessions import calendar_of, stale_by
from tickerforge.tasks.registry.registration import CHAMPION
from tickerforge.tasks.registry.versions import RegisteredAdapter
from tickerforge.tasks.store.artifacts import Store
from tickerforge.tasks.windows.preprocess import read_bars, read_windows

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

logger = logging.getLogger(__name__)

BatchSize = Annotated[
    int, Field(ge=1, le=MOST_JOBS, description="Tickers that one run on the GPU pool trains one after the other.")
]


ERROR_DRIFT = "error drift"
# A night may begin some hours earlier than that of the week before.
_ABOUT_A_WEEK = timedelta(days=6, hours=12)
SHORT = 120
"""Most characters of a reason in the table; the stock's own artifact has it whole."""


class Prepared(PreparedTicker):
    """A ticker that is ready for training.

    Attributes:
        config: Its settings.
        stale: Number of sessions missing at the end of its prices.
        not_updated: Why its prices could not be updated; empty if they were.
    """

    config: PipelineConfig
    stale: int = 0
    not_updated: str = ""


class TickerNight(FrozenModel):
    """The outcome of the night for one ticker; `failure` says why it did not finish.

    `desk` is its row on the desk, and `scored` are the records of forecasts' outcomes that the night wrote.
    """

    stock: str
    desk: DeskRow
    promoted: bool = False
    version: str = ""
    seconds: float = 0.0
    failure: str = ""
    scored: tuple[str, ...] = ()

    def row(self) -> dict[str, str]:
        """Make the ticker's row in the table of the night: the forecast first, the reasons last."""
        return {
            "Stock": self.stock,
            **forecast_cells(self.desk),
            "Outcome": self.desk.outcome,
            "Watch": ", ".join(self.desk.flags),
            "Live skill": live_cell(self.desk),
            "Why": shorten(self.failure or self.desk.verdict, SHORT),
        }


class Night(FrozenModel):
    """One entry per ticker, in the order of the request."""

    tickers: tuple[TickerNight, ...]


def _alert(flow: "Flow[..., Any]", flow_run: "FlowRun", state: "State") -> None:
    """Send an alert about a night that ended before its table was published."""
    reason = state.message or "See its log in Prefect."
    if NightFailed.__name__ not in reason:
        send_alert(f"TickerForge: the night {flow_run.name} has {(state.name or 'failed').lower()}", reason)


@flow(name="nightly", persist_result=False, on_running=[begin], on_failure=[_alert], on_crashed=[_alert])
def nightly(
    config: PipelineConfig | None = None,
    tickers: Tickers = (),
    recipe: str = form.DEFAULT_RECIPE,
    model: str = "",
    data: str = "",
    update: UpdateSource = "none",
    retrain: Retrain = "always",
    overrides: str = "",
    heavy_stages: Where = "here",
    exchange: Exchange = None,
    batch_size: BatchSize = 32,
) -> Night:
    """Retrain, judge, forecast and watch many tickers.

    The fields of the form are `tickers` to `overrides`; a `config` replaces all of them but the tickers. Without one,
    training starts from each ticker's champion, if there is one.

    `retrain` says which tickers train: all of them; those whose input or live error drifts; or those whose last
    training is a week old. A ticker that never trained, or whose last training failed, always does. All of them get a
    forecast.

    Raises:
        ConfigError: If the fields are not a configuration.
        NightFailed: If a ticker failed; the others are done.
    """
    if (nothing := skipped(exchange, result=Night(tickers=()))) is not None:
        return nothing
    if config is None:
        given = {"warm_start": "champion", "model": model, "data": data, "update": update}
        config = form.config_of_form(recipe=recipe, overrides=overrides, **given)
    names = tuple(dict.fromkeys(tickers or stocks_of(config)))
    failures: dict[str, str] = {}
    prepared = prepare_all(config, names, exchange=exchange, failures=failures)
    tonight = {stock: ready for stock, ready in prepared.items() if trains_tonight(ready, retrain)}
    if idle := len(prepared) - len(tonight):
        logger.info("%d of %d tickers keep their adapters tonight (retrain = %s)", idle, len(names), retrain)
    trained = train_elsewhere(list(tonight.values()), size=batch_size) if heavy_stages == GPU_POOL else {}
    results: dict[str, PipelineResult] = {}
    seconds: dict[str, float] = {}
    for place, (stock, ready) in enumerate(tonight.items(), start=len(names) - len(tonight) + 1):
        started = time.monotonic()
        try:
            results[stock] = train_again(ready, stages=trained.get(stock))
        except Exception as error:
            logger.exception("%s failed", stock)
            failures[stock] = in_words(error)
        seconds[stock] = time.monotonic() - started
        logger.info("%d of %d tickers are done (%s)", place, len(names), stock)
    jobs = [ForecastJob(config=ready.config, bars=ready.bars) for ready in prepared.values()]
    forecasts = {each.stock: each for each in forecast_and_issue(jobs, heavy_stages=heavy_stages, exchange=exchange)}
    failures = {stock: each.note for stock, each in forecasts.items() if each.failed} | failures
    night = Night(
        tickers=tuple(
            ticker_night(
                stock,
                ready=prepared.get(stock),
                result=results.get(stock),
                forecast=forecasts.get(stock),
                failure=failures.get(stock, ""),
                seconds=seconds.get(stock, 0.0),
            )
            for stock in names
        )
    )
    finish(night)
    return night


def prepare_all(
    config: PipelineConfig, names: Sequence[str], *, exchange: str | None, failures: dict[str, str]
) -> dict[str, Prepared]:
    """Prepare the data and champion of every ticker; the error of one goes to `failures`."""
    prepared = {}
    for stock in names:
        try:
            prepared[stock] = prepare_ticker(config, stock, exchange=exchange)
        except Exception as error:
            logger.exception("%s cannot be prepared", stock)
            failures[stock] = in_words(error)
    return prepared


def prepare_ticker(config: PipelineConfig, stock: str, *, exchange: str | None) -> Prepared:
    """Prepare one ticker: update its prices if the settings say so, cut windows, and find its champion."""
    own = with_stock(config, stock)
    not_updated = update_prices(own, exchange=exchange)
    steps = Steps(own, Store.current())
    bars = steps.bars()
    windows = steps.windows(bars)
    dates = read_bars(bars)["date"]
    calendar = calendar_of(stock, dates, exchange=exchange or own.quality.exchange)
    return Prepared(
        config=own,
        bars=bars,
        windows=windows,
        start=warm_start(own, windows=windows),
        champion=current_champion(stock),
        stale=stale_by(dates.iloc[-1].date(), due(), exchange=calendar) if calendar else 0,
        not_updated=not_updated,
    )


def trains_tonight(ready: Prepared, retrain: Retrain) -> bool:
    """Return whether a ticker trains in a night with this setting; see `nightly`."""
    former = read_row(ready.config.stock)
    if retrain == "always" or former is None or former.judged_at is None or former.outcome == FAILED:
        return True
    if retrain == "weekly":
        return datetime.now(UTC) - former.judged_at > _ABOUT_A_WEEK
    return ERROR_DRIFT in former.flags or _input_drift(ready).drifted


def _input_drift(ready: Prepared) -> InputDrift:
    frame = read_windows(ready.windows)
    return input_drift(frame[frame["split"] == "train"], frame.sort_values("origin").tail(RECENT_WINDOWS))


def train_elsewhere(prepared: Sequence[Prepared], *, size: int) -> dict[str, TickerStages]:
    """Run all heavy stages on the GPU pool, in batches that run in parallel on as many workers as there are.

    If a whole batch fails, its tickers are tried one by one; finished stages are in the store.
    """
    batches = [prepared[first : first + size] for first in range(0, len(prepared), size)]
    found: dict[str, TickerStages] = {}
    again: list[Prepared] = []
    for batch, answer in zip(batches, call_all([_call(batch) for batch in batches], answer=BatchAnswer), strict=True):
        if not isinstance(answer, StageFailed):
            found |= {each.stock: each for each in answer.tickers}
        elif len(batch) > 1:
            logger.warning("%s; trying its tickers one by one", answer)
            again += batch
        else:
            stock = batch[0].config.stock
            found[stock] = TickerStages(stock=stock, results={}, error=str(answer))
    return found | train_elsewhere(again, size=1) if again else found


def _call(batch: Sequence[Prepared]) -> Call:
    jobs = [
        TickerJob(config=ready.config, windows=ready.windows, start=ready.start, champion=ready.champion)
        for ready in batch
    ]
    first = batch[0].config.stock
    what = first if len(batch) == 1 else f"{first} and {len(batch) - 1} more"
    return Call(BATCH_DEPLOYMENT, {"jobs": [job.model_dump(mode="json") for job in jobs]}, f"training of {what}")


@flow(name="retrain", flow_run_name="{ready.config.stock}", persist_result=False, validate_parameters=False)
def train_again(ready: Prepared, stages: TickerStages | None = None) -> PipelineResult:
    """Train, compare and register one ticker of the night.

    Args:
        ready: Its data, its champion and its settings.
        stages: Results of the GPU pool; without them everything runs here.
    """
    return train(ready.config, heavy=Finished(stages.results, stages.error) if stages else None, given=ready)


def ticker_night(
    stock: str,
    *,
    ready: Prepared | None,
    result: PipelineResult | None,
    forecast: StockForecast | None,
    failure: str,
    seconds: float,
) -> TickerNight:
    """Make one ticker's entry: verdict, forecast, score of earlier forecasts, and warnings by the name of a flag."""
    warnings: dict[str, str] = {}
    watched: Watched | None = None
    bars = read_bars(ready.bars) if ready is not None else None
    registered = result.registered if result else None
    promoted = registered is not None and CHAMPION in registered.aliases
    if ready is not None and bars is not None:
        last = bars["date"].iloc[-1].date()
        if ready.stale:
            warnings["stale"] = f"The prices end on {last} and lack {ready.stale} sessions."
        if ready.not_updated:
            warnings["not updated"] = f"The prices end on {last}, as they could not be updated ({ready.not_updated})."
        try:
            champion = ready.champion
            if promoted and registered is not None:
                champion = registered.adapter
            watched = watch(ready, champion=champion, bars=bars)
            warnings |= watched.drifts
        except Exception as error:
            logger.exception("%s cannot be watched", stock)
            failure = failure or in_words(error)
    made = forecast.forecast if forecast else None
    if made is not None and (problem := too_few_valid(made.valid, made.answers)):
        warnings["no band"] = f"Forecast: {problem}."
    if failure:
        warnings = {FAILED: failure} | warnings
    judged: dict[str, object] = {"flags": tuple(warnings), "watch": tuple(warnings.values())}
    # Without training, the former verdict stands.
    if result is not None or failure:
        judged |= {
            "outcome": FAILED if failure else PROMOTED if promoted else KEPT,
            "verdict": result.verdict.headline if result else "",
            "judged_at": datetime.now(UTC),
            "report": (result.page or result.report_path.resolve().as_uri()) if result else "",
        }
    live = live_part(watched.live) if watched else {}
    return TickerNight(
        stock=stock,
        desk=forecast_part(stock, forecast, bars=bars).model_copy(update=judged | live),
        promoted=promoted,
        version=registered.version if registered else "",
        seconds=seconds,
        failure=failure,
        scored=watched.scored if watched else (),
    )


class Watched(NamedTuple):
    """The scores of issued forecasts, a sentence per drift by the name of its flag, and the records of new outcomes."""

    live: LiveScores
    drifts: dict[str, str]
    scored: tuple[str, ...]


def watch(ready: Prepared, *, champion: RegisteredAdapter | None, bars: pd.DataFrame) -> Watched:
    """Score issued forecasts, record the outcomes of those that are complete, and check for drift.

    The live error is compared with the error on the test split when the champion was promoted.
    """
    stock = ready.config.stock
    scores = score_issued(stock, bars)
    scored = record_outcomes(scores, at=datetime.now(UTC))
    drift = _input_drift(ready)
    error = live_error_drift(scores, version=champion.version) if champion else None
    found = {"input drift": drift, ERROR_DRIFT: error}
    drifts = {name: each.text for name, each in found.items() if each is not None and each.drifted}
    return Watched(scores, drifts, scored)


def finish(night: Night) -> None:
    """Publish the table of the night, failed tickers first, and the desk; fail the flow run if a ticker failed.

    Raises:
        NightFailed: If a ticker failed; names each with its reason.
        PublishError: If the desk's files cannot be written.
    """
    now = datetime.now(UTC)
    seal_records([name for each in night.tickers for name in each.scored], at=now, since=now)
    failed = [each for each in night.tickers if each.failure]
    promoted = [each.stock for each in night.tickers if each.promoted]
    count = "1 ticker" if len(night.tickers) == 1 else f"{len(night.tickers)} tickers"
    summary = f"{count}: {len(promoted)} promoted, {len(failed)} failed."
    ordered = sorted(night.tickers, key=lambda each: (not each.failure, not each.promoted, each.stock))
    desk = publish_desk([each.desk for each in night.tickers], at=now)
    for each in ordered:
        publish_stock(each.desk, version=each.version, seconds=each.seconds)
    publish_table("night", [each.row() for each in ordered], description=f"{summary} [The desk: all tickers]({desk})")
    logger.info("%s", summary)
    send_alert(*night_message([each.desk for each in ordered], address=desk))
    if failed:
        raise NightFailed("\n".join([summary, *(f"{each.stock}: {each.failure}" for each in failed)]))
