"""Splits by time: disjoint, embargoed, complete."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerforge.features.config import FeatureConfig
from tickerforge.features.splits import SPLITS, assign_splits, sessions_needed, split_borders


@pytest.mark.parametrize(
    ("n_rows", "train_end", "test_start"), [(1258, 880, 1007), (297, 207, 238), (1500, 1050, 1200), (10, 7, 8)]
)
def test_borders_cut_the_published_shares(n_rows: int, train_end: int, test_start: int) -> None:
    assert split_borders(n_rows, FeatureConfig()) == (train_end, test_start, n_rows)


def test_without_embargo_the_published_numbers_of_windows_come_out() -> None:
    borders = split_borders(1258, FeatureConfig())
    split = assign_splits(np.arange(9, 1248), borders, horizon=10, embargo=0)
    assert [int((split == name).sum()) for name in SPLITS] == [861, 118, 242]


@given(n_rows=st.integers(60, 2000), horizon=st.integers(1, 30), context=st.integers(2, 30))
@settings(max_examples=80, deadline=None)
def test_splits_share_no_target_and_the_embargo_keeps_targets_out_of_the_next_history(
    n_rows: int, horizon: int, context: int
) -> None:
    config = FeatureConfig(horizon=horizon, context=min(context, horizon) if horizon > 1 else 2)
    borders = split_borders(n_rows, config)
    origins = np.arange(config.context - 1, n_rows - horizon)
    split = assign_splits(origins, borders, horizon=horizon, embargo=config.embargo)
    targets, histories = {}, {}
    for name in SPLITS:
        members = origins[split == name]
        targets[name] = {int(t) for t in (members[:, None] + np.arange(1, horizon + 1)).ravel()}
        histories[name] = {int(t) for t in (members[:, None] - np.arange(config.context)).ravel()}
    assert not targets["train"] & targets["validation"]
    assert not targets["validation"] & targets["test"]
    assert not targets["train"] & targets["test"]
    if config.context <= config.embargo:
        assert not targets["train"] & (histories["validation"] | histories["test"])
        assert not targets["validation"] & histories["test"]


def test_train_and_validation_end_an_embargo_before_the_border_and_test_is_complete() -> None:
    config = FeatureConfig()
    borders = split_borders(1258, config)
    origins = np.arange(9, 1248)
    split = assign_splits(origins, borders, horizon=10, embargo=10)
    last_target = {name: int(origins[split == name].max()) + 10 for name in SPLITS}
    first_origin = {name: int(origins[split == name].min()) for name in SPLITS}
    assert last_target == {"train": 880 - 10 - 1, "validation": 1007 - 10 - 1, "test": 1257}
    assert first_origin == {"train": 9, "validation": 879, "test": 1006}


@given(
    horizon=st.integers(1, 40),
    first_origin=st.integers(1, 120),
    fractions=st.sampled_from([(0.7, 0.2), (0.6, 0.2), (0.5, 0.05), (0.8, 0.15), (0.05, 0.05)]),
)
@settings(max_examples=60, deadline=None)
def test_sessions_needed_is_the_smallest_number_that_fills_every_split(
    horizon: int, first_origin: int, fractions: tuple[float, float]
) -> None:
    config = FeatureConfig(horizon=horizon, train_fraction=fractions[0], test_fraction=fractions[1])

    def full(n_rows: int) -> bool:
        origins = np.arange(first_origin, n_rows - horizon)
        split = assign_splits(origins, split_borders(n_rows, config), horizon=horizon, embargo=config.embargo)
        return set(SPLITS) <= set(split)

    needed = sessions_needed(config, first_origin=first_origin)
    assert full(needed)
    assert not any(full(n_rows) for n_rows in range(max(needed - 40, 1), needed))
    assert sessions_needed(config, first_origin=first_origin, present=needed) > needed
