"""The synthetic market: reproducible, valid, and of the dynamics it claims."""

import numpy as np
import pandas as pd
import pytest

from tickerforge.features.config import SyntheticConfig
from tickerforge.features.prices.bars import validate_frame
from tickerforge.features.statistics import autocorrelation
from tickerforge.features.synthetic import log_prices, market

PROCESSES = ["random_walk", "mean_reverting", "momentum"]


@pytest.mark.parametrize("process", PROCESSES)
def test_bars_are_valid_and_the_same_for_the_same_seed(process: str) -> None:
    config = SyntheticConfig(process=process, phi=0.3, sessions=300)
    bars = market(config)
    assert len(bars) == 300
    pd.testing.assert_frame_equal(validate_frame(bars, source="synthetic"), bars)
    pd.testing.assert_frame_equal(market(config), bars, check_exact=True)
    other = market(config.model_copy(update={"seed": 8}))
    assert not np.array_equal(other["close"], bars["close"])
    assert (bars["high"] >= bars[["open", "close"]].max(axis=1)).all()
    assert (bars["low"] <= bars[["open", "close"]].min(axis=1)).all()
    assert (bars["date"].dt.day_of_week < 5).all()


@pytest.mark.parametrize(
    ("process", "of_returns", "of_levels"),
    [("random_walk", 0.0, 1.0), ("mean_reverting", -0.1, 0.8), ("momentum", 0.8, 1.0)],
)
def test_dynamics_show_in_the_autocorrelations(process: str, of_returns: float, of_levels: float) -> None:
    rng = np.random.default_rng(3)
    path = log_prices(process, phi=0.8, sessions=20_000, volatility=0.016, tail=5.0, rng=rng)
    assert autocorrelation(np.diff(path)[None], lag=1)[0] == pytest.approx(of_returns, abs=0.05)
    assert autocorrelation(path[None], lag=1)[0] == pytest.approx(of_levels, abs=0.05)


def test_shocks_have_the_volatility_asked_for() -> None:
    rng = np.random.default_rng(3)
    path = log_prices("random_walk", phi=0.0, sessions=50_000, volatility=0.02, tail=8.0, rng=rng)
    assert np.diff(path).std() == pytest.approx(0.02, rel=0.03)


def test_an_unknown_process_is_named() -> None:
    with pytest.raises(ValueError, match="unknown process 'chaos'"):
        log_prices("chaos", phi=0.0, sessions=10, volatility=0.01, tail=5.0, rng=np.random.default_rng(0))
