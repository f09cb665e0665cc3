"""Classical forecasters of single series from statsforecast, fitted on the train rows and rolled forward."""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from tickerforge.evaluation.core.contracts import Floats
from tickerforge.evaluation.core.errors import BaselineUnavailable, EvaluationError
from tickerforge.evaluation.core.protocol import HORIZON, Protocol, Series

CLASSICAL = ("ets", "theta", "arima")


def classical(protocol: Protocol, name: str, *, on_ticker: Callable[[str], None] = lambda ticker: None) -> Floats:
    """ETS, Theta or AutoARIMA, one model a ticker: (n, HORIZON) in USD.

    The model (statsforecast's `AutoETS`, `AutoTheta` or `AutoARIMA` without a season) is chosen and fitted on the logs
    of the ticker's train prices. Each forecast applies it, unchanged, to all prices up to the origin.

    Args:
        protocol: The windows.
        name: One of `CLASSICAL`.
        on_ticker: Told of each ticker before its turn; they take seconds each.

    Raises:
        BaselineUnavailable: statsforecast is not installed.
        EvaluationError: There is no such forecaster.
    """
    check_classical(name)
    forecasts = []
    for series in protocol.series:
        on_ticker(series.ticker)
        forecasts.append(_rolled(series, _model(name)))
    return np.concatenate(forecasts)


def check_classical(name: str) -> None:
    """Refuse a forecaster that `classical` could not make; errors as there."""
    if name not in CLASSICAL:
        raise EvaluationError(f"there is no classical forecaster {name!r}: there are {', '.join(CLASSICAL)}")
    if importlib.util.find_spec("statsforecast") is None:
        raise BaselineUnavailable(f"the baseline {name} needs statsforecast: pip install 'tickerforge[classical]'")


def _model(name: str) -> Any:
    from statsforecast.models import AutoARIMA, AutoETS, AutoTheta

    models = {"ets": AutoETS, "theta": AutoTheta, "arima": AutoARIMA}
    return models[name](season_length=1)


def _rolled(series: Series, model: Any) -> Floats:
    """Forecasts of all test windows of one ticker, shape (k, HORIZON) in USD."""
    logs = np.log(series.prices)
    fitted = model.fit(logs[: series.train_end])
    means = [fitted.forward(y=logs[: row + 1], h=HORIZON)["mean"] for row in series.test_origins]
    return np.exp(np.array(means, dtype=float))
