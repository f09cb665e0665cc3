"""The standings of the published protocol: every forecaster's errors per ticker and over all tickers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tickerforge.evaluation.backtest.performance import SESSIONS_PER_YEAR
from tickerforge.evaluation.core.config import BacktestConfig
from tickerforge.evaluation.core.contracts import PERSISTENCE, RANDOM_WALK, Floats, Ints
from tickerforge.evaluation.core.errors import EvaluationError
from tickerforge.evaluation.core.protocol import HORIZON, Protocol, by_ticker, daily_sigmas, realised_variances
from tickerforge.evaluation.evidence.cross_section import cross_section
from tickerforge.evaluation.evidence.significance import by_session, diebold_mariano
from tickerforge.evaluation.metrics.accuracy import skill, sorted_crps
from tickerforge.evaluation.metrics.calibration import path_variance, sorted_quantiles
from tickerforge.evaluation.metrics.risk import qlike
from tickerforge.features.config import FrozenModel

TRIMMED = 0.1
"""Share of the tickers that the trimmed mean leaves out at each end."""


@dataclass(frozen=True)
class ProtocolForecast:
    """One forecaster: prices (n, HORIZON) in USD for the windows whose `asked` (n,) is true.

    `unanswered` is the number of these windows without an answer; they have persistence's forecast, and the
    random walk's distribution. `is_chosen` is true if validation chose it among our models. `whole` has the scores of
    its distribution, if it has one.
    """

    name: str
    forecast: Floats
    asked: NDArray[np.bool_]
    unanswered: int = 0
    is_chosen: bool = False
    whole: "Whole | None" = None


@dataclass(frozen=True)
class Whole:
    """The distributions of one forecaster on all n windows; NaN for a window without one.

    `crps` (n,) is the mean over the sessions ahead, in daily σ of log returns; `inside` (n,) the share of the prices in
    the 80 % band; `variance` (n,) the mean squared daily move along the paths, as squared log returns, NaN if the
    members are no paths; `members` their mean number.
    """

    crps: Floats
    inside: Floats
    variance: Floats
    members: float


def whole_of(
    protocol: Protocol,
    groups: Iterable[tuple[Ints, Floats]],
    *,
    independent: bool = False,
    are_paths: bool = True,
) -> Whole:
    """Score the distributions of a forecaster.

    Args:
        protocol: The windows.
        groups: Window numbers (k,) with log returns from the origin (k, members, HORIZON).
        independent: Whether the members are independent draws, for the fair CRPS (`evaluation.metrics.accuracy.crps`).
        are_paths: Whether a member is one path, so that its daily moves mean something.
    """
    count = len(protocol.place)
    crps, inside, variance = (np.full(count, np.nan) for _ in range(3))
    sigma, members, asked = daily_sigmas(protocol), 0, 0
    moves = np.log(protocol.target / protocol.origin_price[:, None]) / sigma[:, None]
    for rows, drawn in groups:
        paths = drawn.swapaxes(1, 2) / sigma[rows, None, None]
        if are_paths:
            variance[rows] = path_variance(paths) * sigma[rows] ** 2
        ordered = np.sort(paths, axis=-1)
        crps[rows] = sorted_crps(ordered, moves[rows], independent=independent).mean(axis=1)
        low, high = sorted_quantiles(ordered, (0.1, 0.9))
        inside[rows] = ((low <= moves[rows]) & (moves[rows] <= high)).mean(axis=1)
        members, asked = members + drawn.shape[1] * len(rows), asked + len(rows)
    return Whole(crps, inside, variance, members / asked if asked else 0.0)


class Errors(FrozenModel):
    """Mean squared and mean absolute error in standard deviations of the train rows, over `windows` windows."""

    windows: int
    mse: float
    mae: float


class Volatility(FrozenModel):
    """Yearly standard deviation of log returns: root of the mean variance that was expected, and of what followed."""

    expected: float
    realised: float


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

    `crps` is the mean CRPS over persistence's mean absolute error on the same windows, both in daily σ of log returns,
    and `members` the mean number of members; `crps_skill` is 1 - CRPS / the random walk's, with its p-value `crps_p`;
    `qlike` is the loss of the variance (`evaluation.metrics.risk.qlike`), `inside` the share of the prices in the 80 %
    band, and `volatility` has every ticker. They are missing without a distribution. `rank_ic` and the next ones are
    those of `evaluation.evidence.cross_section`, missing for a forecast of no move or with fewer than ten tickers.
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
    members: float = 0.0
    crps: float | None = None
    crps_skill: float | None = None
    crps_p: float | None = None
    qlike: float | None = None
    inside: float | None = None
    rank_ic: float | None = None
    ic: float | None = None
    rank_ic_t: float | None = None
    icir: float | None = None
    spread: float | None = None
    volatility: dict[str, Volatility] = Field(default={})


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
    facts = _facts(protocol)
    walk = next((entry.whole for entry in entries if entry.name == RANDOM_WALK), None)
    return Standings(
        tickers=len(protocol.series),
        windows=len(protocol.place),
        first_origin=protocol.origins.min().item(),
        last_target=max(series.dates[-1] for series in protocol.series).item(),
        standings=tuple(_standing(protocol, entry, reference=reference, facts=facts, walk=walk) for entry in entries),
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


class _Facts(NamedTuple):
    """Per window: persistence's mean absolute error in σ, variance of the horizon, last move, and session number."""

    naive: Floats
    realised: Floats
    moved: Floats
    positions: Ints


def _facts(protocol: Protocol) -> _Facts:
    moves = np.log(protocol.target / protocol.origin_price[:, None])
    sessions = np.unique(protocol.origins)
    return _Facts(
        naive=np.abs(moves).mean(axis=1) / daily_sigmas(protocol),
        realised=np.maximum(realised_variances(protocol), np.finfo(float).tiny),
        moved=moves[:, -1],
        positions=np.searchsorted(sessions, protocol.origins).astype(np.int64),
    )


def _whole_figures(
    protocol: Protocol, whole: Whole, *, rows: Ints, facts: _Facts, walk: Whole | None
) -> dict[str, Any]:
    """Return the figures of a distribution in a standing; a window without one is scored as the random walk."""
    if walk is not None:
        silent = np.isnan(whole.crps)
        crps, inside = np.where(silent, [walk.crps, walk.inside], [whole.crps, whole.inside])
        whole = replace(whole, crps=crps, inside=inside)
    own = float(whole.crps[rows].mean())
    found: dict[str, Any] = {
        "members": whole.members,
        "crps": own / float(facts.naive[rows].mean()),
        "inside": float(whole.inside[rows].mean()),
    }
    if walk is not None:
        found["crps_skill"] = skill(own, float(walk.crps[rows].mean()))
        if not np.array_equal(walk.crps[rows], whole.crps[rows]):
            mine, positions = session_losses(protocol, whole.crps, rows=rows)
            other, _ = session_losses(protocol, walk.crps, rows=rows)
            found["crps_p"] = diebold_mariano(mine, other, positions=positions, horizon=HORIZON).p_value
    known = rows[np.isfinite(whole.variance[rows])]
    if len(known):
        smallest = 1e-4 * facts.realised[known].mean()
        expected = np.maximum(whole.variance[known], smallest)
        found["qlike"] = float(qlike(expected, np.maximum(facts.realised[known], smallest)).mean())
        means = [by_ticker(protocol, each, answered=known) for each in (whole.variance, facts.realised)]
        found["volatility"] = {
            ticker: Volatility(
                expected=float(np.sqrt(means[0][ticker] * SESSIONS_PER_YEAR)),
                realised=float(np.sqrt(means[1][ticker] * SESSIONS_PER_YEAR)),
            )
            for ticker in means[0]
        }
    return found


def _ranking(protocol: Protocol, entry: ProtocolForecast, *, rows: Ints, facts: _Facts) -> dict[str, Any]:
    """Return the figures of the daily cross-sections in a standing."""
    expected = np.log(entry.forecast[rows, -1] / protocol.origin_price[rows])
    found = cross_section(
        expected,
        facts.moved[rows],
        positions=facts.positions[rows],
        lag=2 * (HORIZON - 1),
        cost=BacktestConfig().cost_bps / 1e4,
    )
    if found is None:
        return {}
    return {
        "rank_ic": found.rank_ic,
        "ic": found.ic,
        "rank_ic_t": found.t,
        "icir": found.icir,
        "spread": found.spread,
    }


def _standing(
    protocol: Protocol, entry: ProtocolForecast, *, reference: Floats, facts: _Facts, walk: Whole | None
) -> Standing:
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
        **_ranking(protocol, entry, rows=rows, facts=facts),
        **(_whole_figures(protocol, entry.whole, rows=rows, facts=facts, walk=walk) if entry.whole else {}),
    )


def _trimmed(values: Floats) -> float:
    from scipy.stats import trim_mean

    return float(trim_mean(values, TRIMMED))
