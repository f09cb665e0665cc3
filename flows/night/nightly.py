"""The flow `nightly`: retrains, judges, forecasts and watches every ticker; if one fails, the others continue."""

import logging
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from textwrap import shorten
from typing import Annotated, NamedTuple

import pandas as pd
from prefect import flow
from pydantic import Field

from tickerforge.evaluation.monitoring.drift import RECENT_WINDOWS, InputDrift, input_drift
from tickerforge.evaluation.monitoring.live import LiveScores
from tickerforge.evaluation.report.desk import FAILED, KEPT, PROMOTED, DeskRow
from tickerforge.features.config import FrozenModel, UpdateSource
from tickerforge.flows.errors import NightFailed, StageFailed
from tickerforge.flows.night.alerts import night_message
from tickerforge.flows.night.basis import Versions, basis_of, registered_versions
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
from tickerforge.flows.night.growth import look_daily
from tickerforge.flows.night.next_sessions import StockForecast
from tickerforge.flows.prices.price_updates import update_prices
from tickerforge.flows.remote.gpu_pool import BATCH_DEPLOYMENT, GPU_POOL, MOST_JOBS, Call, Where, call_all
from tickerforge.flows.remote.here import Finished
from tickerforge.flows.server.alert import alert
from tickerforge.flows.server.begin import begin
from tickerforge.flows.server.outcome import in_words
from tickerforge.flows.settings import form
from tickerforge.flows.settings.choices import Retrain
from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.flows.settings.scope import Exchange, Tickers, chosen_stocks, due, skipped, with_stock
from tickerforge.flows.train.champions import warm_start
from tickerforge.flows.train.pipeline import PipelineResult, PreparedTicker, train
from tickerforge.flows.train.steps import Steps
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.base.prefect_artifacts import publish_table
from tickerforge.tasks.models.forecasting import too_few_valid
from tickerforge.tasks.outputs.alerts import send_alert
from tickerforge.tasks.outputs.desk import keep_rows, read_row
from tickerforge.tasks.outputs.live import live_error_drift, record_outcomes, score_issued, seal_records
from tickerforge.tasks.prices.sessions import calendar_of, stale_by
from tickerforge.tasks.registry.registration import CHAMPION, RegisteredModel
from tickerforge.tasks.registry.versions import RegisteredAdapter
from tickerforge.tasks.store.artifacts import Store
from tickerforge.tasks.windows.preprocess import read_bars, read_windows

logger = logging.getLogger(__name__)

BatchSize = Annotated[
    int, Field(ge=1, le=MOST_JOBS, description="Tickers that one run on the GPU pool trains one after the other.")
]


ERROR_DRIFT = "error drift"
STALE, NOT_UPDATED = "stale", "not updated"
# A night may begin some hours earlier than that of the week before.
_ABOUT_A_WEEK = timedelta(days=6, hours=12)
SHORT = 120
"""Most characters of a reason in the table; the stock's own artifact has it whole."""


class Prepared(PreparedTicker):
    """A ticker that is ready for training.

    Attributes:
        config: Its settings.
        last: The last session of its prices.
        stale: Number of sessions missing at the end of its prices.
        not_updated: Why its prices could not be updated; empty if they were.
        versions: The registered versions, from `flows.night.basis.registered_versions`.
        basis: From `flows.night.basis.basis_of`.
        unchanged: Whether the night before had the same basis.
    """

    config: PipelineConfig
    last: date
    stale: int = 0
    not_updated: str = ""
    versions: Versions = Field(default_factory=dict)
    basis: str = ""
    unchanged: bool = False

    @cached_property
    def drift(self) -> InputDrift:
        """The drift of the model's input: the latest windows against the train split."""
        frame = read_windows(self.windows)
        return input_drift(frame[frame["split"] == "train"], frame.sort_values("origin").tail(RECENT_WINDOWS))

    @property
    def warnings(self) -> dict[str, str]:
        """A sentence on each fault of the end of the prices, by the name of its flag."""
        found = {}
        if self.stale:
            found[STALE] = f"The prices end on {self.last} and lack {self.stale} sessions."
        if self.not_updated:
            found[NOT_UPDATED] = f"The prices end on {self.last}, as they could not be updated ({self.not_updated})."
        return found


class TickerNight(FrozenModel):
    """The outcome of the night for one ticker; `failure` says why it did not finish.

    `desk` is its row on the desk, and `scored` are the records of forecasts' outcomes that the night wrote. `judged`
    says that it trained or failed in this night: otherwise the verdict is the former one. An `unchanged` ticker kept
    its forecast, too.
    """

    stock: str
    desk: DeskRow
    judged: bool = False
    unchanged: bool = False
    promoted: bool = False
    version: str = ""
    seconds: float = 0.0
    failure: str = ""
    scored: dict[str, datetime] = Field(default_factory=dict)

    def row(self) -> dict[str, str]:
        """Make the ticker's row in the table of the night: the forecast first, the reasons last."""
        return {
            "Stock": self.stock,
            **forecast_cells(self.desk),
            "Outcome": self.desk.outcome if self.judged else _former(self.desk),
            "Watch": ", ".join(self.desk.flags),
            "Live skill": live_cell(self.desk),
            "Why": shorten(self.failure or self.desk.verdict, SHORT),
        }


class Night(FrozenModel):
    """One entry per ticker, in the order of the request."""

    tickers: tuple[TickerNight, ...]


def _former(row: DeskRow) -> str:
    return f"{row.outcome} on {row.judged_at:%Y-%m-%d}" if row.judged_at else row.outcome


@flow(name="nightly", persist_result=False, on_running=[begin], on_failure=[alert], on_crashed=[alert])
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
    forecast. A ticker whose prices, settings, code and registered versions are those of its last night keeps what it
    has.

    Raises:
        ConfigError: If the fields are not a configuration.
        NightFailed: If a ticker failed; the others are done.
    """
    if (nothing := skipped(exchange, result=Night(tickers=()))) is not None:
        return nothing
    if config is None:
        given = {"warm_start": "champion", "model": model, "data": data, "update": update}
        config = form.config_of_form(recipe=recipe, overrides=overrides, **given)
    names = chosen_stocks(tickers, config)
    failures: dict[str, str] = {}
    prepared = prepare_all(config, names, exchange=exchange, failures=failures)
    tonight = choose(prepared, retrain, failures=failures)
    if idle := len(prepared) - len(tonight):
        logger.info("%d of %d tickers do not train tonight (retrain = %s)", idle, len(names), retrain)
    same = {stock for stock, ready in prepared.items() if ready.unchanged and stock not in tonight}
    if same:
        logger.info("%d of %d tickers have not changed since their last night", len(same), len(names))
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
    jobs = [ForecastJob(config=ready.config, bars=ready.bars) for stock, ready in prepared.items() if stock not in same]
    forecasts = {each.stock: each for each in forecast_and_issue(jobs, heavy_stages=heavy_stages, exchange=exchange)}
    failures = {stock: each.note for stock, each in forecasts.items() if each.failed} | failures
    night = Night(
        tickers=tuple(
            unchanged_night(prepared[stock])
            if stock in same
            else ticker_night(
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
    """Prepare one ticker: update its prices if the settings say so, cut windows, and find its champion.

    The adapter that its training starts from is left out.
    """
    own = with_stock(config, stock)
    not_updated = update_prices(own, exchange=exchange)
    steps = Steps(own, Store.current())
    bars = steps.bars()
    windows = steps.windows(bars)
    dates = read_bars(bars)["date"]
    last = dates.iloc[-1].date()
    calendar = calendar_of(stock, dates, exchange=own.quality.exchange, default=exchange)
    versions = registered_versions(stock)
    basis = basis_of(own, bars=bars, windows=windows, versions=versions)
    former, champion = read_row(stock), versions[stock].get(CHAMPION)
    return Prepared(
        config=own,
        bars=bars,
        windows=windows,
        champion=RegisteredAdapter(ticker=stock, version=int(champion)) if champion else None,
        last=last,
        stale=stale_by(last, due(), exchange=calendar) if calendar else 0,
        not_updated=not_updated,
        versions=versions,
        basis=basis,
        unchanged=former is not None and former.basis == basis,
    )


def choose(prepared: dict[str, Prepared], retrain: Retrain, *, failures: dict[str, str]) -> dict[str, Prepared]:
    """Return the tickers that train, with the adapter that their training starts from.

    A ticker for which that cannot be found out moves from `prepared` to `failures`.
    """
    chosen = {}
    for stock, ready in list(prepared.items()):
        try:
            if trains_tonight(ready, retrain):
                chosen[stock] = ready.model_copy(update={"start": warm_start(ready.config, windows=ready.windows)})
        except Exception as error:
            logger.exception("%s cannot be prepared", stock)
            failures[stock] = in_words(error)
            del prepared[stock]
    return chosen


def trains_tonight(ready: Prepared, retrain: Retrain) -> bool:
    """Return whether a ticker trains in a night with this setting; see `nightly`."""
    former = read_row(ready.config.stock)
    if former is None or former.judged_at is None or former.outcome == FAILED:
        return True
    if ready.basis and former.trained_on == ready.basis:
        return False
    if retrain == "always":
        return True
    if retrain == "weekly":
        return datetime.now(UTC) - former.judged_at > _ABOUT_A_WEEK
    return ERROR_DRIFT in former.flags or ready.drift.drifted


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
    warnings = ready.warnings if ready is not None else {}
    watched: Watched | None = None
    bars = read_bars(ready.bars) if ready is not None else None
    registered = result.registered if result else None
    promoted = registered is not None and CHAMPION in registered.aliases
    if ready is not None and bars is not None:
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
    found: dict[str, object] = {"flags": tuple(warnings), "watch": tuple(warnings.values()), "basis": ""}
    if ready is not None and not failure:
        found["basis"] = _basis_after(ready, registered) if registered else ready.basis
    # Without training, the former verdict stands.
    judged = result is not None or bool(failure)
    if judged:
        found |= {
            "outcome": FAILED if failure else PROMOTED if promoted else KEPT,
            "verdict": result.verdict.headline if result else "",
            "judged_at": datetime.now(UTC),
            "report": (result.page or result.report_path.resolve().as_uri()) if result else "",
            "trained_on": found["basis"],
        }
    live = live_part(watched.live) if watched else {}
    return TickerNight(
        stock=stock,
        desk=forecast_part(stock, forecast, bars=bars).model_copy(update=found | live),
        judged=judged,
        promoted=promoted,
        version=registered.version if registered else "",
        seconds=seconds,
        failure=failure,
        scored=watched.scored if watched else {},
    )


def unchanged_night(ready: Prepared) -> TickerNight:
    """Make the entry of a ticker that has not changed: its former row, with what is known now of the end of its prices.

    Raises:
        StoreError: If the row cannot be read.
    """
    stock = ready.config.stock
    row = read_row(stock) or DeskRow(ticker=stock)
    former = dict(zip(row.flags, row.watch, strict=True))
    warnings = ready.warnings | {flag: text for flag, text in former.items() if flag not in (STALE, NOT_UPDATED)}
    desk = row.model_copy(update={"flags": tuple(warnings), "watch": tuple(warnings.values())})
    return TickerNight(stock=stock, desk=desk, unchanged=True)


def _basis_after(ready: Prepared, registered: RegisteredModel) -> str:
    """Return the basis of a ticker with the version that this night registered.

    Other changes of the registry during the night are left out, because the night did not use them.
    """
    stock = ready.config.stock
    own = ready.versions[stock] | dict.fromkeys(registered.aliases, registered.version)
    versions = ready.versions | {stock: own}
    return basis_of(ready.config, bars=ready.bars, windows=ready.windows, versions=versions)


class Watched(NamedTuple):
    """The scores of issued forecasts, a sentence per drift by the name of its flag, and the records of new outcomes."""

    live: LiveScores
    drifts: dict[str, str]
    scored: dict[str, datetime]


def watch(ready: Prepared, *, champion: RegisteredAdapter | None, bars: pd.DataFrame) -> Watched:
    """Score issued forecasts, record the outcomes of those that are complete, and check for drift.

    The live error is compared with the error on the test split when the champion was promoted.
    """
    stock = ready.config.stock
    scores = score_issued(stock, bars)
    scored = record_outcomes(scores, at=datetime.now(UTC))
    error = live_error_drift(scores, version=champion.version) if champion else None
    found = {"input drift": ready.drift, ERROR_DRIFT: error}
    drifts = {name: each.text for name, each in found.items() if each is not None and each.drifted}
    return Watched(scores, drifts, scored)


def finish(night: Night) -> None:
    """Publish the table of the night, failed tickers first, and the desk; fail the flow run if a ticker failed.

    Raises:
        NightFailed: If a ticker failed; names each with its reason.
        PublishError: If the desk's files cannot be written.
    """
    now = datetime.now(UTC)
    scored = {name: when for each in night.tickers for name, when in each.scored.items()}
    seal_records(list(scored), at=now, since=min(scored.values(), default=now))
    failed = [each for each in night.tickers if each.failure]
    promoted = [each.stock for each in night.tickers if each.promoted]
    count = "1 ticker" if len(night.tickers) == 1 else f"{len(night.tickers)} tickers"
    summary = f"{count}: {len(promoted)} promoted, {len(failed)} failed."
    ordered = sorted(night.tickers, key=lambda each: (not each.failure, not each.promoted, each.stock))
    look_daily(Workspace.current(), at=now)
    # If the night is killed before its last line, the next night must not take these tickers for unchanged.
    desk = publish_desk(
        [each.desk.model_copy(update={"basis": "", "trained_on": ""}) for each in night.tickers], at=now
    )
    for each in ordered:
        if not each.unchanged:
            publish_stock(each.desk, version=each.version, seconds=each.seconds)
    publish_table("night", [each.row() for each in ordered], description=f"{summary} [The desk: all tickers]({desk})")
    logger.info("%s", summary)
    # A former verdict is not news.
    news = [each.desk if each.judged else each.desk.model_copy(update={"outcome": ""}) for each in ordered]
    send_alert(*night_message(news, address=desk))
    keep_rows([each.desk for each in night.tickers])
    if failed:
        raise NightFailed("\n".join([summary, *(f"{each.stock}: {each.failure}" for each in failed)]))
