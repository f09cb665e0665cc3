"""What prompts give away of a series: the same one under another name, at another time and at other prices."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from tickerforge.evaluation.core.panels import session_dates
from tickerforge.features.config import FeatureConfig
from tickerforge.features.prices.schemas import PRICE_COLUMNS
from tickerforge.features.prompts import render_all
from tickerforge.features.windows import build_windows

MASK = "MASKED"
SHIFT_DAYS = 364
FACTOR = 8.0
"""A power of two keeps every ratio to the last bit; another factor may turn a rounded half."""
CHANGES = ("masked", "shifted", "rescaled")


def prompts_changed(
    bars: Mapping[str, pd.DataFrame], asked: pd.DataFrame, *, features: FeatureConfig
) -> dict[str, int]:
    """How many of the prompts asked read otherwise once a series is renamed, moved in time, or multiplied.

    Where none does, the answers are the same, too: forecasts hang on the prompt alone.

    Args:
        bars: Bars of each ticker.
        asked: The windows asked, columns `ticker` and `origin`.
        features: What prompts show.

    Returns:
        Counts by the names of `CHANGES`.
    """
    changed = dict.fromkeys(CHANGES, 0)
    for ticker, rows in asked.groupby("ticker", sort=False):
        mine = bars[str(ticker)]
        windows = build_windows(mine, ticker=str(ticker), config=features)
        places = np.flatnonzero(np.isin(session_dates(windows["origin"]), session_dates(rows["origin"])))
        prompts = render_all(windows.iloc[places], config=features)
        others = {
            "masked": (mine, MASK),
            "shifted": (mine.assign(date=mine["date"] + pd.Timedelta(days=SHIFT_DAYS)), str(ticker)),
            "rescaled": (mine.assign(**{name: FACTOR * mine[name] for name in PRICE_COLUMNS}), str(ticker)),
        }
        for name, (other, called) in others.items():
            again = build_windows(other, ticker=called, config=features).iloc[places]
            pairs = zip(prompts, render_all(again, config=features), strict=True)
            changed[name] += sum(one != two for one, two in pairs)
    return changed


def probe_words(changed: Mapping[str, int], *, windows: int) -> str:
    """What the probe allows one to say, in one or two sentences."""
    counts = f"{changed['masked']}, {changed['shifted']} and {changed['rescaled']} of {windows} test prompts"
    probe = f"Under another name, {SHIFT_DAYS} days later and at {FACTOR:g} times the price {counts} read otherwise"
    if any(changed.values()):
        return f"{probe}: a base model may recognise what it was trained on, and what it forecasts there was not asked."
    return (
        f"{probe}, so that forecasts on the true series and on such ones are the same, a gap of nothing: the base "
        "model cannot have known ticker, time or price again. The shape of the returns it might."
    )
