"""Forecasts of the next sessions by an adapter or for free: latest bars in, median and band of prices out."""

from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tickerforge.evaluation.core.contracts import ISSUED_LEVELS, RANDOM_WALK, Floats
from tickerforge.evaluation.core.recalibration import Recalibration, recalibrated
from tickerforge.features.config import FeatureConfig, FrozenModel, JumpMode
from tickerforge.features.price_text import price_text
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.prices.freshness import is_running, stale_end
from tickerforge.tasks.prices.sessions import AUTO, calendar_of, next_sessions, provisional
from tickerforge.training.config import TrainingConfig
from tickerforge.training.contracts import OnProgress

INTERVAL = 0.8
# With fewer answers, even their whole range covers less than the band should.
LEAST_FOR_BAND = round(2 / (1 - INTERVAL)) - 1
VOLATILITY_SESSIONS = 250
# Dividends change adjusted closes afterwards; a wider difference is more than six standard deviations of all the moves.
ADJUSTMENT, STANDARD_DEVIATIONS = 0.25, 6.0
SESSIONS_PER_DAY = 5 / 7

Quantiles = tuple[tuple[float, ...], ...]


class KnownPrice(FrozenModel):
    """The last adjusted close, USD, that was known when an adapter was registered.

    `volatility` is the daily standard deviation of log returns up to then.
    """

    session: date
    close: float
    volatility: float


def known_price(bars: pd.DataFrame) -> KnownPrice:
    """Return the last known price of validated bars."""
    closes = bars["adj_close"].to_numpy(float)
    returns = np.diff(np.log(closes[-VOLATILITY_SESSIONS:]))
    return KnownPrice(session=bars["date"].iloc[-1].date(), close=closes[-1], volatility=float(np.std(returns)))


def implausible(bars: pd.DataFrame, known: KnownPrice) -> str:
    """Say which of the prices cannot follow from the known one by the stock's usual moves; "" if all may.

    The bar next to the known session is compared, and the last one.
    """
    days = (bars["date"] - pd.Timestamp(known.session)).dt.days.to_numpy()
    for row in (int(np.abs(days).argmin()), len(bars) - 1):
        close, moved = float(bars["adj_close"].iloc[row]), abs(np.log(bars["adj_close"].iloc[row] / known.close))
        sessions = abs(int(days[row])) * SESSIONS_PER_DAY
        if moved > ADJUSTMENT + STANDARD_DEVIATIONS * known.volatility * np.sqrt(sessions):
            return (
                f"the adjusted close {price_text(close)} on {bars['date'].iloc[row]:%Y-%m-%d} is "
                f"{close / known.close:.3g} times that of {known.session}, {price_text(known.close)}, when the "
                f"model was registered, and the stock usually moves by {known.volatility:.1%} a day"
            )
    return ""


class NextForecast(NamedTuple):
    """A table as `forecast_next` returns it, its quantiles (see `issued_quantiles`), and the model's thoughts.

    `thoughts` are what the model wrote before some of its answers; see `evaluation.core.forecasts.nearest_thoughts`.
    """

    table: pd.DataFrame
    quantiles: Quantiles
    thoughts: tuple[str, ...]


def forecast_next(bars: pd.DataFrame, **arguments: Any) -> pd.DataFrame:
    """Forecast as `forecast_distribution` does, and return the table alone."""
    return forecast_distribution(bars, **arguments).table


def forecast_distribution(
    bars: pd.DataFrame,
    *,
    ticker: str,
    base_model: str,
    adapter: Path | None,
    features: FeatureConfig,
    training: TrainingConfig,
    seed: int,
    exchange: str = AUTO,
    known: KnownPrice | None = None,
    jumps: JumpMode = "refuse",
    recalibration: Recalibration | None = None,
    on_progress: OnProgress | None = None,
    now: datetime | None = None,
) -> NextForecast:
    """Forecast the next `features.horizon` sessions after the last bar; warn of implausible or old prices in the log.

    Args:
        bars: Columns `date open high low close adj_close volume`, USD; checked by the rules of
            `features.prices.bars.frame_bars`.
        ticker: Name in error messages.
        base_model: Hugging Face name or folder.
        adapter: PEFT folder, or `None` for the bare base model.
        features: Settings of windows and prompts that the adapter was trained with.
        training: Sampling settings, backend and lengths.
        seed: Seed of the sampling; the same seed and bars give the same forecast.
        exchange: Calendar of the next sessions, as in `tasks.prices.sessions.next_sessions`.
        known: A price of this stock, with which the bars are compared.
        jumps: What to do with moves that no market makes; see `features.config.QualityConfig`.
        recalibration: That of the adapter; without it the answers stay as they are.
        on_progress: Called with the number of answers drawn.
        now: The current time, with a time zone, to leave out a session that has not closed, and to warn if the bars do
            not end with the last closed one; without it, that is not checked.

    Returns:
        The quantiles, and `horizon` rows: `date` (datetime64[s]), `median`, `lower`, `upper` (USD; bounds of the
        central 80 %), `provisional` (the date is a guess, as in `tasks.prices.sessions.provisional`), and the numbers
        of `answers` and of `valid` ones, the same in all rows. If no answer was valid, the median is the last close. If
        fewer than `LEAST_FOR_BAND` were, the bounds are NaN, and there are no quantiles.

    Raises:
        FeaturesError: If the bars are not acceptable or too few.
        MarketDataError: If the exchange is unknown.
        TrainingError: If the model or the adapter cannot be used.
    """
    from tickerforge.evaluation.core.forecasts import collect_forecasts, nearest_thoughts
    from tickerforge.features.windows import latest_window
    from tickerforge.training.stages import answer_generator

    checked = _checked(bars, ticker=ticker, features=features, jumps=jumps)
    if known is not None and (problem := implausible(checked, known)):
        run_logger(__name__).warning(
            "%s: %s. If these are not prices of %s, pass the right ones; if it was split since, train it again.",
            ticker,
            problem,
            ticker,
        )
    if now is not None:
        calendar = calendar_of(ticker, checked["date"], exchange=exchange)
        last = checked["date"].iloc[-1].date()
        if calendar is not None and is_running(last, now, calendar=calendar):
            run_logger(__name__).warning(
                "%s: the last row, of %s, is left out: its session has not closed", ticker, last
            )
            checked = checked.iloc[:-1]
        if problem := stale_end(checked["date"].iloc[-1].date(), now, ticker=ticker, calendar=calendar):
            run_logger(__name__).warning("%s", problem)
    window = latest_window(checked, ticker=ticker, config=features)
    generate = answer_generator(
        base_model=base_model,
        adapter=adapter,
        config=training,
        horizon=features.horizon,
        seed=seed,
        on_progress=on_progress,
    )
    answers = collect_forecasts(
        window, generate, model="forecast", config=features, n_samples=training.sampling.samples
    ).iloc[0]
    median = np.asarray(answers["median"], float)
    samples = np.asarray(answers["samples"], float).reshape(-1, features.horizon)
    asked, valid = training.sampling.samples, len(samples)
    thoughts = nearest_thoughts(answers["thoughts"], samples, median)
    if recalibration is not None and len(samples):
        close, sigma = float(window["history"].iloc[0][-1]), float(recalibration.volatility.of(window)[0])
        samples, median = recalibrated(samples, median, origin_price=close, sigma=sigma, recalibration=recalibration)
    if problem := too_few_valid(valid, asked):
        run_logger(__name__).warning("%s: %s", ticker, problem)
    none = np.full(features.horizon, np.nan)
    lower, upper = forecast_band(samples) if valid >= LEAST_FOR_BAND else (none, none)
    table = _table(checked["date"], median, lower, upper, ticker=ticker, exchange=exchange)
    quantiles = issued_quantiles(samples) if valid >= LEAST_FOR_BAND else ()
    return NextForecast(table.assign(answers=asked, valid=valid), quantiles, thoughts)


class FreeForecast(NamedTuple):
    """The best free forecast: its forecaster, the reason, σ60 at the origin, and a table as `forecast_next` returns.

    `quantiles` are its own, and `reference` those of the random walk; see `issued_quantiles`.
    """

    model: str
    why: str
    sigma: float
    table: pd.DataFrame
    quantiles: Quantiles
    reference: Quantiles


def forecast_free(
    bars: pd.DataFrame, *, ticker: str, features: FeatureConfig, exchange: str = AUTO, jumps: JumpMode = "refuse"
) -> FreeForecast:
    """Forecast the next sessions by the free forecaster with the lowest CRPS on the validation windows.

    All are fitted on the train rows, as in a comparison. The table counts the members as answers, all valid.

    Args:
        bars: As for `forecast_next`.
        ticker: Name of the ticker.
        features: Settings of windows.
        exchange: As for `forecast_next`.
        jumps: As for `forecast_next`.

    Raises:
        FeaturesError: If the bars are not acceptable or too few for a train and a validation split.
        MarketDataError: If the exchange is unknown.
    """
    from tickerforge.evaluation.baselines.simple import baseline_forecasts
    from tickerforge.evaluation.comparison.compare import best_free
    from tickerforge.evaluation.core.frames import scoring_sigma
    from tickerforge.evaluation.core.labels import listed, model_label
    from tickerforge.features.splits import split_borders
    from tickerforge.features.windows import build_windows, latest_window

    checked = _checked(bars, ticker=ticker, features=features, jumps=jumps)
    windows = build_windows(checked, ticker=ticker, config=features)
    train = checked.iloc[: split_borders(len(checked), features).train_end]
    losses = best_free(windows, train=train)
    model = next(iter(losses))
    window = latest_window(checked, ticker=ticker, config=features)
    made = baseline_forecasts(window.assign(split="next"), windows=windows, train=train)
    by_model = made.set_index("model")
    median, samples = (np.asarray(by_model.loc[model, name], float) for name in ("median", "samples"))
    table = _table(checked["date"], median, *forecast_band(samples), ticker=ticker, exchange=exchange)
    others = listed([f"{loss:.3f} of {model_label(name)}" for name, loss in losses.items() if name != model])
    return FreeForecast(
        model=model,
        why=f"of the free forecasts it has the lowest CRPS on validation, {losses[model]:.3f} against {others}",
        sigma=float(scoring_sigma(window)[0]),
        table=table.assign(answers=len(samples), valid=len(samples)),
        quantiles=issued_quantiles(samples),
        reference=issued_quantiles(np.asarray(by_model.loc[RANDOM_WALK, "samples"], float)),
    )


def random_walk_quantiles(
    bars: pd.DataFrame, *, ticker: str, features: FeatureConfig, jumps: JumpMode = "refuse"
) -> Quantiles:
    """Return the quantiles of the random walk that an issued forecast is compared with; see `issued_quantiles`.

    Args:
        bars: As for `forecast_next`.
        ticker: Name of the ticker.
        features: Settings of windows.
        jumps: As for `forecast_next`.

    Raises:
        FeaturesError: If the bars are not acceptable or too few for a train split.
    """
    from tickerforge.evaluation.baselines.walks import fit_walks
    from tickerforge.features.windows import build_windows, latest_window

    checked = _checked(bars, ticker=ticker, features=features, jumps=jumps)
    walk = fit_walks(build_windows(checked, ticker=ticker, config=features))[RANDOM_WALK]
    window = latest_window(checked, ticker=ticker, config=features)
    return issued_quantiles(float(window["history"].iloc[0][-1]) * np.exp(walk.log_paths(window)[0]))


def issued_quantiles(samples: Floats) -> Quantiles:
    """Return the quantiles of sampled prices at `ISSUED_LEVELS`, by the same definition as the bounds of the band.

    Args:
        samples: USD, shape (n_samples, horizon).

    Returns:
        USD, shape (horizon, 19), to seven significant digits.
    """
    found = np.quantile(samples, ISSUED_LEVELS, axis=0, method="weibull").T
    return tuple(tuple(float(f"{price:.7g}") for price in session) for session in found)


def _checked(bars: pd.DataFrame, *, ticker: str, features: FeatureConfig, jumps: JumpMode) -> pd.DataFrame:
    """Return acceptable bars; the log names repairs and the jumps that were left."""
    from tickerforge.features.prices.bars import frame_bars
    from tickerforge.features.prices.dialects import in_words
    from tickerforge.features.prices.jumps import check_recent
    from tickerforge.features.prices.schemas import bar_columns

    read = frame_bars(bars, source=ticker)
    if read.repairs:
        run_logger(__name__).info("%s: read with repairs: %s", ticker, in_words(read.repairs))
    rests_on = max(features.sigma_window, features.context)
    columns, left = check_recent(bar_columns(read.bars), ticker=ticker, sessions=rests_on, mode=jumps)
    if left:
        run_logger(__name__).warning("%s: the adjusted close jumps: %s", ticker, "; ".join(map(str, left)))
    return pd.DataFrame(columns)


def _table(
    known: pd.Series, median: Floats, lower: Floats, upper: Floats, *, ticker: str, exchange: str
) -> pd.DataFrame:
    """Return a forecast, in USD, with the dates of the sessions after the known ones."""
    dates = next_sessions(known, count=len(median), ticker=ticker, exchange=exchange)
    guessed = provisional(dates, dates=known, ticker=ticker, exchange=exchange)
    return pd.DataFrame({"date": dates, "median": median, "lower": lower, "upper": upper, "provisional": guessed})


def too_few_valid(valid: int, answers: int) -> str:
    """Say that too few answers were valid to make a band; "" if there were enough."""
    if valid >= LEAST_FOR_BAND:
        return ""
    said = f"{valid or 'none'} of {answers} answers {'were' if valid > 1 else 'was'} valid"
    if not valid:
        return f"{said}, so the forecast is the last close, without a band"
    return f"{said}: no band, as {INTERVAL:.0%} need {LEAST_FOR_BAND} valid answers (training.sampling.samples)"


def forecast_band(samples: Floats) -> tuple[Floats, Floats]:
    """Return the bounds of the central 80 % of sampled prices, the band whose coverage the comparison reports.

    Args:
        samples: USD, shape (n_samples, horizon), at least one sample.

    Returns:
        Lower and upper bounds in USD, each of shape (horizon,).
    """
    from tickerforge.evaluation.metrics.accuracy import band

    return band(samples, interval=INTERVAL)
