"""Windows of several synthetic tickers whose histories begin and end on different dates."""

import numpy as np
import pandas as pd

from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.features.splits import split_borders
from tickerforge.features.synthetic import market
from tickerforge.features.windows import build_windows

FEATURES = FeatureConfig()
LIVES = {"EARLY": (0, 500), "LONG": (0, 600), "LATE": (100, 600)}


def ticker_bars(ticker: str) -> pd.DataFrame:
    """Build the bars of one of the tickers in `LIVES`, from its first session to its last."""
    first, last = LIVES[ticker]
    bars = market(SyntheticConfig(sessions=600, seed=list(LIVES).index(ticker)))
    return bars.iloc[first:last].reset_index(drop=True)


def ticker_windows(ticker: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Build the windows of that ticker, and the bars of its train split with a column `ticker`."""
    bars = ticker_bars(ticker)
    train = bars.iloc[: split_borders(len(bars), FEATURES).train_end].assign(ticker=ticker)
    return build_windows(bars, ticker=ticker, config=FEATURES), train


def last_targets(windows: pd.DataFrame, split: str) -> np.ndarray:
    """Return the last target date of each window of a split."""
    return np.stack(list(windows.loc[windows["split"] == split, "target_dates"]))[:, -1]
