"""No leak, as properties: whatever is changed after an origin, what is known there stays the same to the last bit."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.features.errors import InsufficientHistoryError
from tickerforge.features.prompts import FEATURE_COLUMNS, render
from tickerforge.features.splits import SPLITS, split_borders
from tickerforge.features.synthetic import market
from tickerforge.features.units import to_model_units
from tickerforge.features.windows import build_windows, latest_window

SESSIONS = 420
PRICES = ["open", "high", "low", "close", "adj_close"]


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return market(SyntheticConfig(sessions=SESSIONS))


@st.composite
def configs(draw: st.DrawFn) -> FeatureConfig:
    test = draw(st.floats(0.1, 0.3))
    return FeatureConfig(
        context=draw(st.integers(10, 20)),
        horizon=draw(st.integers(1, 12)),
        indicator_scope=draw(st.sampled_from(["series", "window"])),
        units=draw(st.sampled_from(["sigma", "train_standard"])),
        sigma_window=draw(st.integers(20, 80)),
        sigma=draw(st.sampled_from(["std60", "har"])),
        train_fraction=draw(st.floats(0.4, 0.85 - test)),
        test_fraction=test,
    )


def windows_of(bars: pd.DataFrame, config: FeatureConfig) -> pd.DataFrame:
    try:
        return build_windows(bars, ticker="ACME", config=config)
    except InsufficientHistoryError:
        assume(False)
        raise


def changed_after(bars: pd.DataFrame, row: int, rng: np.random.Generator) -> pd.DataFrame:
    """Every value of every later row replaced: prices, volume and date."""
    changed = bars.copy()
    n = len(bars) - row - 1
    changed.loc[row + 1 :, PRICES] = np.exp(rng.uniform(-8, 8, (n, len(PRICES))))
    changed.loc[row + 1 :, "volume"] = rng.integers(0, 10**12, n).astype(float)
    changed.loc[row + 1 :, "date"] = bars["date"].iloc[row] + pd.to_timedelta(
        np.cumsum(rng.integers(1, 30, n)), unit="D"
    )
    return changed.astype({"date": "datetime64[s]"})


@given(config=configs(), row=st.integers(150, SESSIONS - 14), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=12, deadline=None)
def test_nothing_known_at_an_origin_changes_with_any_value_after_it(
    bars: pd.DataFrame, config: FeatureConfig, row: int, seed: int
) -> None:
    changed = changed_after(bars, row, np.random.default_rng(seed))
    known = bars["date"].iloc[row]
    before, after = (windows_of(frame, config) for frame in (bars, changed))
    before, after = (each[each["origin"] <= known].reset_index(drop=True) for each in (before, after))
    columns = ["origin", "split", "sigma", *FEATURE_COLUMNS]
    pd.testing.assert_frame_equal(before[columns], after[columns], check_exact=True)
    for column in ("history", "past_variance"):
        np.testing.assert_array_equal(np.stack(before[column]), np.stack(after[column]))
    units = [
        to_model_units(np.stack(each["history"]), origin_price=np.stack(each["history"])[:, -1], sigma=each["sigma"])
        for each in (before, after)
    ]
    np.testing.assert_array_equal(*units)
    if row >= split_borders(SESSIONS, config).train_end - 1:
        pd.testing.assert_frame_equal(
            before[["train_mean", "train_std"]], after[["train_mean", "train_std"]], check_exact=True
        )
    if config.units == "sigma" or row >= split_borders(SESSIONS, config).train_end - 1:
        for index in {0, len(before) // 2, len(before) - 1}:
            assert render(before.iloc[index], config=config) == render(after.iloc[index], config=config)


@given(config=configs(), row=st.integers(100, SESSIONS - 1), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None)
def test_the_window_asked_for_today_is_the_one_that_was_asked_for_when_today_was_the_last_day(
    bars: pd.DataFrame, config: FeatureConfig, row: int, seed: int
) -> None:
    changed = changed_after(bars, row, np.random.default_rng(seed)).head(row + 1)
    pd.testing.assert_frame_equal(
        latest_window(bars.head(row + 1), ticker="ACME", config=config),
        latest_window(changed, ticker="ACME", config=config),
        check_exact=True,
    )


@given(config=configs(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None)
def test_scalers_see_the_train_rows_and_nothing_else(bars: pd.DataFrame, config: FeatureConfig, seed: int) -> None:
    train_end = split_borders(SESSIONS, config).train_end
    windows = windows_of(bars, config)
    train = bars["adj_close"].to_numpy()[:train_end]
    assert set(windows["train_mean"]) == {train.mean()}
    assert set(windows["train_std"]) == {train.std()}
    changed = windows_of(changed_after(bars, train_end - 1, np.random.default_rng(seed)), config)
    assert set(changed["train_mean"]) == {train.mean()}
    assert set(changed["train_std"]) == {train.std()}


@given(config=configs())
@settings(max_examples=15, deadline=None)
def test_no_target_of_one_split_is_a_target_of_another_and_a_horizon_lies_between_them(
    bars: pd.DataFrame, config: FeatureConfig
) -> None:
    windows = windows_of(bars, config)
    position = pd.Series(range(SESSIONS), index=bars["date"])
    ends = {}
    for split in SPLITS:
        rows = position[np.concatenate(windows.loc[windows["split"] == split, "target_dates"].to_list())]
        ends[split] = (rows.min(), rows.max())
    for earlier, later in pairwise(SPLITS):
        assert ends[later][0] - ends[earlier][1] > config.horizon
        first_origin = position[windows.loc[windows["split"] == later, "origin"]].min()
        assert first_origin >= ends[earlier][1] + config.horizon
        # With a history no longer than the horizon, no target of one split is in the history of the next.
        if config.context <= config.horizon:
            assert first_origin - config.context + 1 > ends[earlier][1]
