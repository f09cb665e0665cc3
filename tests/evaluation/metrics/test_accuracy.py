"""Metrics against closed forms and independent implementations."""

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, mean_squared_error

from evaluation_frames import market_windows, noisy_forecasts
from tickerforge.evaluation.baselines.simple import baseline_forecasts
from tickerforge.evaluation.core.panels import answers_of, session_calendar, truth_of
from tickerforge.evaluation.metrics import accuracy as metrics
from tickerforge.evaluation.metrics.scores import scales_of, score

RNG = np.random.default_rng(11)
TRUTH = 100 * np.exp(RNG.normal(0, 0.05, (40, 10)))
FORECAST = 100 * np.exp(RNG.normal(0, 0.05, (40, 10)))


def test_point_errors_agree_with_scikit_learn() -> None:
    assert metrics.mse(TRUTH, FORECAST) == pytest.approx(mean_squared_error(TRUTH, FORECAST))
    assert metrics.mae(TRUTH, FORECAST) == pytest.approx(mean_absolute_error(TRUTH, FORECAST))
    assert metrics.rmse(TRUTH, FORECAST) == pytest.approx(np.sqrt(mean_squared_error(TRUTH, FORECAST)))


def test_standardising_divides_every_error_by_the_train_deviation() -> None:
    mean, std = np.full(40, 90.0), np.full(40, 4.0)
    z = [metrics.standardised(prices, mean=mean, std=std) for prices in (TRUTH, FORECAST)]
    assert metrics.mse(*z) == pytest.approx(metrics.mse(TRUTH, FORECAST) / 16)
    assert metrics.mae(*z) == pytest.approx(metrics.mae(TRUTH, FORECAST) / 4)


def test_a_random_walk_costs_persistence_one_daily_variance_per_session_ahead() -> None:
    sigma, windows = 0.02, 40_000
    steps = np.random.default_rng(0).normal(0, sigma, (windows, 10))
    target = 50 * np.exp(np.cumsum(steps, axis=1))
    errors = metrics.scaled_errors(target, np.full((windows, 10), 50.0), sigma=np.full(windows, sigma))
    np.testing.assert_allclose(errors.mean(axis=0), np.arange(1, 11), rtol=0.03)


def test_scaled_errors_ignore_the_price_level() -> None:
    sigma = np.full(40, 0.01)
    dear = metrics.scaled_errors(2500 * TRUTH, 2500 * FORECAST, sigma=sigma)
    np.testing.assert_allclose(dear, metrics.scaled_errors(TRUTH, FORECAST, sigma=sigma))


def test_skill_is_zero_for_the_reference_and_one_for_perfection() -> None:
    assert metrics.skill(2.0, 2.0) == 0.0
    assert metrics.skill(0.0, 2.0) == 1.0
    assert metrics.skill(3.0, 2.0) == -0.5
    assert metrics.skill(0.0, 0.0) == 0.0
    assert metrics.skill(1.0, 0.0) == -np.inf


def test_direction_counts_hits_and_half_a_hit_for_no_opinion() -> None:
    origin = np.full(5, 10.0)
    truth = np.array([[11.0], [9.0], [11.0], [9.0], [10.0]])
    forecast = np.array([[12.0], [8.0], [9.0], [10.0], [12.0]])
    assert metrics.directional_accuracy(truth, forecast, origin_price=origin) == pytest.approx(
        (1 + 1 + 0 + 0.5 + 0.5) / 5
    )
    assert metrics.directional_accuracy(truth, np.full((5, 1), 10.0), origin_price=origin) == 0.5


def test_crps_agrees_with_the_mean_over_all_pairs() -> None:
    samples, truth = RNG.normal(size=(7, 9, 4)), RNG.normal(size=(7, 4))
    pairs = np.abs(samples[:, :, None, :] - samples[:, None, :, :]).mean(axis=(1, 2))
    expected = np.abs(samples - truth[:, None]).mean(axis=1) - pairs / 2
    np.testing.assert_allclose(metrics.crps(samples, truth), expected)


def test_crps_of_a_large_normal_ensemble_is_the_closed_form() -> None:
    from scipy.stats import norm

    y = 0.7
    closed = y * (2 * norm.cdf(y) - 1) + 2 * norm.pdf(y) - 1 / np.sqrt(np.pi)
    quantiles = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    assert metrics.crps(quantiles[None, :, None], np.array([[y]]))[0, 0] == pytest.approx(closed, abs=1e-4)


def test_crps_of_one_member_is_the_absolute_error() -> None:
    assert metrics.crps(np.array([[[3.0]]]), np.array([[5.0]]))[0, 0] == 2.0


@pytest.mark.parametrize(("members", "tolerance"), [(9, 0.005), (16, 0.02), (19, 0.005), (32, 0.01)])
def test_band_of_a_calibrated_forecaster_covers_its_nominal_share_at_any_ensemble_size(
    members: int, tolerance: float
) -> None:
    rng = np.random.default_rng(members)
    samples, truth = rng.standard_t(5, (40_000, members, 1)), rng.standard_t(5, (40_000, 1))
    lower, upper = metrics.band(samples, interval=0.8)
    assert np.mean((lower <= truth) & (truth <= upper)) == pytest.approx(0.8, abs=tolerance)


def test_windows_without_a_valid_answer_have_the_distribution_of_the_random_walk_and_are_counted() -> None:
    windows, train = market_windows()
    test = windows[windows["split"] == "test"]
    forecasts = noisy_forecasts(test, model="sft", knowledge=0.1)
    silent = np.arange(len(test)) % 3 == 0
    forecasts["samples"] = [[] if none else each for each, none in zip(forecasts["samples"], silent, strict=True)]
    forecasts["n_valid"] = np.where(silent, 0, forecasts["n_valid"])
    truth = truth_of(test, split="test", calendar=session_calendar(windows))
    free = baseline_forecasts(test, windows=windows, train=train)
    walk, own = (
        answers_of(each, model=name, truth=truth) for each, name in ((free, "random_walk"), (forecasts, "sft"))
    )
    figures, fit = score(truth, own, interval=0.8, walk=walk)
    _, spoken = score(truth, own, interval=0.8)
    _, lent = score(truth, walk, interval=0.8)
    np.testing.assert_allclose(fit.crps[silent], lent.crps[silent])
    np.testing.assert_array_equal(fit.crps[~silent], spoken.crps[~silent])
    assert figures["answered"] == pytest.approx(1 - silent.mean())


def test_windows_with_different_numbers_of_valid_answers_are_scored_like_each_alone() -> None:
    windows, _ = market_windows()
    test = windows[windows["split"] == "test"].head(6)
    forecasts = noisy_forecasts(test, model="sft", knowledge=0.1)
    for place, kept in enumerate([16, 3, 0, 9, 0, 3]):
        row = forecasts.index[place]
        forecasts.at[row, "samples"] = forecasts.at[row, "samples"][:kept]
        forecasts.at[row, "n_valid"] = kept
    calendar = session_calendar(windows)

    def scored(part: slice) -> dict[str, float | None]:
        truth = truth_of(test.iloc[part], split="test", calendar=calendar)
        return score(truth, answers_of(forecasts.iloc[part], model="sft", truth=truth), interval=0.8)[0]

    together, apart = scored(slice(0, 6)), [scored(slice(row, row + 1)) for row in range(6)]
    for name in ("mse", "scaled_mse", "crps", "coverage", "valid_rate", "answered"):
        assert together[name] == pytest.approx(np.mean([each[name] for each in apart])), name
    assert together["answered"] == pytest.approx(4 / 6)
    assert together["valid_rate"] == pytest.approx(31 / 96)


def test_mase_of_persistence_is_one_on_the_very_windows_that_set_its_scale() -> None:
    windows, _ = market_windows()
    train = windows[windows["split"] == "train"]
    origin = np.stack(train["history"].to_list())[:, -1]
    target = np.stack(train["target"].to_list())
    scale = np.full(len(train), scales_of(windows).naive["DEMO"])
    assert metrics.mase(target, np.repeat(origin[:, None], 10, axis=1), scale=scale) == pytest.approx(1.0)
    assert metrics.mase(target, target + 2 * scale[:, None], scale=scale) == pytest.approx(2.0)
    assert scales_of(windows[windows["split"] == "test"]).naive == {}


def test_matthews_and_rank_correlation_agree_with_scikit_learn_and_scipy() -> None:
    from scipy.stats import spearmanr
    from sklearn.metrics import matthews_corrcoef

    moved, expected = RNG.normal(size=300), RNG.normal(size=300).round(1)
    expected += 0.4 * moved.round(1)
    both = expected != 0
    known = matthews_corrcoef(np.sign(moved[both]), np.sign(expected[both]))
    assert metrics.matthews(moved, expected) == pytest.approx(known)
    assert metrics.rank_correlation(moved, expected) == pytest.approx(spearmanr(moved, expected).statistic)


def test_always_saying_up_earns_no_matthews_correlation_and_no_opinion_has_none() -> None:
    moved = np.abs(RNG.normal(size=50)) - 0.1
    assert metrics.matthews(moved, np.ones(50)) == 0.0
    assert metrics.matthews(moved, np.zeros(50)) is None
    assert metrics.rank_correlation(moved, np.zeros(50)) is None
