"""The published protocol: test windows of many tickers, errors in standard deviations of each ticker's train rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tickerforge.evaluation.core.contracts import Floats, Ints
from tickerforge.evaluation.core.errors import EvaluationError
from tickerforge.evaluation.core.panels import Dates, session_dates
from tickerforge.features.config import FeatureConfig
from tickerforge.features.prices.bars import adjust
from tickerforge.features.splits import split_borders
from tickerforge.features.statistics import daily_sigma, range_variance

HORIZON = 10


@dataclass(frozen=True)
class Series:
    """One ticker's adjusted closes (n,) in USD with its sessions (n,).

    Rows `[0, train_end)` are train, `[train_end, test_start)` validation, the rest is test. `variance` (n,) is the
    range variance of each session (`features.statistics.range_variance`); without it, squared returns take its place.
    """

    ticker: str
    dates: Dates
    prices: Floats
    train_end: int
    test_start: int
    variance: Floats | None = None

    @property
    def daily_variance(self) -> Floats:
        """Variance of each session, shape (n,), squared log returns; NaN for the first."""
        if self.variance is not None:
            return self.variance
        return np.concatenate([[np.nan], np.square(np.diff(np.log(self.prices)))])

    @property
    def train(self) -> Floats:
        """Prices of the train rows, in USD."""
        return self.prices[: self.train_end]

    @property
    def test_origins(self) -> Ints:
        """Rows after which a test window forecasts, ascending."""
        return np.arange(self.test_start - 1, len(self.prices) - HORIZON)

    def after(self, origins: Ints) -> Floats:
        """Return the `HORIZON` prices after each of these rows, shape (k, HORIZON), in USD."""
        return self.prices[origins[:, None] + np.arange(1, HORIZON + 1)]


@dataclass(frozen=True)
class Protocol:
    """All test windows of all tickers, ticker after ticker, origins ascending; n windows.

    `place` (n,) is the number of the window's ticker in `series`, `row` (n,) the row of its origin there, `origins`
    (n,) the session of the origin; `target` (n, HORIZON), `origin_price` (n,) and `scale` (n,), the standard deviation
    of the ticker's train rows, are in USD.
    """

    series: tuple[Series, ...]
    place: Ints
    row: Ints
    origins: Dates
    target: Floats
    origin_price: Floats
    scale: Floats

    @property
    def tickers(self) -> tuple[str, ...]:
        """Names of the tickers, in the order of `place`."""
        return tuple(each.ticker for each in self.series)

    def errors(self, forecast: Floats) -> Floats:
        """Return forecast minus truth (n, HORIZON) in standard deviations of the train rows; `forecast` is in USD.

        The train mean of the published z-scores cancels.
        """
        return np.asarray((forecast - self.target) / self.scale[:, None])

    def places_of(self, rows: pd.DataFrame) -> Ints:
        """Return the window numbers of rows with `ticker` and `origin` (a date); -1 if there is no such window."""
        known = pd.MultiIndex.from_arrays([np.array(self.tickers, dtype=object)[self.place], self.origins])
        asked = pd.MultiIndex.from_arrays([rows["ticker"].to_numpy(object), session_dates(rows["origin"])])
        return np.asarray(known.get_indexer(asked), dtype=np.int64)


def daily_sigmas(protocol: Protocol) -> Floats:
    """Return σ60 at the origin of each window, shape (n,); for prices that have not moved, that of the train rows."""
    found = []
    for series in protocol.series:
        sigma = daily_sigma(series.prices, window=60, minimum=20)[series.test_origins]
        usual = np.diff(np.log(series.train)).std()
        found.append(np.where(sigma > 0, sigma, usual))
    return np.concatenate(found)


def realised_variances(protocol: Protocol) -> Floats:
    """Return the mean range variance over the horizon of each window, shape (n,), scaled to squared returns on train.

    The scale is that of each ticker's train rows.
    """
    found = []
    for series in protocol.series:
        ranges, squares = series.daily_variance, np.square(np.diff(np.log(series.train)))
        scale = squares.mean() / ranges[1 : series.train_end].mean()
        ahead = series.test_origins[:, None] + np.arange(1, HORIZON + 1)
        found.append(scale * ranges[ahead].mean(axis=1))
    return np.concatenate(found)


def series_of(bars: pd.DataFrame, *, ticker: str) -> Series:
    """Build one ticker's series, split 70/10/20 by rows in time order as in the published scripts.

    Args:
        bars: As `features.prices.bars.read_csv` returns them.
        ticker: Name of the ticker.

    Raises:
        EvaluationError: Too few sessions for a test window, or train prices that do not move.
    """
    prices = bars["adj_close"].to_numpy(float)
    borders = split_borders(len(prices), FeatureConfig(horizon=HORIZON))
    train = prices[: borders.train_end]
    if borders.n_rows - borders.test_start < HORIZON or len(train) < 2 or not np.ptp(train):
        raise EvaluationError(
            f"{ticker}: {len(prices)} sessions leave no test window of {HORIZON} sessions after train prices that move"
        )
    adjusted = adjust(bars)
    variance = range_variance(*(adjusted[name].to_numpy(float) for name in ("high", "low", "close")))
    return Series(ticker, session_dates(bars["date"]), prices, borders.train_end, borders.test_start, variance)


def protocol_of(series: Sequence[Series]) -> Protocol:
    """Collect the test windows of these tickers.

    The ten rows of context of a test window may lie before the border, so that its first target is the first test row.
    Its scale is the population standard deviation of the train rows, as in scikit-learn's `StandardScaler`.

    Raises:
        EvaluationError: No ticker.
    """
    if not series:
        raise EvaluationError("the protocol needs the prices of one ticker or more")
    origins = [each.test_origins for each in series]
    counts = [len(rows) for rows in origins]
    return Protocol(
        series=tuple(series),
        place=np.repeat(np.arange(len(series)), counts),
        row=np.concatenate(origins),
        origins=np.concatenate([each.dates[rows] for each, rows in zip(series, origins, strict=True)]),
        target=np.concatenate([each.after(rows) for each, rows in zip(series, origins, strict=True)]),
        origin_price=np.concatenate([each.prices[rows] for each, rows in zip(series, origins, strict=True)]),
        scale=np.repeat([each.train.std() for each in series], counts),
    )


def common_border(series: Sequence[Series]) -> np.datetime64:
    """Return the earliest session on which a ticker's train rows end.

    A model fitted on all tickers together may use prices only up to it: the train rows of a ticker with a shorter
    history reach into the test years of others, and markets move together.
    """
    return min(np.datetime64(each.dates[each.train_end - 1], "D") for each in series)


def by_ticker(protocol: Protocol, values: Floats, *, answered: Ints | None = None) -> Mapping[str, float]:
    """Average one value per window over each ticker's windows, or only over the windows with the numbers `answered`."""
    rows = np.arange(len(protocol.place)) if answered is None else answered
    place = protocol.place[rows]
    counts = np.bincount(place, minlength=len(protocol.series))
    sums = np.bincount(place, weights=values[rows], minlength=len(protocol.series))
    return {
        ticker: float(total / count)
        for ticker, total, count in zip(protocol.tickers, sums, counts, strict=True)
        if count
    }
