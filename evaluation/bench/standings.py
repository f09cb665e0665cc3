"""The standings of the published protocol: every forecaster's errors per ticker and over all tickers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from tickerforge.evaluation.core.contracts import PERSISTENCE, Floats, Ints
from tickerforge.evaluation.core.errors import EvaluationError
from tickerforge.evaluation.core.protocol import HORIZON, Protocol, by_ticker
from tickerforge.evaluation.evidence.significance import by_session, diebold_mariano
from tickerforge.features.config import FrozenModel

TRIMMED = 0.1
"""Share of the tickers that the trimmed mean leaves out at each end."""


@dataclass(frozen=True)
class ProtocolForecast:
    """One forecaster: prices (n, HORIZON) in USD for the windows whose `asked` (n,) is true.

    `unanswered` is the number of these windows without an answer; they have persistence's forecast. `is_chosen` is true
    if validation chose it among our models.
    """

    name: str
    forecast: Floats
    asked: NDArray[np.bool_]
    unanswered: int = 0
    is_chosen: bool = False


class Errors(FrozenModel):
    """Mean squared and mean absolute error in standard deviations of the train rows, over `windows` windows."""

    windows: int
    mse: float
    mae: float


class Published(FrozenModel):
    """A figure that others published for this protocol, on `tickers` tickers."""

    name: str
    mse: float
    mae: float
    tickers: int
    source: str


class Standing(FrozenModel):
    """One forecaster: errors of each ticker, and their mean, median and trimmed mean over the tickers.

    `against_persistence` is its mean MSE over that of persistence on the same windows. `p_value` is the probability of
    such an advantage if there were none (`evidence.significance`); if no test is possible it is 1, and `note` has the
    reason. `is_complete` is true if it was asked for every test window.
    """

    name: str
    windows: int
    unanswered: int
    is_complete: bool
    is_chosen: bool
    mse: float
    mse_median: float
    mse_trimmed: float
    mae: float
    mae_median: float
    mae_trimmed: float
    against_persistence: float
    p_value: float
    note: str
    tickers: dict[str, Errors]


class Standings(FrozenModel):
    """All forecasters on the test windows of some tickers, beside published figures."""

    tickers: int
    windows: int
    first_origin: date
    last_target: date
    standings: tuple[Standing, ...]
    published: tuple[Published, ...]
    notes: tuple[str, ...] = ()

    def of(self, name: str) -> Standing:
        """Return one forecaster's row."""
        return next(each for each in self.standings if each.name == name)


VTA = "Reasoning on Time-Series for Financial Technical Analysis (VTA)"
PUBLISHED = (
    Published(name="VTA, as reported", mse=0.0659, mae=0.1701, tickers=88, source=f"{VTA}, Table 1, StockNet"),
    Published(
        name="VTA, its shipped predictions",
        mse=0.0702,
        mae=0.1756,
        tickers=88,
        source=f"the predictions of the language model that the authors of {VTA} published, scored by this protocol",
    ),
)


def standings_of(protocol: Protocol, entries: Sequence[ProtocolForecast], *, notes: Sequence[str] = ()) -> Standings:
    """Score forecasters on the test windows.

    Args:
        protocol: The windows.
        entries: The forecasters, persistence among them, in the order of the table.
        notes: Remarks for the reader.

    Raises:
        EvaluationError: Persistence is missing, a name occurs twice, or a forecast is NaN or infinite.
    """
    names = [entry.name for entry in entries]
    if PERSISTENCE not in names or len(set(names)) < len(names):
        raise EvaluationError(f"the table needs persistence, and every name only once; given: {', '.join(names)}")
    reference = np.square(protocol.errors(entries[names.index(PERSISTENCE)].forecast)).mean(axis=1)
    return Standings(
        tickers=len(protocol.series),
        windows=len(protocol.place),
        first_origin=protocol.origins.min().item(),
        last_target=max(series.dates[-1] for series in protocol.series).item(),
        standings=tuple(_standing(protocol, entry, reference=reference) for entry in entries),
        published=PUBLISHED,
        notes=tuple(notes),
    )


def session_losses(protocol: Protocol, losses: Floats, *, rows: Ints) -> tuple[Floats, Ints]:
    """Return one loss per session; their mean is the protocol's figure, the mean over tickers of each one's mean.

    The windows of a ticker with few windows weigh more, as in the protocol. The windows of one date are one observation
    (`evaluation.evidence.significance.by_session`).

    Args:
        protocol: The windows.
        losses: Loss of each window, shape (n,).
        rows: Numbers of the windows that count.

    Returns:
        The losses (k,) and the numbers (k,) of their sessions among all sessions of the tickers, ascending.
    """
    place = protocol.place[rows]
    counts = np.bincount(place, minlength=len(protocol.series))
    weights = len(rows) / (np.count_nonzero(counts) * counts[place])
    sessions = np.unique(np.concatenate([series.dates for series in protocol.series]))
    positions = np.searchsorted(sessions, protocol.origins[rows]).astype(np.int64)
    return by_session(losses[rows] * weights, positions=positions), np.unique(positions)


def _standing(protocol: Protocol, entry: ProtocolForecast, *, reference: Floats) -> Standing:
    rows = np.flatnonzero(entry.asked)
    if not len(rows):
        raise EvaluationError(f"{entry.name} was not asked for any window")
    if not np.isfinite(entry.forecast[rows]).all():
        raise EvaluationError(f"{entry.name}: a forecast is NaN or infinite")
    errors = protocol.errors(entry.forecast)
    squared, absolute = np.square(errors).mean(axis=1), np.abs(errors).mean(axis=1)
    mse, mae, naive = (by_ticker(protocol, values, answered=rows) for values in (squared, absolute, reference))
    counts = np.bincount(protocol.place[rows], minlength=len(protocol.series))
    own, positions = session_losses(protocol, squared, rows=rows)
    other, _ = session_losses(protocol, reference, rows=rows)
    test = diebold_mariano(own, other, positions=positions, horizon=HORIZON)
    squares, absolutes = np.array(list(mse.values())), np.array(list(mae.values()))
    return Standing(
        name=entry.name,
        windows=len(rows),
        unanswered=entry.unanswered,
        is_complete=len(rows) == len(protocol.place),
        is_chosen=entry.is_chosen,
        mse=float(squares.mean()),
        mse_median=float(np.median(squares)),
        mse_trimmed=_trimmed(squares),
        mae=float(absolutes.mean()),
        mae_median=float(np.median(absolutes)),
        mae_trimmed=_trimmed(absolutes),
        against_persistence=float(squares.mean() / np.mean(list(naive.values()))),
        p_value=test.p_value,
        note="" if entry.name == PERSISTENCE else test.note,
        tickers={
            ticker: Errors(windows=int(counts[place]), mse=mse[ticker], mae=mae[ticker])
            for place, ticker in enumerate(protocol.tickers)
            if ticker in mse
        },
    )


def _trimmed(values: Floats) -> float:
    from scipy.stats import trim_mean

    return float(trim_mean(values, TRIMMED))
