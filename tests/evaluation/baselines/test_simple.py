"""Baselines: their formulas, and that they use the train rows only."""

import numpy as np
import pytest

from evaluation_frames import market_windows
from tickerforge.evaluation.baselines.simple import baseline_forecasts
from tickerforge.evaluation.core.contracts import BASELINES, FORECAST_COLUMNS
from tickerforge.evaluation.core.errors import TrainRowsError
from tickerforge.features.config import FeatureConfig
from tickerforge.features.splits import split_borders


def test_every_window_gets_three_forecasts_by_their_formulas() -> None:
    windows, train = market_windows()
    test = windows[windows["split"] == "test"]
    forecasts = baseline_forecasts(test, train=train)
    assert tuple(forecasts.columns) == FORECAST_COLUMNS
    assert len(forecasts) == 3 * len(test)
    assert set(forecasts["n_samples"]) == {0}
    history = np.asarray(test["history"].iloc[4])
    own = forecasts[forecasts["origin"] == test["origin"].iloc[4]].set_index("model")["median"]
    close = train["adj_close"].to_numpy()
    assert own["persistence"] == [history[-1]] * 10
    np.testing.assert_allclose(own["drift"], history[-1] + np.arange(1, 11) * np.diff(close).mean())
    np.testing.assert_allclose(own["window_mean"], [history.mean()] * 10)
    assert set(own.index) == set(BASELINES)


def test_the_drift_ignores_everything_after_the_train_rows() -> None:
    windows, train = market_windows()
    test = windows[windows["split"] == "test"].head(3)
    shaken = test.assign(target=[np.asarray(target) * 1.3 for target in test["target"]])
    kept, again = baseline_forecasts(test, train=train), baseline_forecasts(shaken, train=train)
    assert kept["median"].to_list() == again["median"].to_list()


def test_rows_beyond_the_train_split_are_refused() -> None:
    windows, train = market_windows()
    with pytest.raises(TrainRowsError, match="DEMO: the 419 rows given as train"):
        baseline_forecasts(windows, train=train.iloc[:-1])


def test_adjusted_bars_whose_close_is_the_adjusted_one_are_accepted() -> None:
    windows, train = market_windows()
    adjusted = train.drop(columns=["close"]).rename(columns={"adj_close": "close"})
    assert len(train) == split_borders(600, FeatureConfig()).train_end
    expected = baseline_forecasts(windows, train=train)["median"].to_list()
    assert baseline_forecasts(windows, train=adjusted)["median"].to_list() == expected
