"""All figures of one model on one split, by the names in reports."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from tickerforge.evaluation.core.contracts import Floats
from tickerforge.evaluation.core.panels import Answers, Truth, matrix
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
from tickerforge.evaluation.metrics.calibration import Distribution, distribution


def naive_errors(windows: pd.DataFrame) -> dict[str, float]:
    """Compute each ticker's mean absolute error of persistence over its train windows and sessions ahead, in USD.

    Args:
        windows: Windows frame; the result lacks tickers without train windows or whose prices did not move there.
    """
    train = windows[windows["split"] == "train"]
    if train.empty:
        return {}
    missed = np.abs(matrix(train["target"]) - matrix(train["history"])[:, -1:]).mean(axis=1)
    means = pd.Series(missed).groupby(train["ticker"].to_numpy(object)).mean()
    return {str(ticker): float(error) for ticker, error in means.items() if error > 0}


def score(
    truth: Truth, answers: Answers, *, interval: float, naive: Mapping[str, float] | None = None
) -> tuple[dict[str, float | None], Distribution]:
    """Compute every metric of one model on one split that needs no other model, and the fit of its distribution.

    Args:
        truth: The actual prices.
        answers: The model's forecasts.
        interval: Nominal coverage of the band.
        naive: From `naive_errors`, for `mase`.

    Returns:
        `mse mae` (published protocol: z-scores of the train split; for several tickers each one's, then their mean),
        `rmse_usd mae_usd`, `mase`, `scaled_mse` (daily variances), `directional_accuracy`, `mcc`, `rank_ic`, `crps` and
        `pinball` (log returns in daily standard deviations). If answers were sampled, also `coverage` of the band and
        its `width`, `coverage_50 coverage_80 coverage_95`, `valid_rate` and `answered` (share of windows with a valid
        answer). A metric that does not apply is `None`.
    """
    target, forecast = truth.target, answers.median
    z = [standardised(prices, mean=truth.train_mean, std=truth.train_std) for prices in (target, forecast)]
    each_ticker = [[part[truth.tickers == ticker] for part in z] for ticker in np.unique(truth.tickers)]
    sampled = bool(answers.n_samples.sum())
    fit = distribution(truth, answers, interval=interval)
    moved, expected = (np.log(prices[:, -1] / truth.origin_price) / truth.sigma for prices in (target, forecast))
    return {
        "mse": float(np.mean([mse(*part) for part in each_ticker])),
        "mae": float(np.mean([mae(*part) for part in each_ticker])),
        "rmse_usd": rmse(target, forecast),
        "mae_usd": mae(target, forecast),
        "mase": _mase(truth, forecast, naive=naive or {}),
        "scaled_mse": float(scaled_errors(target, forecast, sigma=truth.sigma).mean()),
        "directional_accuracy": directional_accuracy(target, forecast, origin_price=truth.origin_price),
        "mcc": matthews(moved, expected),
        "rank_ic": rank_correlation(moved, expected),
        "crps": fit.crps,
        "pinball": fit.pinball,
        "coverage": fit.coverage[interval] if sampled else None,
        "coverage_50": fit.coverage[0.5] if sampled else None,
        "coverage_80": fit.coverage[0.8] if sampled else None,
        "coverage_95": fit.coverage[0.95] if sampled else None,
        "width": fit.width if sampled else None,
        "valid_rate": valid_rate(answers.n_valid, answers.n_samples) if sampled else None,
        "answered": float(np.mean(answers.n_valid > 0)) if sampled else None,
    }, fit


def _mase(truth: Truth, forecast: Floats, *, naive: Mapping[str, float]) -> float | None:
    """Compute `mase` over the windows of tickers with a known scale."""
    scale = np.array([naive.get(str(ticker), np.nan) for ticker in truth.tickers])
    known = ~np.isnan(scale)
    return mase(truth.target[known], forecast[known], scale=scale[known]) if known.any() else None
