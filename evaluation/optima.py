"""What can be attained on a synthetic market: by who knows the process, and by who sees only the prompt."""

import numpy as np
from numpy.typing import NDArray

from features.synthetic import STAY

Floats = NDArray[np.float64]

RIDGE = 10.0
BOOSTED_ITERATIONS = 150


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
    step = chain * coefficients[None, :]
    # expected[k, i]: E[r_{t+k} | r_t = 1, regime i].
    expected = np.array([np.linalg.matrix_power(step, int(k)) @ np.ones(2) for k in range(horizon + 1)])
    covariance = expected @ (start * variance)
    apart = np.abs(np.subtract.outer(ahead, ahead))
    naive = np.array([covariance[apart[:h, :h]].sum() for h in ahead])
    known = np.array([(expected[1 : h + 1].sum(axis=0) ** 2) @ (start * variance) for h in ahead])
    return float(1 - known.sum() / naive.sum())


def prompt_optimum(
    numbers: tuple[Floats, Floats], targets: tuple[Floats, Floats], *, nonlinear: bool = True
) -> tuple[float, str]:
    """Least mean squared error over persistence's that predictors of the prompt's numbers attain: MSE*.

    A ridge regression and gradient-boosted trees (scikit-learn) are fitted on one sample of windows and scored on
    another; the better one counts.

    Args:
        numbers: Every number that the prompts show, shape `(n_windows, values)`: to fit on, and to score on.
        targets: Realised values in model units, shape `(n_windows, horizon)`, likewise.
        nonlinear: Whether to try the trees too, which takes longer.

    Returns:
        The ratio on the second sample, and the name of the predictor.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = make_pipeline(StandardScaler(), Ridge(RIDGE)).fit(numbers[0], targets[0])
    naive = np.mean(targets[1] ** 2)
    forecasts = linear.predict(numbers[1])
    found = {"ridge": float(np.mean((forecasts - targets[1]) ** 2) / naive)}
    if nonlinear:
        # Trees on what the ridge leaves over: each is good at what the other is bad at.
        rest = targets[0] - linear.predict(numbers[0])
        boosted = np.stack(
            [
                HistGradientBoostingRegressor(max_iter=BOOSTED_ITERATIONS, learning_rate=0.05, random_state=0)
                .fit(numbers[0], rest[:, session])
                .predict(numbers[1])
                for session in range(rest.shape[1])
            ],
            axis=1,
        )
        found["ridge and trees"] = float(np.mean((forecasts + boosted - targets[1]) ** 2) / naive)
    name = min(found, key=lambda each: found[each])
    return found[name], name
