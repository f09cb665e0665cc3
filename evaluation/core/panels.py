"""Windows and forecasts frames as aligned arrays; forecasts that do not match the windows are refused."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import chain

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tickerforge.evaluation.core.contracts import AFTER, FORECAST_COLUMNS, Floats, Ints, ScoredSplit
from tickerforge.evaluation.core.errors import ForecastsError
from tickerforge.evaluation.core.frames import matrix, realised_variances, scoring_sigma
from tickerforge.evaluation.core.recalibration import MEMBERS
from tickerforge.features.pooling import POOL

Dates = NDArray[np.datetime64]
BLOCK = 512
"""Windows that are scored at a time."""


@dataclass(frozen=True)
class Truth:
    """What happened after the origins of one split; n windows, h sessions ahead.

    `ticker` is the name in messages: that of the pool if the windows are of several `tickers` (n,). `target` (n, h),
    `origin_price`, `train_mean` and `train_std` (n,) in USD; `sigma` (n,) is the standard deviation of daily log
    returns; `positions` (n,) are the session numbers of the origins.
    """

    ticker: str
    split: ScoredSplit
    tickers: NDArray[np.object_]
    origins: Dates
    positions: Ints
    target: Floats
    target_dates: Dates
    origin_price: Floats
    sigma: Floats
    train_mean: Floats
    train_std: Floats
    variance: Floats

    @property
    def horizon(self) -> int:
        """Sessions ahead."""
        return int(self.target.shape[1])


@dataclass(frozen=True)
class Answers:
    """One model's forecasts of the same windows.

    `median` (n, h) in USD; `samples` (sum of `n_members`, h) in USD, window after window; `n_samples`, `n_valid` and
    `n_members` (n,) count the answers asked for, those that are valid, and the samples: as many as are valid, or, if
    recalibrated, `evaluation.core.recalibration.MEMBERS`.
    """

    model: str
    median: Floats
    samples: Floats
    n_samples: Ints
    n_valid: Ints
    n_members: Ints

    def ensembles(self) -> Iterator[tuple[Ints, Floats]]:
        """Group windows by their number m of samples: row numbers (k,) and samples (k, m, h) in USD.

        A group has at most `BLOCK` windows, so that what is computed from it stays in the processor's cache. A window
        without a sample is its own point forecast: m = 1 and the sample is the median.
        """
        starts = np.cumsum(self.n_members) - self.n_members
        for count in np.unique(self.n_members):
            alike = np.flatnonzero(self.n_members == count)
            for rows in np.split(alike, range(BLOCK, len(alike), BLOCK)):
                if count == 0:
                    yield rows, self.median[rows][:, None, :]
                else:
                    yield rows, self.samples[starts[rows][:, None] + np.arange(count)]


def session_dates(values: pd.Series) -> Dates:
    """Convert a date column of any resolution to days."""
    return np.asarray(values.to_numpy(dtype="datetime64[s]").astype("datetime64[D]"))


def date_matrix(values: pd.Series) -> Dates:
    """Convert a column of lists of dates to one array of days (n, k)."""
    return np.stack([np.asarray(value, dtype="datetime64[D]") for value in values])


def session_calendar(windows: pd.DataFrame) -> Dates:
    """Return every session that is an origin or a target of the windows, ascending."""
    return np.unique(np.concatenate([session_dates(windows["origin"]), date_matrix(windows["target_dates"]).ravel()]))


def rows_of(windows: pd.DataFrame, *, split: ScoredSplit) -> pd.DataFrame:
    """Return the windows of a split in the order of `Truth`: by origin, then ticker."""
    return windows[windows["split"] == split].sort_values(["origin", "ticker"])


def truth_of(windows: pd.DataFrame, *, split: ScoredSplit, calendar: Dates) -> Truth:
    """Return the truth of one split, sorted by origin, then ticker; `calendar` numbers the sessions."""
    rows = rows_of(windows, split=split)
    origins = session_dates(rows["origin"])
    tickers = rows["ticker"].to_numpy(object)
    return Truth(
        ticker=str(tickers[0]) if len(set(tickers)) == 1 else POOL,
        split=split,
        tickers=tickers,
        origins=origins,
        positions=np.searchsorted(calendar, origins).astype(np.int64),
        target=matrix(rows["target"]),
        target_dates=date_matrix(rows["target_dates"]),
        origin_price=matrix(rows["history"])[:, -1],
        sigma=scoring_sigma(rows),
        train_mean=rows["train_mean"].to_numpy(float),
        train_std=rows["train_std"].to_numpy(float),
        variance=realised_variances(rows),
    )


def part_of_truth(truth: Truth, kept: NDArray[np.bool_], *, split: ScoredSplit) -> Truth:
    """Return some windows (n,) of a split under another split name."""
    columns = ("tickers", "origins", "positions", "target", "target_dates", "origin_price", "sigma")
    fitted = ("train_mean", "train_std", "variance")
    return replace(truth, split=split, **{name: getattr(truth, name)[kept] for name in (*columns, *fitted)})


def part_of_answers(answers: Answers, kept: NDArray[np.bool_]) -> Answers:
    """Return a model's forecasts of some windows (n,)."""
    return replace(
        answers,
        median=answers.median[kept],
        samples=answers.samples[np.repeat(kept, answers.n_members)],
        n_samples=answers.n_samples[kept],
        n_valid=answers.n_valid[kept],
        n_members=answers.n_members[kept],
    )


def completed(answers: Answers, walk: Answers) -> Answers:
    """Give each window without a valid answer the samples of the random walk; the point forecasts stay.

    A model that was not asked for samples stays as it is.
    """
    silent = (answers.n_samples > 0) & (answers.n_valid == 0)
    if not silent.any():
        return answers
    lent = part_of_answers(walk, silent)
    rows = np.arange(len(silent))
    owners = np.concatenate([np.repeat(rows, answers.n_members), np.repeat(rows[silent], lent.n_members)])
    samples = np.concatenate([answers.samples, lent.samples])[np.argsort(owners, kind="stable")]
    return replace(answers, samples=samples, n_members=np.where(silent, walk.n_members, answers.n_members))


def judged_part(truth: Truth, answers: Sequence[Answers], *, cut_off: date | None) -> tuple[Truth, list[Answers]]:
    """Return the windows that decide: those after a cut-off within the split, as the split `after`; else all."""
    late = np.ones(len(truth.origins), dtype=bool) if cut_off is None else truth.origins >= np.datetime64(cut_off)
    if late.all() or not late.any():
        return truth, list(answers)
    return part_of_truth(truth, late, split=AFTER), [part_of_answers(each, late) for each in answers]


def _stacked(column: pd.Series, *, horizon: int, where: str) -> Floats:
    """Put the samples of all windows below each other, shape (sum of m, h)."""
    drawn = column.to_list()
    if all(isinstance(each, np.ndarray) and each.ndim == 2 and each.shape[1] == horizon for each in drawn):
        return np.concatenate(drawn)
    answered = list(chain.from_iterable(drawn))
    if any(len(value) != horizon for value in answered):
        raise ForecastsError(f"{where}: a sample does not have {horizon} values")
    return np.concatenate(answered).reshape(-1, horizon) if answered else np.empty((0, horizon))


def answers_of(forecasts: pd.DataFrame, *, model: str, truth: Truth) -> Answers:
    """Return one model's forecasts in the order of `truth`, without those of other windows.

    Raises:
        ForecastsError: A window has no forecast or two, or a forecast has the wrong length or is not a positive price.
    """
    missing = [column for column in FORECAST_COLUMNS if column not in forecasts]
    if missing:
        raise ForecastsError(f"{truth.ticker}: the forecasts frame lacks the columns {', '.join(missing)}")
    mine = forecasts[(forecasts["model"] == model) & (forecasts["split"] == truth.split)]
    mine = mine[mine["ticker"].isin(set(truth.tickers))]
    where = f"{truth.ticker}, {truth.split}, model {model}"
    answered_for = pd.MultiIndex.from_arrays([mine["ticker"].to_numpy(object), session_dates(mine["origin"])])
    if answered_for.has_duplicates:
        raise ForecastsError(f"{where}: more than one forecast for the same origin")
    places = answered_for.get_indexer(pd.MultiIndex.from_arrays([truth.tickers, truth.origins]))
    absent = truth.origins[places < 0]
    if len(absent):
        raise ForecastsError(
            f"{where}: {len(absent)} of {len(truth.origins)} windows have no forecast, the first at {absent[0]}"
        )
    mine = mine.iloc[places]
    if any(len(value) != truth.horizon for value in mine["median"]):
        raise ForecastsError(f"{where}: a forecast does not have {truth.horizon} values")
    median = matrix(mine["median"])
    samples = _stacked(mine["samples"], horizon=truth.horizon, where=where)
    n_valid = mine["n_valid"].to_numpy(np.int64)
    n_members = np.array([len(value) for value in mine["samples"]], dtype=np.int64)
    if not np.array_equal(np.where((n_members == MEMBERS) & (n_valid > 0), n_valid, n_members), n_valid):
        raise ForecastsError(f"{where}: n_valid does not count the samples")
    for name, prices in (("forecast", median), ("sample", samples)):
        if not (np.isfinite(prices) & (prices > 0)).all():
            raise ForecastsError(f"{where}: a {name} is not a positive, finite price")
    return Answers(
        model=model,
        median=median,
        samples=np.asarray(samples, dtype=float),
        n_samples=mine["n_samples"].to_numpy(np.int64),
        n_valid=n_valid,
        n_members=n_members,
    )
