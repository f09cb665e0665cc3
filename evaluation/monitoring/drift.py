"""Has the market left what the model was trained on: what the model sees, and the error it makes."""

import numpy as np
import pandas as pd

from tickerforge.evaluation.comparison.compare import select_windows
from tickerforge.evaluation.core.config import EvaluationConfig
from tickerforge.evaluation.core.contracts import Floats
from tickerforge.evaluation.core.errors import EvaluationError
from tickerforge.evaluation.core.labels import p_text
from tickerforge.evaluation.core.panels import (
    answers_of,
    judged_part,
    matrix,
    session_calendar,
    session_dates,
    truth_of,
)
from tickerforge.evaluation.evidence.significance import MIN_INDEPENDENT, holm, independent_rows
from tickerforge.evaluation.metrics.accuracy import scaled_errors
from tickerforge.evaluation.monitoring.live import LiveScores
from tickerforge.features.config import FrozenModel

RECENT_WINDOWS = 60
ALARM = 0.01
MIN_RECENT = 30
REFERENCE_TIMES = 4
RSI_MEMORY = 28


class MeasureDrift(FrozenModel):
    """One measure's means, its corrected p-value, and how many independent rows the recent ones are worth."""

    name: str
    reference: float
    recent: float
    statistic: float
    p_value: float
    drifted: bool
    rows: int
    effective: float
    text: str


class InputDrift(FrozenModel):
    """Whether the recent windows of a ticker look unlike those it was trained on."""

    ticker: str
    drifted: bool
    reference_windows: int
    recent_windows: int
    measures: tuple[MeasureDrift, ...]
    text: str


class ExpectedError(FrozenModel):
    """What the comparison's test split leads one to expect of a model live; errors in daily variances.

    `relative_variance` is the variance of one window's loss over the squared mean loss.
    """

    ticker: str
    model: str
    scaled_mse: float
    persistence: float
    relative_variance: float
    windows: int
    independent: int


class ErrorDrift(FrozenModel):
    """Whether the live error is larger than the test split makes plausible.

    `ratio` is live over expected error, `limit` the largest plausible ratio (missing where too little has arrived),
    `persistence_ratio` the same ratio of persistence: where both are large, the market moved more than its volatility
    promised; where only the model's is, the model got worse.
    """

    ticker: str
    drifted: bool
    ratio: float | None
    limit: float | None
    persistence_ratio: float | None
    p_value: float
    independent: int
    text: str


_WORDS: dict[str, tuple[str, str]] = {
    "moves": ("mean daily move", "{:+.2f} σ"),
    "volatility": ("mean size of a daily move", "{:.2%}"),
    "autocorrelation": ("mean lag-1 correlation of a window's prices", "{:.2f}"),
    "rsi": ("mean RSI", "{:.0f}"),
}


def input_drift(reference: pd.DataFrame, recent: pd.DataFrame) -> InputDrift:
    """Compare what the model sees now with what it was trained on.

    Four measures: the daily moves in σ as the prompt shows them (direction and shape), their size as log returns
    (volatility against its own history, which the σ units hide), the lag-1 correlation of a window's prices, and the
    RSI. Each by the two-sample Kolmogorov-Smirnov test on rows that share no session (`context` − 1 sessions apart;
    28 for the RSI, twice its period). Volatility clusters, so that even those rows are not independent: the size of
    the samples is divided by how much more the means of stretches as long as the recent one vary within the reference
    than independent rows' would (on ranks). The p-values are corrected by Holm's method, and below 0.01 a measure
    counts as drifted.

    Simulated with the last 60 windows of 1100 sessions, 200 markets each: without drift an alarm in 1 % of the nights
    (random walk, mean reversion) or 2.5 % (GARCH; 20 % if its clusters were taken as independent). Doubled volatility
    is found in 91 % of the cases, but in 15 % where it doubles by itself now and then (GARCH); a trend of 0.5 σ a
    session in 75 %, of 0.3 σ in 22 %.

    Args:
        reference: Windows frame of the train split of one ticker.
        recent: The last windows, after the reference; `RECENT_WINDOWS` is a good number. `target` may be missing.

    Returns:
        The result; nothing is drifted where there are fewer than 30 recent windows or the reference is less than 4
        times as long, since chance variation is then unknown.

    Raises:
        EvaluationError: Not one ticker, or recent windows that are not after the reference.
    """
    tickers = sorted({*reference["ticker"], *recent["ticker"]})
    if len(tickers) != 1:
        raise EvaluationError(f"input drift takes the windows of one ticker, not of {len(tickers)}: {tickers[:5]}")
    ticker, sizes = str(tickers[0]), (len(reference), len(recent))
    if sizes[1] < MIN_RECENT or sizes[0] < REFERENCE_TIMES * sizes[1]:
        text = (
            f"Whether the market of {ticker} has drifted is not judged: {sizes[1]} recent windows against {sizes[0]}, "
            f"where at least {MIN_RECENT} against {REFERENCE_TIMES} times as many are needed."
        )
        return _input_drift(ticker, sizes, [], text=text)
    if session_dates(recent["origin"]).min() <= session_dates(reference["origin"]).max():
        raise EvaluationError(f"{ticker}: the recent windows must lie after the reference, the train split")
    measures = _compared(reference, recent)
    drifted = [measure for measure in measures if measure.drifted]
    if drifted:
        text = f"What the model of {ticker} sees has drifted: {'; '.join(measure.text for measure in drifted)}."
    else:
        nearest = min(measures, key=lambda measure: measure.p_value)
        text = f"No drift in what the model of {ticker} sees; nearest to it: {nearest.text}."
    return _input_drift(ticker, sizes, measures, text=text)


def _input_drift(ticker: str, sizes: tuple[int, int], measures: list[MeasureDrift], *, text: str) -> InputDrift:
    return InputDrift(
        ticker=ticker,
        drifted=any(measure.drifted for measure in measures),
        reference_windows=sizes[0],
        recent_windows=sizes[1],
        measures=tuple(measures),
        text=text,
    )


def _compared(reference: pd.DataFrame, recent: pd.DataFrame) -> list[MeasureDrift]:
    from scipy.stats import ks_2samp, kstwo

    found, raw = [], []
    before, now = _measured(reference), _measured(recent)
    for name in _WORDS:
        test = ks_2samp(before[name], now[name])
        inflation = _inflation(before[name], length=len(now[name]))
        size = len(before[name]) * len(now[name]) / (len(before[name]) + len(now[name])) / inflation
        dependent = float(kstwo.sf(test.statistic, max(1, round(size)))) if inflation > 1 else 0.0
        found.append((float(test.statistic), len(now[name]) / inflation))
        raw.append(max(float(test.pvalue), dependent))
    measures = []
    for name, (statistic, effective), p_value in zip(_WORDS, found, holm(raw), strict=True):
        means = float(before[name].mean()), float(now[name].mean())
        label, form = _WORDS[name]
        measures.append(
            MeasureDrift(
                name=name,
                reference=means[0],
                recent=means[1],
                statistic=statistic,
                p_value=p_value,
                drifted=p_value < ALARM,
                rows=len(now[name]),
                effective=effective,
                text=f"{label} {form.format(means[0])} in training, {form.format(means[1])} now ({p_text(p_value)})",
            )
        )
    return measures


def _measured(windows: pd.DataFrame) -> dict[str, Floats]:
    """Each measure's values in time order, from rows that share no session and hold the newest window."""
    ordered = windows.sort_values("origin")
    # Windows left out of the frame only move the rest further apart.
    rows = ordered.iloc[:: 1 - len(ordered["history"].iloc[0])].iloc[::-1]
    moves = np.diff(np.log(matrix(rows["history"])), axis=1)
    return {
        "moves": (moves / rows["sigma"].to_numpy(float)[:, None]).ravel(),
        "volatility": np.abs(moves).ravel(),
        "autocorrelation": rows["lag_1"].to_numpy(float),
        "rsi": ordered["rsi_14"].to_numpy(float)[::-RSI_MEMORY][::-1],
    }


def _inflation(values: Floats, *, length: int) -> float:
    """How much more the mean of a stretch of `length` values varies than that of independent ones; at least 1."""
    from scipy.stats import rankdata, zscore

    length = min(length, len(values) // REFERENCE_TIMES)
    scores = zscore(rankdata(values)) if np.ptp(values) > 0 and length > 1 else np.zeros(len(values))
    means = np.convolve(scores, np.full(max(length, 1), 1 / max(length, 1)), mode="valid")
    return max(1.0, float(length * np.square(means).mean() / (1 - length / len(values))))


def expected_error(
    windows: pd.DataFrame, forecasts: pd.DataFrame, *, model: str, config: EvaluationConfig
) -> ExpectedError:
    """What the test split, or what of it decides, says of a model's error; to be taken once, for a new champion.

    Taken anew each night it would follow the live error, since the test split moves along.

    Args:
        windows: Windows frame of one ticker, as for `evaluation.comparison.compare.compare`.
        forecasts: Forecasts frame that holds `model` on the test split.
        model: The model's name in `forecasts`.
        config: Which windows are selected.

    Raises:
        ForecastsError: The forecasts do not fit the windows.
    """
    selected = select_windows(windows, config=config)
    truth = truth_of(selected, split="test", calendar=session_calendar(windows))
    answers = answers_of(forecasts, model=model, truth=truth)
    truth, (answers,) = judged_part(truth, [answers], cut_off=config.test_after)
    loss = scaled_errors(truth.target, answers.median, sigma=truth.sigma).mean(axis=1)
    still = np.broadcast_to(truth.origin_price[:, None], truth.target.shape)
    mean = float(loss.mean())
    return ExpectedError(
        ticker=truth.ticker,
        model=model,
        scaled_mse=mean,
        persistence=float(scaled_errors(truth.target, still, sigma=truth.sigma).mean()),
        relative_variance=float(loss.var() / mean**2) if mean else 0.0,
        windows=len(loss),
        independent=len(independent_rows(truth.positions, horizon=truth.horizon)),
    )


def error_drift(live: LiveScores, expected: ExpectedError) -> ErrorDrift:
    """Compare the error of the issued forecasts with what the test split promised.

    A mean of n independent squared errors with relative variance v is taken as a gamma variable of shape n / v, so that
    live over expected error follows, without drift, an F distribution with 2 n_live / v and 2 n_test / v degrees of
    freedom: right-skewed where little has arrived, as squared errors are. Overlapping windows count as the independent
    ones among them, which is on the safe side. Drift is a ratio that chance exceeds in 1 of 100 nights.

    Simulated with 300 test origins and 120 live ones, persistence as the model, 500 markets each: false alarms in 0.5 %
    of the nights (3 % for GARCH); an error three times the expected is found in 47 to 79 % of the cases, a doubled one
    in 19 to 31 %.

    Args:
        live: From `score_live`; all versions that were issued, as a ticker's versions differ far less than its markets.
        expected: From `expected_error`, taken when the champion was promoted.

    Returns:
        The result; never drifted with fewer than 4 independent live windows, or where the test split shows no error.
    """
    from scipy.stats import f

    if live.scaled_mse is None or live.independent < MIN_INDEPENDENT or not expected.relative_variance:
        text = (
            f"Whether the live error of {live.ticker} is larger than expected is not judged: {live.independent} "
            f"independent forecasts have arrived, {MIN_INDEPENDENT} are needed."
        )
        return ErrorDrift(
            ticker=live.ticker,
            drifted=False,
            ratio=None,
            limit=None,
            persistence_ratio=None,
            p_value=1.0,
            independent=live.independent,
            text=text,
        )
    degrees = [2 * count / expected.relative_variance for count in (live.independent, expected.independent)]
    ratio = live.scaled_mse / expected.scaled_mse
    limit, p_value = float(f.isf(ALARM, *degrees)), float(f.sf(ratio, *degrees))
    still = (live.persistence or 0.0) / expected.persistence
    return ErrorDrift(
        ticker=live.ticker,
        drifted=ratio > limit,
        ratio=ratio,
        limit=limit,
        persistence_ratio=still,
        p_value=p_value,
        independent=live.independent,
        text=(
            f"The live squared error of {live.ticker} is {ratio:.2f} times what the test split showed (persistence's: "
            f"{still:.2f} times) over {live.independent} independent forecasts; up to {limit:.2f} is chance"
            f"{': it has drifted.' if ratio > limit else '.'}"
        ),
    )
