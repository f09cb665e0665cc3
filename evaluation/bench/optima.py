"""What can be attained on a synthetic market: by who knows the process, and by who sees only the prompt."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tickerforge.features.synthetic import STAY, returns_ahead

Floats = NDArray[np.float64]

RIDGE = 10.0
BOOSTED_ITERATIONS = 150


class Sample(NamedTuple):
    """Windows of a known market; n windows, h sessions ahead.

    `shown` (n, k) is every number that a prompt shows; `targets` (n, h) what came, and `expected` (n, h) what who knows
    the process expected, both in model units.
    """

    shown: Floats
    targets: Floats
    expected: Floats


def process_optimum(process: str, *, phi: float, horizon: int) -> float:
    """Least mean squared error over persistence's, for who knows the process, its parameters, history and regime.

    The conditional mean is the best forecast. With x the log price, r = x_t - x_{t-1} and shocks of variance 1, the
    mean squared error of persistence at session h less that of the conditional mean is the variance of the latter:

    * mean-reverting, x_t = φ x_{t-1} + ε: ``(1 - φ^h)² / (1 - φ²)`` of ``2 (1 - φ^h) / (1 - φ²)``.
    * momentum, r_t = φ r_{t-1} + ε: ``(φ (1 - φ^h) / (1 - φ))² / (1 - φ²)`` of ``Σ_jk φ^|j-k| / (1 - φ²)``.
    * regime switch: the same with the products of coefficients along the Markov chain in the place of powers of φ.
    * random walk: nothing.

    Args:
        process: As in `features.synthetic.log_prices`.
        phi: Coefficient of the process.
        horizon: Sessions ahead; errors are averaged over 1 ... horizon.

    Returns:
        A ratio; 1 where nothing can be forecast.
    """
    if process == "random_walk":
        return 1.0
    ahead = np.arange(1, horizon + 1)
    if process == "mean_reverting":
        naive, known = 2 * (1 - phi**ahead), (1 - phi**ahead) ** 2
        return float(1 - known.sum() / naive.sum())
    if process not in ("momentum", "regime_switch"):
        raise ValueError(f"no optimum is known for the process {process!r}")
    stay = STAY if process == "regime_switch" else 1.0
    chain = np.array([[stay, 1 - stay], [1 - stay, stay]])
    coefficients = np.array([phi, 0.0])
    start = np.array([0.5, 0.5]) if process == "regime_switch" else np.array([1.0, 0.0])
    # E[r² | regime] solves v = 1 + φ² · (v of the session before, weighted by the chain, which is symmetric).
    variance = np.linalg.solve(np.eye(2) - (coefficients**2)[:, None] * chain, np.ones(2))
    expected = returns_ahead(phi, stay=stay, horizon=horizon)
    covariance = expected @ (start * variance)
    apart = np.abs(np.subtract.outer(ahead, ahead))
    naive = np.array([covariance[apart[:h, :h]].sum() for h in ahead])
    known = np.array([(expected[1 : h + 1].sum(axis=0) ** 2) @ (start * variance) for h in ahead])
    return float(1 - known.sum() / naive.sum())


def expected_gains(forecast: Floats, *, expected: Floats) -> Floats:
    """By how much a forecast's squared error exceeds that of no move, in expectation over what the market then does.

    With y the move, m its expectation given all that any forecaster could know, and f a forecast from less than that:
    ``E[(y - f)² - y²] = (m - f)² - m²`` (Rao-Blackwell). The luck of what came, most of a squared error's variance, is
    gone.

    Args:
        forecast: Moves, shape `(n, h)`.
        expected: m, shape `(n, h)`, in the same unit.

    Returns:
        Shape `(n, h)`; negative is better than no move.
    """
    return np.asarray((expected - forecast) ** 2 - expected**2)


def prompt_optimum(fitted: Sample, *scored: Sample) -> tuple[list[float], str]:
    """Least mean squared error over persistence's that predictors of the prompt's numbers attain: MSE*.

    A ridge regression and gradient-boosted trees on what it leaves over (scikit-learn) are fitted on one sample of
    windows; the one that is better on the first of the other samples counts.

    Args:
        fitted: Windows to fit on.
        scored: Samples of other windows, where errors are taken in expectation (`expected_gains`).

    Returns:
        For each sample the ratio, and the name of the predictor.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    shown, targets, _ = fitted
    linear = make_pipeline(StandardScaler(), Ridge(RIDGE)).fit(shown, targets)
    ridge = [linear.predict(each) for each, _, _ in scored]
    rest = targets - linear.predict(shown)
    trees = [np.empty_like(each) for each in ridge]
    for session in range(targets.shape[1]):
        boosted = HistGradientBoostingRegressor(max_iter=BOOSTED_ITERATIONS, learning_rate=0.05, random_state=0)
        boosted.fit(shown, rest[:, session])
        for found, (each, _, _) in zip(trees, scored, strict=True):
            found[:, session] = boosted.predict(each)
    candidates = {"ridge": ridge, "ridge and trees": [a + b for a, b in zip(ridge, trees, strict=True)]}
    ratios = {
        name: [
            1 + float(expected_gains(forecast, expected=each.expected).mean() / np.mean(each.targets**2))
            for forecast, each in zip(forecasts, scored, strict=True)
        ]
        for name, forecasts in candidates.items()
    }
    best = min(ratios, key=lambda name: ratios[name][0])
    return ratios[best], best
