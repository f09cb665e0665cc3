"""Pooling windows of several tickers: nobody's split knows another's future, and everybody gets a share."""

import numpy as np
import pandas as pd
import pytest

from pooled_frames import LIVES, last_targets, ticker_windows
from tickerforge.features.pooling import pool_windows, spread


@pytest.fixture(scope="module")
def frames() -> list[pd.DataFrame]:
    return [ticker_windows(ticker)[0] for ticker in LIVES]


def origins(windows: pd.DataFrame, split: str) -> pd.Series:
    return windows.loc[windows["split"] == split, "origin"]


def test_put_together_as_they_are_windows_of_one_ticker_would_be_trained_on_the_test_time_of_another(
    frames: list[pd.DataFrame],
) -> None:
    naive = pd.concat(frames)
    assert last_targets(naive, "train").max() > origins(naive, "validation").min().to_datetime64()
    assert last_targets(naive, "validation").max() > origins(naive, "test").min().to_datetime64()


def test_in_a_pool_all_train_targets_lie_before_every_validation_origin_and_these_targets_before_every_test_origin(
    frames: list[pd.DataFrame],
) -> None:
    pooled, _ = pool_windows(frames)
    assert last_targets(pooled, "train").max() < origins(pooled, "validation").min().to_datetime64()
    assert last_targets(pooled, "validation").max() < origins(pooled, "test").min().to_datetime64()


def test_the_train_time_of_a_pool_ends_within_that_of_every_ticker(frames: list[pd.DataFrame]) -> None:
    pooled, _ = pool_windows(frames)
    assert last_targets(pooled, "train").max() <= min(last_targets(frame, "train").max() for frame in frames)


def test_the_borders_say_what_was_dropped_and_for_whom(frames: list[pd.DataFrame]) -> None:
    pooled, borders = pool_windows(frames)
    assert [(border.split, border.ticker) for border in borders] == [("train", "EARLY"), ("validation", "EARLY")]
    for border in borders:
        before = sum(int((frame["split"] == border.split).sum()) for frame in frames)
        assert before - int((pooled["split"] == border.split).sum()) == border.dropped > 0
    assert int((pooled["split"] == "test").sum()) == sum(int((frame["split"] == "test").sum()) for frame in frames)


def test_tickers_with_the_same_calendar_lose_nothing(frames: list[pd.DataFrame]) -> None:
    twins = [frames[1], frames[1].assign(ticker="TWIN")]
    pooled, borders = pool_windows(twins)
    assert len(pooled) == 2 * len(frames[1])
    assert [border.dropped for border in borders] == [0, 0]
    assert list(pooled["origin"]) == sorted(pooled["origin"])


@pytest.mark.parametrize("at_most", [30, 100, 101])
def test_a_selection_gives_every_ticker_its_share_and_covers_its_time(frames: list[pd.DataFrame], at_most: int) -> None:
    train = pd.concat([frame[frame["split"] == "train"] for frame in frames])
    chosen = spread(train, at_most=at_most)
    assert len(chosen) == at_most
    for ticker, rows in train.groupby("ticker"):
        mine = chosen[chosen["ticker"] == ticker]
        assert abs(len(mine) - at_most * len(rows) / len(train)) <= 1
        places = np.searchsorted(rows["origin"], mine["origin"])
        step = len(train) / at_most
        assert np.diff([-1, *places, len(rows)]).max() <= step + 2
    assert list(chosen["origin"]) == sorted(chosen["origin"])


def test_a_selection_of_enough_is_everything(frames: list[pd.DataFrame]) -> None:
    assert len(spread(frames[0], at_most=len(frames[0]))) == len(frames[0])
