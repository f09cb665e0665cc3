"""Jumps in adjusted closes that no market makes: splits without adjustment, other units, typing errors."""

from collections.abc import Sequence
from datetime import date
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tickerforge.features.config import FrozenModel, JumpMode
from tickerforge.features.errors import JumpError
from tickerforge.features.prices.schemas import PRICE_COLUMNS, Columns

FACTORS = (2, 3, 4, 5, 7, 10, 20, 50, 100, 1000)
"""Factors of splits, of pence and pounds, and of a decimal point in the wrong place."""

LARGEST_MOVE = 8.0
"""A larger factor from one session to the next is always a jump; a real crash of -30 % is a factor of 0.7."""

SPIKE_SIGMAS = 10.0
"""A move up and down again, or down and up, of more than so many daily standard deviations is a spike."""

_FACTOR_SIGMAS, _LEAST_TOLERANCE, _MOST_TOLERANCE = 3.0, 0.02, 0.1
_LEAST_SIGMAS = 8.0
_NEIGHBOURS, _FEWEST_NEIGHBOURS = 60, 10
_LASTING = 3
_SPIKE_ROOM = 6.0
_SHOWN = 5


class Jump(FrozenModel):
    """A move of the adjusted close that is not the market's.

    Attributes:
        session: The first session at the new price.
        factor: Adjusted close of that session / that of the session before.
        kind: "step" if the prices stay there, "spike" if they come back at once.
        cause: The likely cause, in words.
        repair: The factor by which the adjusted closes before a step, or all prices of a spike, must be multiplied to
            remove it; `None` if it is not certain.
    """

    session: date
    factor: float
    kind: Literal["step", "spike"]
    cause: str
    repair: float | None = None

    def __str__(self) -> str:
        return f"{self.session}: times {self.factor:.4g}, {self.cause}"


def find_jumps(bars: Columns) -> list[Jump]:
    """Find the jumps in bars, the oldest first.

    A step is a move by a factor near one of `FACTORS` or their inverses, or beyond `LARGEST_MOVE`, if it is more than
    8 daily standard deviations. A spike is a move by more than `SPIKE_SIGMAS` of them against both neighbours. The
    standard deviation is that of the 60 sessions before and after, without the move itself.

    Args:
        bars: Columns of bars, as `features.prices.bars.read_csv` returns them.
    """
    logs = np.log(bars["adj_close"])
    moves = np.diff(logs)
    if not len(moves):
        return []
    typical = 1.4826 * float(np.median(np.abs(moves)))
    # A first look that costs little: most series have no such moves.
    size = np.abs(moves)
    back = np.append((moves[1:] * moves[:-1] < 0) & (size[1:] > SPIKE_SIGMAS * typical / 3), False)
    candidates = np.flatnonzero((size > np.log(2) - _MOST_TOLERANCE) | (back & (size > SPIKE_SIGMAS * typical / 3)))
    found: list[Jump] = []
    skipped = -1
    for place in map(int, candidates):
        if place <= skipped:
            continue
        sigma = _sigma(moves, place)
        if _is_spike(moves, place, sigma):
            found.append(_spike(bars, moves, place, sigma))
            skipped = place + 1
        elif (step := _step(bars, moves, place, sigma)) is not None:
            found.append(step)
    return found


def without_jumps(bars: Columns, jumps: Sequence[Jump]) -> Columns:
    """Return bars without the jumps whose factor is certain; the others stay."""
    repaired = {column: values.copy() for column, values in bars.items()}
    days = bars["date"].astype("datetime64[D]")
    for jump in jumps:
        if jump.repair is not None:
            place = int(np.searchsorted(days, np.datetime64(jump.session)))
            if jump.kind == "step":
                repaired["adj_close"][:place] *= jump.repair
            else:
                for column in PRICE_COLUMNS:
                    repaired[column][place] *= jump.repair
    return repaired


def check_recent(bars: Columns, *, ticker: str, sessions: int, mode: JumpMode) -> tuple[Columns, list[Jump]]:
    """Check the sessions that a forecast rests on.

    Args:
        bars: Columns of bars.
        ticker: Name of the ticker.
        sessions: How many of the latest sessions the forecast uses; a jump before them does no harm.
        mode: What to do with jumps; see `features.config.QualityConfig`.

    Returns:
        The bars, repaired if `mode` says so, and the jumps that stay in them.

    Raises:
        JumpError: If there are jumps in these sessions, and `mode` does not accept them.
    """
    found = find_jumps(bars)
    if mode == "repair" and found:
        bars = without_jumps(bars, found)
        found = [jump for jump in found if jump.repair is None]
    first = bars["date"].astype("datetime64[D]")[-sessions:][0].item()
    if mode != "accept":
        recent = [jump for jump in found if jump.session >= first]
        check_jumps(recent, ticker=ticker, where=f"the last {sessions} sessions, which the forecast rests on")
    return bars, found


def check_jumps(jumps: Sequence[Jump], *, ticker: str, where: str) -> None:
    """Refuse prices with jumps.

    Args:
        jumps: What was found.
        ticker: Name of the ticker.
        where: The part of the prices that they are in, in words.

    Raises:
        JumpError: If there are any; names date, factor and likely cause of the first ones.
    """
    if not jumps:
        return
    shown = "".join(f"\n  {jump}" for jump in jumps[:_SHOWN])
    more = f"\n  and {len(jumps) - _SHOWN} more" if len(jumps) > _SHOWN else ""
    certain = sum(jump.repair is not None for jump in jumps)
    repair = f" {certain} of them can be repaired: --repair-jumps (quality.jumps = repair)." if certain else ""
    raise JumpError(
        f"{ticker}: the adjusted close jumps in {where}:{shown}{more}\nCorrect the prices, or download them again."
        f"{repair} If the moves are real: --accept-jumps (quality.jumps = accept)."
    )


def _sigma(moves: NDArray[np.float64], place: int) -> float:
    """Return the daily standard deviation around a move, without it, the next one, and other extreme ones."""
    around = np.concatenate([moves[max(0, place - _NEIGHBOURS) : place], moves[place + 2 : place + 2 + _NEIGHBOURS]])
    around = around[np.abs(around) < np.log(1.8)]
    return float(np.std(around)) if len(around) >= _FEWEST_NEIGHBOURS else float("inf")


def _is_spike(moves: NDArray[np.float64], place: int, sigma: float) -> bool:
    if place + 1 >= len(moves) or not sigma > 0:
        return False
    up, down = moves[place], moves[place + 1]
    return bool(
        up * down < 0
        and min(abs(up), abs(down)) > SPIKE_SIGMAS * sigma
        and abs(up + down) < min(abs(up), abs(down)) / 2
    )


def _near(move: float, sigma: float) -> int | None:
    """Return the listed factor that a move is near, or `None`."""
    tolerance = float(np.clip(_FACTOR_SIGMAS * sigma, _LEAST_TOLERANCE, _MOST_TOLERANCE))
    distances = {factor: abs(abs(move) - float(np.log(factor))) for factor in FACTORS}
    nearest = min(distances, key=lambda factor: distances[factor])
    return nearest if distances[nearest] <= tolerance else None


def _spike(bars: Columns, moves: NDArray[np.float64], place: int, sigma: float) -> Jump:
    row = place + 1
    level = float(np.exp((np.log(bars["adj_close"][row - 1]) + np.log(bars["adj_close"][row + 1])) / 2))
    move = float(np.log(bars["adj_close"][row] / level))
    factor = _near(move, sigma)
    inverse = None if factor is None else (1 / factor if move > 0 else float(factor))
    scale = bars["adj_close"][row - 1] / bars["close"][row - 1]
    whole = inverse is not None and all(
        abs(np.log(bars[column][row] * (1 if column == "adj_close" else scale) * inverse / level))
        <= max(_SPIKE_ROOM * sigma, _LEAST_TOLERANCE)
        for column in PRICE_COLUMNS
    )
    cause = {
        100: "pence and pounds mixed, or a decimal point in the wrong place",
        10: "a decimal point in the wrong place",
        1000: "a decimal point in the wrong place",
    }.get(factor or 0, "a typing error, or a split that is adjusted on one day only" if factor else "a typing error")
    return Jump(
        session=_day(bars, row),
        factor=float(np.exp(moves[place])),
        kind="spike",
        cause=f"back at once: {cause}",
        repair=inverse if whole else None,
    )


def _step(bars: Columns, moves: NDArray[np.float64], place: int, sigma: float) -> Jump | None:
    move, row = float(moves[place]), place + 1
    factor = _near(move, sigma)
    calm = 0.0 if np.isinf(sigma) else sigma
    if abs(move) <= _LEAST_SIGMAS * calm or (factor is None and abs(move) <= np.log(LARGEST_MOVE)):
        return None
    raw = float(np.log(bars["close"][row] / bars["close"][row - 1]))
    if factor is None:
        cause = "larger than markets move"
    elif abs(raw - move) > abs(move) / 2:
        cause = "the adjusted close changes its basis, the close does not"
    elif factor == 100:
        cause = "pence and pounds, or a decimal point in the wrong place from here on"
    elif factor == 1000:
        cause = "a decimal point in the wrong place from here on"
    elif move < 0:
        cause = f"a split of {factor} for 1 that is not adjusted"
    else:
        cause = f"a reverse split of 1 for {factor} that is not adjusted"
    certain = factor is not None and np.isfinite(sigma) and _lasts(bars, move, row, factor, sigma)
    scale = None if factor is None else (1 / factor if move < 0 else float(factor))
    return Jump(
        session=_day(bars, row),
        factor=float(np.exp(move)),
        kind="step",
        cause=cause,
        repair=scale if certain else None,
    )


def _lasts(bars: Columns, move: float, row: int, factor: int, sigma: float) -> bool:
    """Return whether a step by a factor is certain: the session already opens there, and the prices stay."""
    adjusted = bars["adj_close"]
    before, after = adjusted[max(0, row - _LASTING) : row], adjusted[row : row + _LASTING]
    if len(before) < _LASTING or len(after) < _LASTING:
        return False
    expected = float(np.sign(move) * np.log(factor))
    opening = bars["open"][row] * adjusted[row] / bars["close"][row]
    room = max(4 * sigma, _LEAST_TOLERANCE)
    return bool(
        abs(np.log(opening / adjusted[row - 1]) - expected) <= room
        and abs(np.log(np.median(after) / np.median(before)) - expected) <= 2 * room
    )


def _day(bars: Columns, row: int) -> date:
    day: date = bars["date"][row].astype("datetime64[D]").item()
    return day
