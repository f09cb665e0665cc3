"""The best attainable error of known markets, against simulation, and the score of a model's share of it."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from tickerforge.evaluation.baselines.simple import baseline_forecasts
from tickerforge.evaluation.bench.known_markets import (
    KNOWN,
    Sample,
    attained,
    captured_share,
    expected_gains,
    known_forecasts,
    process_optimum,
    prompt_optimum,
)
from tickerforge.evaluation.core.forecasts import collect_forecasts
from tickerforge.evaluation.metrics.accuracy import crps
from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.features.prompts import render_answer
from tickerforge.features.splits import split_borders
from tickerforge.features.synthetic import expected_moves, log_prices, market
from tickerforge.features.windows import build_windows

HORIZON = 10
SESSIONS = 400_000
AHEAD = np.arange(1, HORIZON + 1)


def moves(path: np.ndarray) -> np.ndarray:
    """Log price 1 ... HORIZON sessions ahead minus that of the origin, shape (origins, horizon)."""
    origins = len(path) - HORIZON
    return np.stack([path[h : h + origins] - path[:origins] for h in AHEAD], axis=1)


def ratio(forecast: np.ndarray, target: np.ndarray) -> float:
    return float(np.mean((forecast - target) ** 2) / np.mean(target**2))


@pytest.mark.parametrize("phi", [0.8, 0.95])
def test_the_optimum_of_mean_reversion_is_what_the_conditional_mean_attains(phi: float) -> None:
    rng = np.random.default_rng(1)
    path = log_prices("mean_reverting", phi=phi, sessions=SESSIONS, volatility=0.02, tail=30.0, rng=rng)
    known = -path[:-HORIZON, None] * (1 - phi**AHEAD)
    assert process_optimum("mean_reverting", phi=phi, horizon=HORIZON) == pytest.approx(
        ratio(known, moves(path)), abs=0.01
    )


def test_the_optimum_of_momentum_is_what_the_conditional_mean_attains() -> None:
    phi, rng = 0.4, np.random.default_rng(2)
    path = log_prices("momentum", phi=phi, sessions=SESSIONS, volatility=0.02, tail=30.0, rng=rng)
    returns = np.diff(path, prepend=0.0)[:-HORIZON, None]
    known = returns * phi * (1 - phi**AHEAD) / (1 - phi)
    assert process_optimum("momentum", phi=phi, horizon=HORIZON) == pytest.approx(ratio(known, moves(path)), abs=0.01)


def test_the_optimum_of_the_regime_switch_is_out_of_reach_for_who_must_guess_the_regime() -> None:
    phi = 0.6
    optimum = process_optimum("regime_switch", phi=phi, horizon=HORIZON)
    assert process_optimum("momentum", phi=phi, horizon=HORIZON) < optimum < 1.0
    rng = np.random.default_rng(3)
    path = log_prices("regime_switch", phi=phi, sessions=SESSIONS, volatility=0.02, tail=30.0, rng=rng)
    returns, target = np.diff(path, prepend=0.0)[:-HORIZON], moves(path)
    # The last return alone does not show the regime: no linear forecast from it is better than the optimum.
    blind = returns[:, None] * (returns @ target) / (returns @ returns)
    assert optimum < ratio(blind, target) < 1.0


@pytest.mark.parametrize(
    ("process", "phi"), [("mean_reverting", 0.8), ("momentum", 0.4), ("regime_switch", 0.6), ("random_walk", 0.0)]
)
def test_no_forecast_of_a_market_is_better_than_its_expected_moves(process: str, phi: float) -> None:
    config = SyntheticConfig.model_validate(
        {"process": process, "phi": phi, "sessions": 200_000, "tail": 30.0, "seed": 11}
    )
    target = moves(np.log(market(config)["close"].to_numpy()))
    known = expected_moves(config, horizon=HORIZON)[: len(target)]
    assert ratio(known, target) == pytest.approx(process_optimum(process, phi=phi, horizon=HORIZON), abs=0.012)
    # The expected moves do not predict the residuals.
    rest = (target - known)[::HORIZON]
    assert abs(np.sum(rest * known[::HORIZON])) <= 4 * np.sqrt(np.sum((rest * known[::HORIZON]).sum(axis=1) ** 2))


def test_expected_gains_are_what_squared_errors_come_to_in_the_long_run_and_vary_less() -> None:
    config = SyntheticConfig(process="momentum", phi=0.4, sessions=200_000, tail=30.0, seed=12)
    path = np.log(market(config)["close"].to_numpy())
    target = moves(path)[1::HORIZON]
    forecast = np.diff(path)[: len(moves(path)) - 1 : HORIZON, None] * np.full(HORIZON, 0.3)
    known = expected_moves(config, horizon=HORIZON)[: len(moves(path))][1::HORIZON]
    realised = ((target - forecast) ** 2 - target**2).mean(axis=1)
    gains = expected_gains(forecast, expected=known).mean(axis=1)
    assert gains.mean() == pytest.approx(realised.mean(), abs=4 * realised.std() / len(realised) ** 0.5)
    assert gains.mean() < 0
    assert gains.std() < 0.3 * realised.std()


def test_nothing_can_be_forecast_of_a_random_walk() -> None:
    assert process_optimum("random_walk", phi=0.0, horizon=HORIZON) == 1.0


def test_a_process_without_a_known_optimum_is_refused() -> None:
    with pytest.raises(ValueError, match="no optimum is known"):
        process_optimum("chaos", phi=0.5, horizon=HORIZON)


def test_the_best_predictor_of_what_is_shown_finds_a_linear_and_a_curved_relation() -> None:
    rng = np.random.default_rng(4)

    def sample(size: int) -> Sample:
        shown = rng.normal(size=(size, 3))
        clean = np.stack([shown[:, 0], np.abs(shown[:, 1])], axis=1)
        # The size of the noise can be read off the third number; its second moment is 1.
        noise = np.exp(0.6 * shown[:, 2:] - 0.6**2) * rng.normal(size=clean.shape)
        return Sample(shown, clean + noise, clean)

    asked = sample(10_000)
    (found, again), predictor, percentiles = prompt_optimum(sample(20_000), sample(10_000), asked)
    # Signal and noise have the same second moment.
    assert (found, again) == pytest.approx((0.5, 0.5), abs=0.03)
    assert predictor == "ridge and trees"
    size = np.exp(0.6 * asked.shown[:, 2:] - 0.6**2)
    perfect = asked.expected[:, None] + size[:, None] * norm.ppf(np.arange(1, 100) / 100)[:, None]
    alike = asked.expected[:, None] + norm.ppf(np.arange(1, 100) / 100)[:, None]
    ours, best, same = (crps(each, asked.targets).mean() for each in (percentiles, perfect, alike))
    assert best < ours < best + 0.4 * (same - best)


def test_persistence_attains_nothing_and_the_truth_attains_all() -> None:
    features = FeatureConfig()
    bars = market(SyntheticConfig(sessions=900))
    windows = build_windows(bars, ticker="DEMO", config=features).iloc[::HORIZON].reset_index(drop=True)
    # If the future is known, the expected moves are the actual ones.
    truth = np.log(np.stack(list(windows["target"])) / np.stack(list(windows["history"]))[:, -1:])
    flat = collect_forecasts(
        windows,
        lambda prompts, n: [[render_answer([0] * HORIZON)] * n] * len(prompts),
        model="flat",
        config=features,
        n_samples=4,
    )
    found = attained(windows, flat, model="flat", expected=truth)
    assert (found.mse, found.realised, found.single, found.crps) == pytest.approx((1.0, 1.0, 1.0, 1.0))
    assert found.mse_error == pytest.approx(0.0, abs=1e-12)
    assert (found.valid_rate, found.windows) == (1.0, len(windows))
    assert captured_share(found.mse, optimum=0.7) == pytest.approx(0.0)

    known = flat.assign(median=windows["target"], samples=[[list(target)] * 4 for target in windows["target"]])
    best = attained(windows, known, model="flat", expected=truth)
    assert (best.mse, best.realised, best.single, best.crps) == pytest.approx((0.0, 0.0, 0.0, 0.0), abs=1e-9)


@pytest.mark.parametrize("process", ["mean_reverting", "garch"])
def test_what_knows_the_process_beats_the_free_forecast_and_its_band_is_right(process: str) -> None:
    config = SyntheticConfig.model_validate({"process": process, "sessions": 4000, "seed": 9})
    bars = market(config)
    windows = build_windows(bars, ticker="DEMO", config=FeatureConfig())
    asked = windows[windows["split"] == "test"].iloc[::HORIZON]
    train = bars.iloc[: split_borders(len(bars), FeatureConfig()).train_end]
    free = baseline_forecasts(asked, windows=windows, train=train)
    both = pd.concat([known_forecasts(asked, config, seed=1), free])
    expected = np.zeros((len(asked), HORIZON))
    known, walk = (attained(asked, both, model=model, expected=expected) for model in (KNOWN, "random_walk"))
    assert known.crps < walk.crps
    assert known.coverage == pytest.approx(0.8, abs=0.06)
    assert captured_share(known.crps, optimum=known.crps, free=walk.crps) == pytest.approx(1.0)


def test_single_answers_that_scatter_score_worse_than_their_median() -> None:
    features = FeatureConfig()
    windows = build_windows(market(SyntheticConfig(sessions=600)), ticker="DEMO", config=features)
    answers = [render_answer([value] * HORIZON) for value in (-40, 0, 0, 40)]
    frame = collect_forecasts(
        windows, lambda prompts, n: [answers] * len(prompts), model="wide", config=features, n_samples=4
    )
    found = attained(windows, frame, model="wide", expected=np.zeros((len(windows), HORIZON)))
    assert found.mse == pytest.approx(1.0)
    assert found.single > 1.3


def test_the_captured_share_of_the_optimum_is_one_and_of_nothing_is_undefined() -> None:
    assert captured_share(0.7, optimum=0.7) == pytest.approx(1.0)
    assert captured_share(0.85, optimum=0.7) == pytest.approx(0.5)
    assert np.isnan(captured_share(1.0, optimum=1.0))
