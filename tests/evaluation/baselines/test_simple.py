"""Free forecasts: their formulas, and that they use the train split only."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.regression.linear_model import OLS

from evaluation_frames import market_windows
from tickerforge.evaluation.baselines.simple import baseline_forecasts
from tickerforge.evaluation.baselines.walks import fit_walks
from tickerforge.evaluation.core.contracts import BASELINES, FORECAST_COLUMNS, FREE
from tickerforge.evaluation.core.errors import TrainRowsError
from tickerforge.evaluation.core.recalibration import MEMBERS, PERCENTILES
from tickerforge.features.config import FeatureConfig
from tickerforge.features.splits import split_borders

AHEAD = np.arange(1, 11)


def stacked(column: pd.Series) -> np.ndarray:
    return np.stack(column.to_list())


def test_every_window_gets_a_forecast_of_each_forecaster_by_its_formula() -> None:
    windows, train = market_windows()
    test = windows[windows["split"] == "test"]
    forecasts = baseline_forecasts(test, windows=windows, train=train)
    assert tuple(forecasts.columns) == FORECAST_COLUMNS
    assert len(forecasts) == len(BASELINES) * len(test)
    assert forecasts.groupby("model")["n_valid"].first().to_dict() == dict.fromkeys(BASELINES, 0) | dict.fromkeys(
        FREE, MEMBERS
    )
    history = np.asarray(test["history"].iloc[4])
    own = forecasts[forecasts["origin"] == test["origin"].iloc[4]].set_index("model")
    close = train["adj_close"].to_numpy()
    np.testing.assert_array_equal(own.at["persistence", "median"], [history[-1]] * 10)
    np.testing.assert_allclose(own.at["window_mean", "median"], [history.mean()] * 10)
    drift = history[-1] + AHEAD * np.diff(close).mean()
    np.testing.assert_allclose(own.at["drift", "median"], drift)
    np.testing.assert_allclose(np.median(own.at["drift", "samples"], axis=0), drift)


def test_the_random_walk_has_the_percentiles_of_train_moves_and_its_paths_follow_train_windows() -> None:
    windows, train = market_windows()
    test = windows[windows["split"] == "test"].head(2)
    forecasts = baseline_forecasts(test, windows=windows, train=train)
    paths = forecasts[forecasts["model"] == "random_walk"]["samples"].iloc[0]
    first = test.iloc[0]
    found = np.log(paths / first["history"][-1]) / (first["sigma"] * np.sqrt(AHEAD))
    fitted = windows[windows["split"] == "train"]
    moves = np.log(stacked(fitted["target"]) / stacked(fitted["history"])[:, -1:])
    moves /= fitted["sigma"].to_numpy()[:, None] * np.sqrt(AHEAD)
    np.testing.assert_allclose(np.sort(found, axis=0), np.quantile(moves, PERCENTILES, axis=0, method="weibull"))
    unscaled = found * np.sqrt(AHEAD)
    daily = np.diff(unscaled, axis=1, prepend=0.0)
    assert np.square(daily).mean() == pytest.approx(1.0, rel=0.2)
    assert np.corrcoef(unscaled[:, 4], unscaled[:, 9])[0, 1] == pytest.approx(np.sqrt(0.5), abs=0.1)


def test_the_har_volatility_is_a_regression_on_past_ranges_scaled_to_returns() -> None:
    windows, _ = market_windows(sessions=1200)
    fitted = windows[windows["split"] == "train"]
    volatility = fit_walks(windows)["random_walk_har"].volatility
    past = np.concatenate([stacked(fitted["past_variance"]), fitted[["sigma"]].to_numpy() ** 2], axis=1)
    x = np.concatenate([np.ones((len(past), 1)), np.log(past)], axis=1)
    fit = OLS(np.log(stacked(fitted["target_variance"]).mean(axis=1)), x).fit()
    assert volatility.coefficients is not None
    np.testing.assert_allclose(volatility.coefficients[1:], fit.params[1:])
    paths = np.log(np.concatenate([stacked(fitted["history"])[:, -1:], stacked(fitted["target"])], axis=1))
    assert np.square(volatility.of(fitted)).mean() == pytest.approx(np.square(np.diff(paths)).mean(), rel=0.01)


def test_free_forecasts_ignore_everything_after_the_train_rows() -> None:
    windows, train = market_windows()
    test = windows[windows["split"] == "test"].head(3)
    later = windows["split"] != "train"
    shaken = windows.copy()
    for column in ("target", "target_variance"):
        shaken.loc[later, column] = pd.Series([1.3 * each for each in windows.loc[later, column]], windows.index[later])
    kept = baseline_forecasts(test, windows=windows, train=train)
    again = baseline_forecasts(shaken.loc[test.index], windows=shaken, train=train)
    np.testing.assert_array_equal(stacked(kept["median"]), stacked(again["median"]))
    for one, other in zip(kept["samples"], again["samples"], strict=True):
        np.testing.assert_array_equal(one, other)


def test_windows_without_ranges_use_squared_returns() -> None:
    windows, train = market_windows()
    bare = windows.drop(columns=["past_variance", "target_variance"])
    test = bare[bare["split"] == "test"].head(3)
    forecasts = baseline_forecasts(test, windows=bare, train=train)
    drawn = stacked(forecasts[forecasts["model"] == "random_walk_har"]["samples"])
    assert drawn.shape == (3, MEMBERS, 10)
    assert (drawn > 0).all()


def test_rows_beyond_the_train_split_are_refused_and_so_is_no_train_window() -> None:
    windows, train = market_windows()
    with pytest.raises(TrainRowsError, match="DEMO: the 419 rows given as train"):
        baseline_forecasts(windows, windows=windows, train=train.iloc[:-1])
    test = windows[windows["split"] == "test"]
    with pytest.raises(TrainRowsError, match="there is none: give all windows"):
        baseline_forecasts(test, windows=test, train=train)


def test_adjusted_bars_whose_close_is_the_adjusted_one_are_accepted() -> None:
    windows, train = market_windows()
    adjusted = train.drop(columns=["close"]).rename(columns={"adj_close": "close"})
    assert len(train) == split_borders(600, FeatureConfig()).train_end
    expected = stacked(baseline_forecasts(windows, windows=windows, train=train)["median"])
    np.testing.assert_array_equal(
        stacked(baseline_forecasts(windows, windows=windows, train=adjusted)["median"]), expected
    )
