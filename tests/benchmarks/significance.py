"""Size and power of the tests, by simulation: forecasts of random walks whose losses overlap.

Under the null all forecasters forecast the last value plus noise of the same size, so that none is better; noise and
targets are both persistent, the worst case. Under the alternative the candidates know a share of each coming move.

With --crps the forecasts are normal distributions, scored by their CRPS, with noise in the spread too.
"""

import argparse

import numpy as np
from scipy.stats import norm

from tickerforge.evaluation.evidence.significance import diebold_mariano
from tickerforge.evaluation.evidence.superiority import superiority

HORIZON = 10


def panel(sessions: int, *, models: int, knowledge: float, seed: int) -> dict[str, np.ndarray]:
    """Simulate losses by session of a reference and of some candidates."""
    rng = np.random.default_rng(seed)
    path = np.concatenate([[0.0], np.cumsum(rng.standard_t(5, sessions + HORIZON) / np.sqrt(5 / 3))])
    ahead = np.arange(1, HORIZON + 1)
    moves = path[np.arange(sessions)[:, None] + ahead] - path[:sessions, None]
    noise = np.empty((models + 1, sessions))
    noise[:, 0] = rng.standard_normal(models + 1)
    for day in range(1, sessions):
        noise[:, day] = 0.95 * noise[:, day - 1] + np.sqrt(1 - 0.95**2) * rng.standard_normal(models + 1)
    names = ["reference", *(f"candidate {number}" for number in range(1, models + 1))]
    shares = [0.0, *[knowledge] * models]
    return {
        name: np.square(moves - share * moves - 0.6 * each[:, None]).mean(axis=1)
        for name, share, each in zip(names, shares, noise, strict=True)
    }


def crps_panel(sessions: int, *, models: int, knowledge: float, seed: int) -> dict[str, np.ndarray]:
    """Simulate the CRPS by session of a reference and of some candidates."""
    rng = np.random.default_rng(seed)
    path = np.concatenate([[0.0], np.cumsum(rng.standard_t(5, sessions + HORIZON) / np.sqrt(5 / 3))])
    ahead = np.arange(1, HORIZON + 1)
    moves = path[np.arange(sessions)[:, None] + ahead] - path[:sessions, None]
    noise = rng.standard_normal((2, models + 1, sessions))
    for day in range(1, sessions):
        noise[:, :, day] = 0.95 * noise[:, :, day - 1] + np.sqrt(1 - 0.95**2) * noise[:, :, day]
    names = ["reference", *(f"candidate {number}" for number in range(1, models + 1))]
    losses = {}
    for place, name in enumerate(names):
        share = knowledge if place else 0.0
        spread = np.sqrt(ahead * (1 - share)) * np.exp(0.2 * noise[1, place])[:, None]
        z = (moves - share * moves - 0.4 * noise[0, place][:, None]) / spread
        own = z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi)
        losses[name] = (spread * own).mean(axis=1)
    return losses


def crps_rates(panels: int, *, sessions: int, knowledge: float) -> float:
    """Count how often the Diebold-Mariano test on the CRPS rejects at 5 %."""
    positions = np.arange(sessions)
    found = []
    for seed in range(panels):
        losses = crps_panel(sessions, models=1, knowledge=knowledge, seed=seed)
        test = diebold_mariano(losses["candidate 1"], losses["reference"], positions=positions, horizon=HORIZON)
        found.append(test.p_value <= 0.05)
    return float(np.mean(found))


def rates(panels: int, *, sessions: int, models: int, knowledge: float, replications: int) -> dict[str, float]:
    """Count how often each test rejects at 5 %, the set drops the reference (10 %), and the interval misses 0."""
    positions = np.arange(sessions)
    found = []
    for seed in range(panels):
        losses = panel(sessions, models=models, knowledge=knowledge, seed=seed)
        first = diebold_mariano(
            losses["candidate 1"], losses["reference"], positions=positions, horizon=HORIZON
        ).p_value
        all_at_once = superiority(
            losses,
            reference="reference",
            candidates=tuple(losses)[1:],
            positions=positions,
            horizon=HORIZON,
            replications=replications,
        )
        # Without an interval nothing is known about the skill.
        low, high = all_at_once.skill_intervals.get("candidate 1", (-np.inf, np.inf))
        found.append(
            (
                first <= 0.05,
                all_at_once.p_value <= 0.05,
                "reference" not in all_at_once.confidence_set,
                not low < 0 < high,
            )
        )
    names = ("Diebold-Mariano", "SPA", "reference not in the MCS", "interval without 0")
    return dict(zip(names, np.mean(found, axis=0).tolist(), strict=True))


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--panels", type=int, default=500)
    parser.add_argument("--sessions", type=int, default=240)
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--replications", type=int, default=400)
    parser.add_argument("--knowledge", type=float, nargs="+", default=[0.0, 0.05, 0.1, 0.2])
    parser.add_argument("--crps", action="store_true")
    options = parser.parse_args()
    for knowledge in options.knowledge if options.crps else ():
        rate = crps_rates(options.panels, sessions=options.sessions, knowledge=knowledge)
        print(
            f"CRPS, {options.sessions} sessions, knows {knowledge:.0%} of each move: Diebold-Mariano {rate:.3f}",
            flush=True,
        )
    for knowledge in () if options.crps else options.knowledge:
        found = rates(
            options.panels,
            sessions=options.sessions,
            models=options.models,
            knowledge=knowledge,
            replications=options.replications,
        )
        print(f"knows {knowledge:.0%} of each move: " + ", ".join(f"{name} {rate:.3f}" for name, rate in found.items()))


if __name__ == "__main__":
    main()
