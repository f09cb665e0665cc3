"""HAR volatility: nearer to the true one than σ60, usable from the first origin, and stored only if it is asked for."""

import numpy as np
import pandas as pd
import pytest

from tickerforge.evaluation.core.frames import scoring_sigma
from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.features.prompts import render
from tickerforge.features.synthetic import _simulated, market
from tickerforge.features.windows import build_windows, latest_window

PROCESS = SyntheticConfig(process="garch", sessions=3000, seed=5)
HAR = FeatureConfig(sigma="har")


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return market(PROCESS)


@pytest.fixture(scope="module")
def windows(bars: pd.DataFrame) -> pd.DataFrame:
    return build_windows(bars, ticker="DEMO", config=HAR)


def test_har_is_nearer_to_the_true_volatility_than_sigma60_and_has_no_bias(
    bars: pd.DataFrame, windows: pd.DataFrame
) -> None:
    variance = _simulated(PROCESS, rng=np.random.default_rng(PROCESS.seed)).variance
    row = np.searchsorted(bars["date"].to_numpy(), windows["origin"].to_numpy())
    true = np.sqrt(np.stack([variance[row + ahead] for ahead in range(1, 11)]).mean(axis=0))
    far = {name: np.log(windows[name] / true) for name in ("sigma", "sigma_60")}
    assert far["sigma"].std() < 0.7 * far["sigma_60"].std()
    assert abs(far["sigma"].mean()) < 0.1


def test_scores_stay_in_sigma60_and_prompts_are_in_the_unit_asked_for(
    bars: pd.DataFrame, windows: pd.DataFrame
) -> None:
    plain = build_windows(bars, ticker="DEMO", config=FeatureConfig())
    assert "sigma_60" not in plain
    np.testing.assert_array_equal(scoring_sigma(windows), scoring_sigma(plain))
    pd.testing.assert_frame_equal(windows.drop(columns=["sigma", "sigma_60"]), plain.drop(columns="sigma"))
    other = int(np.argmax(np.abs(np.log(windows["sigma"] / plain["sigma"]))))
    first, second = (render(each.iloc[other].to_dict(), config=HAR) for each in (windows, plain))
    assert first != second


def test_the_volatility_of_the_latest_window_is_that_of_the_whole_series(
    bars: pd.DataFrame, windows: pd.DataFrame
) -> None:
    asked = windows.iloc[len(windows) // 2]
    known = bars[bars["date"] <= asked["origin"]]
    last = latest_window(known, ticker="DEMO", config=HAR).iloc[0]
    assert (last["sigma"], last["sigma_60"]) == (asked["sigma"], asked["sigma_60"])


def test_the_default_volatility_is_not_written_so_that_keys_and_cards_stay() -> None:
    assert "sigma" not in FeatureConfig().model_dump()
    assert HAR.model_dump()["sigma"] == "har"
    assert FeatureConfig.model_validate_json(HAR.model_dump_json()) == HAR
    assert FeatureConfig.model_validate_json(FeatureConfig().model_dump_json()) == FeatureConfig()
