"""A pooled ridge regression on volatility-scaled differences, as a rival for the protocol's test windows."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tickerforge.evaluation.core.contracts import Floats, Ints
from tickerforge.evaluation.core.protocol import HORIZON, Protocol, Series, common_border
from tickerforge.features.statistics import daily_sigma

DIFFERENCES = 10
PENALTIES = tuple(10.0**power for power in range(1, 8))
SIGMA_WINDOW, SIGMA_MIN = 60, 20


def ridge(protocol: Protocol) -> Floats:
    """One ridge regression for all tickers: (n, HORIZON) in USD.

    It maps the last `DIFFERENCES` daily log returns, each divided by the standard deviation σ of the 60 up to the
    origin, to the ten log returns from the origin, in σ (scikit-learn's `Ridge`, all distances at once, with an
    intercept, which is a common drift). It is fitted on the windows whose targets lie within the train rows; its
    penalty, one of `PENALTIES`, is the one with the smallest squared error on the validation windows. Of a ticker with
    a shorter history neither reaches beyond where the train and the validation rows of the first ticker end.

    Tickers without a σ at an origin, because their prices have not moved, are forecast by persistence.
    """
    from sklearn.linear_model import Ridge

    fitted = _sample(protocol.series, split="train")
    chosen = _sample(protocol.series, split="validation")
    models = [Ridge(alpha=penalty).fit(*fitted) for penalty in PENALTIES]
    if len(chosen[0]):
        losses = [float(np.mean(np.square(model.predict(chosen[0]) - chosen[1]))) for model in models]
    else:
        losses = [1 / penalty for penalty in PENALTIES]
    model = models[int(np.argmin(losses))]
    shown, sigma = (np.concatenate(part) for part in zip(*map(_test_inputs, protocol.series), strict=True))
    usable = np.isfinite(shown).all(axis=1)
    moves = np.zeros((len(shown), HORIZON))
    moves[usable] = model.predict(shown[usable]) * sigma[usable, None]
    return np.asarray(protocol.origin_price[:, None] * np.exp(moves))


def _test_inputs(series: Series) -> tuple[Floats, Floats]:
    return _inputs(series, series.test_origins)


def _inputs(series: Series, origins: Ints) -> tuple[Floats, Floats]:
    """Differences (k, DIFFERENCES) in σ and σ (k,) at these rows; NaN where they are not defined."""
    sigma = daily_sigma(series.prices, window=SIGMA_WINDOW, minimum=SIGMA_MIN)[origins]
    sigma = np.where(sigma > 0, sigma, np.nan)
    moves = np.concatenate([np.full(DIFFERENCES, np.nan), np.diff(np.log(series.prices))])
    return sliding_window_view(moves, DIFFERENCES)[origins] / sigma[:, None], sigma


def _sample(series: tuple[Series, ...], *, split: str) -> tuple[Floats, Floats]:
    """Inputs (k, DIFFERENCES) and what came (k, HORIZON), both in σ, of all tickers' windows of one split."""
    if split == "train":
        border = common_border(series)
    else:
        border = min(np.datetime64(each.dates[each.test_start - 1], "D") for each in series)
    inputs, targets = [], []
    for each in series:
        first, end = (0, each.train_end) if split == "train" else (each.train_end, each.test_start)
        origins = np.arange(max(first - 1, 0), end - HORIZON)
        origins = origins[each.dates[origins + HORIZON] <= border]
        shown, sigma = _inputs(each, origins)
        moves = np.log(each.after(origins) / each.prices[origins, None]) / sigma[:, None]
        usable = np.isfinite(shown).all(axis=1)
        inputs.append(shown[usable])
        targets.append(moves[usable])
    return np.concatenate(inputs), np.concatenate(targets)
