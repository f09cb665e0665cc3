"""Preprocessing of many stocks: each one's windows as artifacts, and the published CSV layout on request."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tickerforge.features.config import FeatureConfig, FrozenModel, QualityConfig
from tickerforge.features.errors import FeaturesError
from tickerforge.features.prices.quality import QualityReport
from tickerforge.tasks.base.errors import MarketDataError, PublishError
from tickerforge.tasks.prices.folders import list_tickers
from tickerforge.tasks.prices.freshness import LONG_AGO, stale_end
from tickerforge.tasks.prices.market_data import FolderSource, fetch_with_quality
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.windows.preprocess import export_published, store_windows

logger = logging.getLogger(__name__)


class Preprocessed(FrozenModel):
    """One stock's bars and windows, or why there are none; `stale` says if its prices end where they should not."""

    stock: str
    bars: ArtifactRef | None = None
    windows: ArtifactRef | None = None
    quality: QualityReport | None = None
    published: tuple[Path, ...] = ()
    picture: Path | None = None
    stale: str = ""
    error: str = ""


def preprocess(
    root: Path,
    stocks: Sequence[str],
    *,
    features: FeatureConfig,
    store: Store,
    quality: QualityConfig = QualityConfig(),
    output: Path | None = None,
    pictures: Path | None = None,
) -> list[Preprocessed]:
    """Preprocess stocks one after the other; the faults of one do not affect the others.

    Args:
        root: Folder of price files, or one file with all tickers.
        stocks: Names of the stocks; none means all of the folder.
        features: Windows, indicators and splits.
        store: Where the artifacts go.
        quality: Limits for the prices.
        output: Folder for the published CSV layout, one subfolder per stock; without it none is written.
        pictures: Folder for a picture of each stock; without it none is drawn.

    Raises:
        MarketDataError: If the folder holds no price file at all.
    """
    names = list(dict.fromkeys(stocks)) or list_tickers(root)
    if not names:
        raise MarketDataError(f"{root} holds no price files: put one STOCK.csv per ticker there")
    return [
        _preprocess_one(root, stock, features=features, store=store, quality=quality, output=output, pictures=pictures)
        for stock in names
    ]


def _preprocess_one(
    root: Path,
    stock: str,
    *,
    features: FeatureConfig,
    store: Store,
    quality: QualityConfig,
    output: Path | None,
    pictures: Path | None,
) -> Preprocessed:
    try:
        now = datetime.now(UTC)
        bars, report = fetch_with_quality(FolderSource(folder=root), stock, store=store, quality=quality, now=now)
        windows = store_windows.fn(bars, config=features, store=store)
        written = export_published(bars, output / stock, config=features) if output is not None else []
        picture = _drawn(bars, windows, report, pictures, features=features) if pictures is not None else None
    except (FeaturesError, MarketDataError, PublishError) as error:
        # A file name need not be text: bytes that cannot be shown are escaped.
        shown = stock.encode(errors="backslashreplace").decode()
        logger.info("%s: %s", shown, error, extra={"terminal": False})
        return Preprocessed(stock=shown, error=str(error))
    return Preprocessed(
        stock=stock,
        bars=bars,
        windows=windows,
        quality=report,
        published=tuple(written),
        picture=picture,
        stale=_stale(report, stock) if report is not None else "",
    )


def _stale(report: QualityReport, stock: str) -> str:
    return stale_end(report.last, datetime.now(UTC), ticker=stock, calendar=report.exchange or None, tolerance=LONG_AGO)


def _drawn(
    bars: ArtifactRef, windows: ArtifactRef, report: QualityReport | None, folder: Path, *, features: FeatureConfig
) -> Path:
    from tickerforge.tasks.windows.picture import write_picture

    return write_picture(bars, windows, report, folder, config=features)
