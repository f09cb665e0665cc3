"""The published layout computed window by window with plain pandas and TA-Lib, to compare the exporter with.

    python tests/support/published_layout.py        # writes the excerpt in tests/features/published again

Nothing of `tickerforge` is used to compute the tables; only the prices come from its synthetic market.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import talib

EXCERPT = Path(__file__).parents[1] / "features" / "published"
STOCK = "DEMO"
LENGTH = 10
PERIOD = 5


def published_rows(prices: pd.DataFrame, *, stock: str) -> pd.DataFrame:
    """Compute every row of both sides, each cell a list of numbers.

    Args:
        prices: A price file as `pandas.read_csv` reads it.
        stock: Name of the ticker.

    Returns:
        `side` (x or y), the value columns, `stock`, and `split` (train_val or test).
    """
    n_rows = len(prices)
    borders = [0, int(n_rows * 0.7), n_rows - int(n_rows * 0.2), n_rows]
    train = prices["Adj Close"].iloc[: borders[1]]
    z = (prices[["Adj Close", "High", "Low", "Close"]] - train.mean()) / train.std(ddof=0)
    rows = []
    for split, begin, end in zip(("train_val", "train_val", "test"), borders, borders[1:], strict=False):
        for first_target in range(max(begin, LENGTH), end - LENGTH + 1):
            for side, first in (("x", first_target - LENGTH), ("y", first_target)):
                window = z.iloc[first : first + LENGTH]
                rows.append({"side": side, **dict(_cells(window)), "stock": stock, "split": split})
    return pd.DataFrame(rows)


def _cells(window: pd.DataFrame) -> Iterator[tuple[str, list[float]]]:
    values = window["Adj Close"].tolist()
    by_value = sorted(range(LENGTH), key=values.__getitem__)
    middle = by_value[(LENGTH - 1) // 2]
    yield "sequence", values
    yield from (("min", [min(values)]), ("min_timestep", [values.index(min(values))]))
    yield from (("max", [max(values)]), ("max_timestep", [values.index(max(values))]))
    yield from (("mean", [sum(values) / LENGTH]), ("median", [values[middle]]), ("median_timestep", [middle]))
    high, low, close = (window[name].to_numpy() for name in ("High", "Low", "Close"))
    stoch_k, stoch_d = talib.STOCH(high, low, close, fastk_period=PERIOD, slowk_period=3, slowd_period=3)
    upper, middle_band, lower = talib.BBANDS(close, timeperiod=PERIOD, nbdevup=2.0, nbdevdn=2.0)
    indicators = {
        "sma": talib.SMA(close, timeperiod=PERIOD),
        "ema": talib.EMA(close, timeperiod=PERIOD),
        "mom": talib.MOM(close, timeperiod=PERIOD),
        "stoch_k": stoch_k,
        "stoch_d": stoch_d,
        "rsi": talib.RSI(close, timeperiod=PERIOD),
        "macd": talib.MACD(close, fastperiod=2, slowperiod=PERIOD, signalperiod=2)[0],
        "willr": talib.WILLR(high, low, close, timeperiod=PERIOD),
        "cci": talib.CCI(high, low, close, timeperiod=PERIOD),
        "adx": talib.ADX(high, low, close, timeperiod=PERIOD),
        "bbands_upper": upper,
        "bbands_middle": middle_band,
        "bbands_lower": lower,
    }
    for name, found in indicators.items():
        yield name, found[np.isfinite(found)].tolist()


def write_excerpt(folder: Path) -> None:
    """Write prices with a split and a dividend in their history, and the rows; rounded, so that the files are small."""
    from tickerforge.features.config import SyntheticConfig
    from tickerforge.features.synthetic import market
    from tickerforge.tasks.prices.price_files import as_csv

    bars = market(SyntheticConfig(process="momentum", phi=0.3, sessions=200, seed=11))
    bars.loc[:69, "adj_close"] *= 0.25
    bars.loc[:149, "adj_close"] *= 0.99
    (folder / f"{STOCK}.csv").write_bytes(as_csv(bars.set_index("date").round(2).reset_index()))
    rows = published_rows(pd.read_csv(folder / f"{STOCK}.csv"), stock=STOCK)
    cells = rows.columns.difference(["side", "stock", "split"])
    rows[cells] = rows[cells].map(lambda cell: np.round(cell, 10))
    rows.to_parquet(folder / f"{STOCK}.parquet", index=False, compression="zstd", compression_level=19)


if __name__ == "__main__":
    write_excerpt(EXCERPT)
