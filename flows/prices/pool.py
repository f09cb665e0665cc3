"""The data of a run: one ticker's, or that of all tickers of a folder as one pool."""

import logging

from pydantic import Field

from tickerforge.features.config import FrozenModel
from tickerforge.features.pooling import POOL
from tickerforge.flows.prices.preprocess import preprocess
from tickerforge.flows.settings.config import PipelineConfig, pool_folder
from tickerforge.tasks.base.errors import MarketDataError
from tickerforge.tasks.prices.folders import pool_tickers
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.windows.preprocess import store_pool

logger = logging.getLogger(__name__)


class RunData(FrozenModel):
    """Bars and windows of a run.

    Attributes:
        bars: The ticker's bars; of a pool, those of one of its tickers, in the same artifact as the windows.
        windows: The windows of the ticker or of all pooled tickers.
        pooled_bars: The bars of each pooled ticker.
        left_out: Ticker that the pool could not use → the reason.
    """

    bars: ArtifactRef
    windows: ArtifactRef
    pooled_bars: tuple[ArtifactRef, ...] = ()
    left_out: dict[str, str] = Field(default={})

    @property
    def all_bars(self) -> tuple[ArtifactRef, ...]:
        """The bars of every ticker in the windows."""
        return self.pooled_bars or (self.bars,)


def pooled_data(config: PipelineConfig, *, store: Store) -> RunData:
    """Store the windows of all tickers of the data folder as one artifact; inside a flow.

    A faulty ticker is left out, and the log and the result name it: a pool without it is better than none.

    Raises:
        ConfigError: As `flows.settings.config.pool_folder`.
        MarketDataError: As `tasks.prices.market_data.pool_tickers`, and if fewer than two tickers can be used.
    """
    folder = pool_folder(config)
    found = preprocess(folder, pool_tickers(folder), features=config.features, store=store, quality=config.quality)
    left_out = {each.stock: each.error for each in found if each.error}
    for stock, error in left_out.items():
        logger.warning("%s is left out of the pool: %s", stock, error)
    windows = [each.windows for each in found if each.windows is not None]
    bars = next((each.bars for each in found if each.bars is not None), None)
    if len(windows) < 2 or bars is None:
        reasons = "\n".join(f"{stock}: {error}" for stock, error in left_out.items())
        raise MarketDataError(f"{len(windows)} of {len(found)} tickers can be used, too few for a pool:\n{reasons}")
    pooled = store_pool(windows, example=bars, left_out=list(left_out), store=store)
    logger.info("%d tickers are pooled as %s. %s", len(windows), POOL, pooled.meta["borders"])
    each_bars = tuple(each.bars for each in found if each.bars is not None)
    return RunData(bars=pooled, windows=pooled, pooled_bars=each_bars, left_out=left_out)
