"""Tests of many forecasters together: is any better than the reference, which may be best, intervals of the skill."""

from collections.abc import Mapping

import numpy as np

from tickerforge.evaluation.core.contracts import Floats, Ints, Superiority
from tickerforge.evaluation.evidence.intervals import block_length, skill_interval, stationary_rows
from tickerforge.evaluation.evidence.significance import too_few

_REPLICATIONS = 1000
CONFIDENCE = 0.9
_SEED = 0


def superiority(
    losses: Mapping[str, Floats],
    *,
    reference: str,
    candidates: tuple[str, ...],
    positions: Ints,
    horizon: int,
    replications: int = _REPLICATIONS,
) -> Superiority:
    """Test superior predictive ability, and compute model confidence set and skill intervals by stationary bootstrap.

    * `p_value`: the probability that the best of `candidates` would look as good against the reference if none were
      better, corrected for their number (Hansen 2005, JBES 23: the consistent p-value; arch's `SPA`).
    * `confidence_set`: the forecasters that may be the best, at `CONFIDENCE` (Hansen, Lunde and Nason 2011,
      Econometrica 79; arch's `MCS`, method R).
    * `skill_intervals`: for each other forecaster the central 95 % of ``1 - mean loss / mean loss of the reference``,
      see `evaluation.evidence.intervals`; without enough information a forecaster has none.

    Blocks have a mean length of twice the horizon, and at least 10 sessions, because losses overlap within a horizon.
    All seeds are fixed: the same losses give the same figures.

    Args:
        losses: Loss of every forecaster by session, shape (k,) each, in time order.
        reference: Name of the forecaster that the others are compared with.
        candidates: The forecasters to test.
        positions: Session numbers, ascending, shape (k,).
        horizon: Sessions ahead.
        replications: Bootstrap samples.

    Returns:
        The figures. If fewer than 4 windows are independent, or no candidate differs from the reference, p is 1, the
        set has all forecasters, and there is a note.
    """
    block = block_length(positions, horizon=horizon)
    differing = [name for name in losses if name != reference and np.ptp(losses[name] - losses[reference]) > 0]
    tested = [name for name in candidates if name in differing]
    note = too_few(positions, horizon=horizon)
    if not note and not tested:
        note = "no candidate's losses differ from the reference's"
    if note:
        return Superiority(
            reference=reference,
            candidates=candidates,
            p_value=1.0,
            confidence_set=tuple(losses),
            confidence=CONFIDENCE,
            skill_intervals={},
            block=block,
            note=note,
        )
    from arch.bootstrap import MCS, SPA

    models = np.stack([losses[name] for name in tested], axis=1)
    ability = SPA(losses[reference], models, block_size=block, reps=replications, seed=_SEED)
    ability.compute()
    everything = [reference, *differing]
    distinct = _distinct(losses, everything)
    best = MCS(
        np.stack([losses[name] for name in distinct], axis=1),
        size=1 - CONFIDENCE,
        reps=replications,
        block_size=block,
        seed=_SEED,
    )
    best.compute()
    kept = {distinct[int(place)] for place in best.included}
    kept |= {name for name in losses for other in tuple(kept) if np.array_equal(losses[name], losses[other])}
    rows = stationary_rows(len(positions), block=block, replications=replications, seed=_SEED)
    intervals = {
        name: skill_interval(losses[name], losses[reference], positions=positions, horizon=horizon, draws=rows)
        for name in differing
    }
    return Superiority(
        reference=reference,
        candidates=candidates,
        p_value=float(ability.pvalues["consistent"]),
        confidence_set=tuple(name for name in losses if name in kept),
        confidence=CONFIDENCE,
        skill_intervals={
            name: (float(ends[0]), float(ends[1])) for name, ends in intervals.items() if ends is not None
        },
        block=block,
        note="",
    )


def _distinct(losses: Mapping[str, Floats], names: list[str]) -> list[str]:
    """Drop names whose losses equal those of another: their difference never varies."""
    kept: list[str] = []
    for name in names:
        if not any(np.array_equal(losses[name], losses[other]) for other in kept):
            kept.append(name)
    return kept
