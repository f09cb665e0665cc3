"""What a model wrote before its answers, for the windows that a report draws."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tickerforge.evaluation.core.forecasts import nearest_thoughts
from tickerforge.evaluation.core.panels import Truth, session_dates
from tickerforge.evaluation.report.forecast_plots import drawn_rows

PER_WINDOW = 2


@dataclass(frozen=True)
class Thoughts:
    """The texts before the answers to one window, nearest to the median first; `window` is its ticker and origin."""

    window: str
    texts: tuple[str, ...]


def thoughts_of_windows(forecasts: pd.DataFrame, *, model: str, truth: Truth, count: int) -> Sequence[Thoughts]:
    """Return what a model wrote for the windows that a report draws; empty if it wrote nothing.

    Args:
        forecasts: Forecasts frame; without the column `thoughts`, or with missing values in it, nothing was written.
        model: The model that is drawn.
        truth: The windows of the split that is drawn.
        count: Number of windows, as for `forecast_panels`.
    """
    if "thoughts" not in forecasts:
        return ()
    mine = forecasts[(forecasts["model"] == model) & (forecasts["split"] == "test")]
    mine = mine.set_index([mine["ticker"].to_numpy(object), session_dates(mine["origin"])])
    found = []
    for row in drawn_rows(truth, count=count):
        ticker, origin = truth.tickers[row], truth.origins[row]
        answer = mine.loc[(ticker, origin)]
        if not isinstance(answer["thoughts"], list | np.ndarray) or not len(answer["samples"]):
            continue
        samples = np.stack([np.asarray(each, float) for each in answer["samples"]])
        texts = nearest_thoughts(list(answer["thoughts"]), samples, np.asarray(answer["median"], float))[:PER_WINDOW]
        if texts:
            found.append(Thoughts(f"{ticker}, {pd.Timestamp(origin):%-d %b %Y}", texts))
    return tuple(found)
