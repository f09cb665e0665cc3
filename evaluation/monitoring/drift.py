"""Drift: whether a model's inputs or its live error have left the range of its training and test data."""

import numpy as np
import pandas as pd

from tickerforge.evaluation.comparison.compare import select_windows
from tickerforge.evaluation.core.config import EvaluationConfig
from tickerforge.evaluation.core.contracts import Floats
from tickerforge.evaluation.core.errors import EvaluationError
from tickerforge.evaluation.core.frames import matrix
from tickerforge.evaluation.core.labels import p_text
from tickerforge.evaluation.core.panels import answers_of, judged_part, session_calendar, session_dates, truth_of
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
    """One measure: means, corrected p-value, and `effective`, the number of independent rows in the recent ones."""

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
    """Whether the recent windows of a ticker differ from those that its model was trained on."""

    ticker: str
    drifted: bool
    reference_windows: int
    recent_windows: int
    measures: tuple[MeasureDrift, ...]
    text: str


class ExpectedError(FrozenModel):
    """The live error that the test split predicts for a model; errors in daily variances.

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

    `ratio` is live over expected error, `limit` the largest plausible ratio (missing with too few forecasts), and
    `persistence_ratio` the same ratio for persistence. If both are large, the market moved more than its volatility
    suggested; if only the model's is large, the model got worse.
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

    There are four measures: the daily moves in σ as in the prompt (direction and shape), their size as log returns
    (volatility, which the σ units hide), the lag-1 correlation of a window's prices, and the RSI. Each is compared by
    the two-sample Kolmogorov-Smirnov test on rows that share no session (`context` − 1 sessions apart; 28 for the RSI,
    twice its period). Volatility clusters, so even those rows are not independent. The sample size is therefore divided
    by the factor by which means of stretches as long as the recent one vary more within the reference than means of
    independent rows (on ranks). The p-values are corrected by Holm's method; below 0.01 a measure counts as drifted.

    Simulated with the last 60 windows of 1100 sessions, 200 markets each: without drift there is an alarm in 1 % of the
    nights (random walk, mean reversion) or 2.5 % (GARCH; 20 % if its clusters counted as independent). A doubled
    volatility is found in 91 % of the cases, but in 15 % if it also doubles on its own from time to time (GARCH); a
    trend of 0.5 σ per session in 75 %, of 0.3 σ in 22 %.

    Args:
        reference: Windows frame of the train split of one ticker.
        recent: The last windows, after the reference, for example `RECENT_WINDOWS` of them. `target` may be missing.

    Returns:
        The result; nothing is drifted if there are fewer than 30 recent windows, or if the reference is less than 4
        times as long: random variation is then unknown.

    Raises:
        EvaluationError: Not one ticker, or recent windows that are not after the reference.
    """
    tickers = sorted({*reference["ticker"], *recent["ticker"]})
    if len(tickers) != 1:
        raise EvaluationError(f"input drift takes the windows of one ticker, not of {len(tickers)}: {tickers[:5]}")
    ticker, sizes = str(tickers[0]), (len(reference), len(recent))
    if sizes[1] < MIN_RECENT or sizes[0] < REFERENCE_TIMES * sizes[1]:
        text = (
            f"Drift of the market of {ticker} is not judged: {sizes[1]} recent windows against {sizes[0]}; at least "
            f"{MIN_RECENT} against {REFERENCE_TIMES} times as many are needed."
        )
        return _input_drift(ticker, sizes, [], text=text)
    if session_dates(recent["origin"]).min() <= session_dates(reference["origin"]).max():
        raise EvaluationError(f"{ticker}: the recent windows must be after the reference, the train split")
    measures = _compared(reference, recent)
    drifted = [measure for measure in measures if measure.drifted]
    if drifted:
        text = f"The inputs of the model of {ticker} have drifted: {'; '.join(measure.text for measure in drifted)}."
    else:
        nearest = min(measures, key=lambda measure: measure.p_value)
        text = f"No drift in the inputs of the model of {ticker}; closest to it: {nearest.text}."
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
    """Collect each measure's values in time order, from rows that share no session and include the newest window."""
    ordered = windows.sort_values("origin")
    # If windows are missing in the frame, the others are only further apart.
    rows = ordered.iloc[:: 1 - len(ordered["history"].iloc[0])].iloc[::-1]
    moves = np.diff(np.log(matrix(rows["history"])), axis=1)
    return {
        "moves": (moves / rows["sigma"].to_numpy(float)[:, None]).ravel(),
        "volatility": np.abs(moves).ravel(),
        "autocorrelation": rows["lag_1"].to_numpy(float),
        "rsi": ordered["rsi_14"].to_numpy(float)[::-RSI_MEMORY][::-1],
    }


def _inflation(values: Floats, *, length: int) -> float:
    """Return the variance of the mean of `length` consecutive values over that of independent ones; at least 1."""
    from scipy.stats import rankdata, zscore

    length = min(length, len(values) // REFERENCE_TIMES)
    scores = zscore(rankdata(values)) if np.ptp(values) > 0 and length > 1 else np.zeros(len(values))
    means = np.convolve(scores, np.full(max(length, 1), 1 / max(length, 1)), mode="valid")
    return max(1.0, float(length * np.square(means).mean() / (1 - length / len(values))))


def expected_error(
    windows: pd.DataFrame, forecasts: pd.DataFrame, *, model: str, config: EvaluationConfig
) -> ExpectedError:
    """Compute the error that the deciding part of the test split predicts; once, for a new champion.

    Computed again each night it would follow the live error, since the test split moves along.

    Args:
        windows: Windows frame of one ticker, as for `evaluation.comparison.compare.compare`.
        forecasts: Forecasts frame that holds `model` on the test split.
        model: The model's name in `forecasts`.
        config: The selection of windows.

    Raises:
        ForecastsError: The forecasts do not match the windows.
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
    """Compare the error of the issued forecasts with the error that the test split predicts.

    The mean of n independent squared errors with relative variance v is modelled as a gamma variable of shape n / v.
    Without drift, live over expected error then follows an F distribution with 2 n_live / v and 2 n_test / v degrees of
    freedom, which is right-skewed for few forecasts, as squared errors are. Overlapping windows count only as the
    independent ones among them, which is cautious. A ratio that chance exceeds in 1 of 100 nights counts as drift.

    Simulated with 300 test origins and 120 live ones, persistence as the model, 500 markets each: false alarms in 0.5 %
    of the nights (3 % for GARCH); three times the expected error is found in 47 to 79 % of the cases, twice the
    expected error in 19 to 31 %.

    Args:
        live: From `score_live`; all issued versions, because a ticker's versions differ far less than its markets.
        expected: From `expected_error` when the champion was promoted.

    Returns:
        The result; never drifted with fewer than 4 independent live windows, or if the test split has no error.
    """
    from scipy.stats import f

    if live.scaled_mse is None or live.independent < MIN_INDEPENDENT or not expected.relative_variance:
        text = (
            f"The live error of {live.ticker} is not judged: {live.independent} independent forecasts are complete, "
            f"{MIN_INDEPENDENT} are needed."
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
            f"The live squared error of {live.ticker} is {ratio:.2f} times that of the test split (persistence's: "
            f"{still:.2f} times) over {live.independent} independent forecasts; up to {limit:.2f} can be chance"
            f"{': the error has drifted.' if ratio > limit else '.'}"
        ),
    )
