"""All figures of one model on one split, by the names in reports."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tickerforge.evaluation.core.contracts import Floats
from tickerforge.evaluation.core.frames import matrix, realised_variances, squared_returns
from tickerforge.evaluation.core.panels import Answers, Truth, completed
from tickerforge.evaluation.metrics.accuracy import (
    directional_accuracy,
    mae,
    mase,
    matthews,
    mse,
    rank_correlation,
    rmse,
    scaled_errors,
    standardised,
    valid_rate,
)
from tickerforge.evaluation.metrics.calibration import TAILS, Distribution, distribution
from tickerforge.evaluation.metrics.risk import qlike, tail_test

_SMALLEST_VARIANCE = 1e-4
"""In daily variances; a smaller one would decide the mean of `qlike` alone."""
_LEVEL = 0.05


@dataclass(frozen=True)
class Scales:
    """The size of moves on each ticker's train windows.

    `naive` is the mean absolute error of persistence in USD, without tickers whose prices did not move. `ranges` is the
    mean squared return over the mean range variance; without train windows it is that of all tickers, or 1.
    """

    naive: Mapping[str, float]
    ranges: Mapping[str, float]


def scales_of(windows: pd.DataFrame) -> Scales:
    """Compute the scales of all tickers of a windows frame from its train split."""
    train = windows[windows["split"] == "train"]
    tickers = [str(ticker) for ticker in windows["ticker"].unique()]
    if train.empty:
        return Scales({}, dict.fromkeys(tickers, 1.0))
    missed = np.abs(matrix(train["target"]) - matrix(train["history"])[:, -1:]).mean(axis=1)
    squares, ranges = squared_returns(train).mean(axis=1), realised_variances(train).mean(axis=1)
    parts = pd.DataFrame({"missed": missed, "squares": squares, "ranges": ranges})
    means = parts.groupby(train["ticker"].to_numpy(object)).mean()
    together = float(squares.mean() / ranges.mean()) if ranges.any() else 1.0
    factors = (means["squares"] / means["ranges"]).where(means["ranges"] > 0, together)
    return Scales(
        naive={str(ticker): float(error) for ticker, error in means["missed"].items() if error > 0},
        ranges=dict.fromkeys(tickers, together) | {str(ticker): float(value) for ticker, value in factors.items()},
    )


def score(
    truth: Truth, answers: Answers, *, interval: float, scales: Scales | None = None, walk: Answers | None = None
) -> tuple[dict[str, float | None], Distribution]:
    """Compute every metric of one model on one split that needs no other model, and the fit of its distribution.

    Args:
        truth: The actual prices.
        answers: The model's forecasts.
        interval: Nominal coverage of the band.
        scales: From `scales_of`, for `mase` and `qlike`.
        walk: The random walk's forecasts, whose distribution a window without a valid answer gets; without them it is
            scored as its point forecast.

    Returns:
        `mse mae` (published protocol: z-scores of the train split; for several tickers each one's, then their mean),
        `rmse_usd mae_usd`, `mase`, `scaled_mse` (daily variances), `directional_accuracy`, `mcc`, `rank_ic`, `crps` and
        `pinball` (log returns in daily standard deviations). If there are samples, also `coverage` of the band and
        its `width`, `coverage_50 coverage_80 coverage_95`, `valid_rate`, `answered` (share of windows with a valid
        answer) and `members` (mean number of valid samples); `qlike` and `qlike_squared` of the variance over the
        horizon, measured by ranges and by squared returns; and the figures of `_tails`. A metric that does not apply is
        `None`.
    """
    target, forecast = truth.target, answers.median
    z = [standardised(prices, mean=truth.train_mean, std=truth.train_std) for prices in (target, forecast)]
    each_ticker = [[part[truth.tickers == ticker] for part in z] for ticker in np.unique(truth.tickers)]
    sampled = bool(answers.n_samples.sum())
    scales = scales or Scales({}, {})
    fit = distribution(truth, answers if walk is None else completed(answers, walk), interval=interval)
    moved, expected = (np.log(prices[:, -1] / truth.origin_price) / truth.sigma for prices in (target, forecast))
    return {
        "mse": float(np.mean([mse(*part) for part in each_ticker])),
        "mae": float(np.mean([mae(*part) for part in each_ticker])),
        "rmse_usd": rmse(target, forecast),
        "mae_usd": mae(target, forecast),
        "mase": _mase(truth, forecast, naive=scales.naive),
        "scaled_mse": float(scaled_errors(target, forecast, sigma=truth.sigma).mean()),
        "directional_accuracy": directional_accuracy(target, forecast, origin_price=truth.origin_price),
        "mcc": matthews(moved, expected),
        "rank_ic": rank_correlation(moved, expected),
        "crps": float(fit.crps.mean()),
        "pinball": fit.pinball,
        "coverage": fit.coverage[interval] if sampled else None,
        "coverage_50": fit.coverage[0.5] if sampled else None,
        "coverage_80": fit.coverage[0.8] if sampled else None,
        "coverage_95": fit.coverage[0.95] if sampled else None,
        "width": fit.width if sampled else None,
        "valid_rate": valid_rate(answers.n_valid, answers.n_samples) if sampled else None,
        "answered": float(np.mean(answers.n_valid > 0)) if sampled else None,
        "members": float(answers.n_members.mean()) if sampled else None,
        **_volatility(truth, fit.variance, sampled=sampled, ranges=scales.ranges),
        **_tails(truth, fit.below),
    }, fit


def _volatility(
    truth: Truth, variance: Floats, *, sampled: bool, ranges: Mapping[str, float]
) -> dict[str, float | None]:
    """Compute `qlike` by ranges, scaled to the variance of returns on train, and by squared returns.

    A window without a sample has the variance σ60².
    """
    if not sampled:
        return {"qlike": None, "qlike_squared": None}
    expected = np.maximum(np.where(np.isnan(variance), 1.0, variance), _SMALLEST_VARIANCE)
    path = np.log(np.concatenate([truth.origin_price[:, None], truth.target], axis=1))
    factor = np.array([ranges.get(str(ticker), 1.0) for ticker in truth.tickers])
    measured = {
        "qlike": factor * truth.variance.mean(axis=1),
        "qlike_squared": np.square(np.diff(path, axis=1)).mean(axis=1),
    }
    return {
        name: float(qlike(expected, np.maximum(value / truth.sigma**2, _SMALLEST_VARIANCE)).mean())
        for name, value in measured.items()
    }


def _tails(truth: Truth, below: Floats) -> dict[str, float | None]:
    """Compute the figures of the value at risk of the next session, at 1 % and at 5 %.

    Returns:
        `var_1`, the share of next prices below the 1 % quantile; `kupiec_1` and `christoffersen_1`, the p-values of one
        ticker (`evaluation.metrics.risk.tail_test`); `var_1_rejected`, the share of a pool's tickers whose
        Christoffersen test rejects at 5 %, of those with this test; the same for 5 %. Missing with too few samples for
        the quantile, and what needs Christoffersen's test, without windows that follow each other session by session.
    """
    found: dict[str, float | None] = {}
    tickers = np.unique(truth.tickers)
    for place, tail in enumerate(TAILS):
        name, hits = f"{100 * tail:.0f}", below[:, place]
        known = ~np.isnan(hits)
        whole = bool(known.mean() > 1 - _LEVEL)
        tests = [
            tail_test(hits[mine], follow_each_other=_follow_each_other(truth, mine), tail=tail)
            for ticker in (tickers if whole else ())
            if (mine := known & (truth.tickers == ticker)).any()
        ]
        runs = [test.christoffersen for test in tests if test.christoffersen is not None]
        alone = tests[0] if len(tests) == 1 else None
        found |= {
            f"var_{name}": float(hits[known].mean()) if whole else None,
            f"kupiec_{name}": alone.kupiec if alone else None,
            f"christoffersen_{name}": alone.christoffersen if alone else None,
            f"var_{name}_rejected": float(np.mean(np.array(runs) < _LEVEL)) if len(tests) > 1 and runs else None,
        }
    return found


def _follow_each_other(truth: Truth, rows: NDArray[np.bool_]) -> bool:
    """Return whether each window of a ticker, but the first, begins at the first target session of the one before."""
    return bool((truth.target_dates[rows][:-1, 0] == truth.origins[rows][1:]).all())


def _mase(truth: Truth, forecast: Floats, *, naive: Mapping[str, float]) -> float | None:
    """Compute `mase` over the windows of tickers with a known scale."""
    scale = np.array([naive.get(str(ticker), np.nan) for ticker in truth.tickers])
    known = ~np.isnan(scale)
    return mase(truth.target[known], forecast[known], scale=scale[known]) if known.any() else None
