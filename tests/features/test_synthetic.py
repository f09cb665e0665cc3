"""The synthetic market: reproducible, valid, and of the dynamics it claims."""

import numpy as np
import pandas as pd
import pytest

from tickerforge.features.config import SyntheticConfig
from tickerforge.features.prices.bars import validate_frame
from tickerforge.features.statistics import autocorrelation
from tickerforge.features.synthetic import expected_moves, log_prices, market, possible_moves

PROCESSES = ["random_walk", "mean_reverting", "momentum", "garch_leverage"]


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


@pytest.mark.parametrize(("process", "asymmetry"), [("garch", 0.0), ("garch_leverage", -0.06)])
def test_garch_volatility_comes_in_spells_and_follows_losses_only_with_leverage(process: str, asymmetry: float) -> None:
    rng = np.random.default_rng(3)
    returns = np.diff(log_prices(process, phi=0.0, sessions=30_000, volatility=0.02, tail=30.0, rng=rng))
    assert returns.std() == pytest.approx(0.02, rel=0.1)
    assert autocorrelation(np.abs(returns)[None], lag=1)[0] > 0.1
    assert np.corrcoef(returns[:-1], np.abs(returns[1:]))[0, 1] == pytest.approx(asymmetry, abs=0.03)


@pytest.mark.parametrize("process", ["mean_reverting", "momentum", "regime_switch", "garch_leverage"])
def test_possible_moves_have_the_expected_mean_and_the_spread_of_what_followed(process: str) -> None:
    config = SyntheticConfig.model_validate({"process": process, "phi": 0.6, "sessions": 3000, "seed": 4})
    rows = np.arange(1000, 2990, 10)
    drawn = possible_moves(config, rows, horizon=10, count=400, rng=np.random.default_rng(0))
    expected = expected_moves(config, horizon=10)[rows]
    spread = drawn.std(axis=1)
    assert np.abs(drawn.mean(axis=1) - expected).max() < 5 * spread.max() / np.sqrt(400)
    logs = np.log(market(config)["close"].to_numpy())
    followed = np.stack([logs[rows + ahead] - logs[rows] for ahead in range(1, 11)], axis=1)
    standardised = (followed - expected) / spread
    assert np.mean(standardised**2) == pytest.approx(1.0, abs=0.15)


def test_an_unknown_process_is_named() -> None:
    with pytest.raises(ValueError, match="unknown process 'chaos'"):
        log_prices("chaos", phi=0.0, sessions=10, volatility=0.01, tail=5.0, rng=np.random.default_rng(0))
