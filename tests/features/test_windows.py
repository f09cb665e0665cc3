"""Windows: what they hold, that they know no future, and what is said where they cannot be built."""

import io
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.features.errors import InsufficientHistoryError, TickerNameError
from tickerforge.features.indicators import series_indicators, window_indicators
from tickerforge.features.prices.bars import adjust, read_csv
from tickerforge.features.prompts import FEATURE_COLUMNS, render, render_all
from tickerforge.features.splits import SPLITS
from tickerforge.features.statistics import daily_sigma, range_variance
from tickerforge.features.synthetic import market
from tickerforge.features.windows import build_windows, latest_window

STOCKNET = Path(__file__).resolve().parents[3] / "shared" / "data" / "stocknet"
needs_stocknet = pytest.mark.skipif(not STOCKNET.is_dir(), reason="the StockNet prices are not here")

CONFIG = FeatureConfig()
IN_WINDOW = FeatureConfig(indicator_scope="window")
SCOPES = pytest.mark.parametrize("config", [CONFIG, IN_WINDOW], ids=["series", "window"])


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    """A market whose raw prices halve in the middle by a 2:1 split, which adjusted prices do not show."""
    bars = market(SyntheticConfig(sessions=500))
    split = np.where(np.arange(500) < 250, 2.0, 1.0)
    return bars.assign(**{name: bars[name] * split for name in ("open", "high", "low", "close")})


@SCOPES
def test_a_window_holds_ten_closes_the_next_ten_and_their_dates(bars: pd.DataFrame, config: FeatureConfig) -> None:
    windows = build_windows(bars, ticker="ACME", config=config)
    assert list(windows.columns) == [
        *("ticker", "origin", "split", "history", "target", "target_dates", "sigma", "train_mean", "train_std"),
        *("past_variance", "target_variance"),
        *FEATURE_COLUMNS,
    ]
    assert windows["origin"].is_monotonic_increasing
    assert windows["origin"].is_unique
    assert windows["origin"].dtype == "datetime64[s]"
    rows = {date: row for row, date in enumerate(bars["date"])}
    close, dates = bars["adj_close"].to_numpy(), bars["date"].to_numpy()
    sigma = daily_sigma(close, window=60, minimum=20)
    adjusted = adjust(bars)
    variance = range_variance(*(adjusted[name].to_numpy() for name in ("high", "low", "close")))
    for window in windows.iloc[::37].to_dict("records"):
        row = rows[window["origin"]]
        np.testing.assert_array_equal(window["history"], close[row - 9 : row + 1])
        np.testing.assert_array_equal(window["target"], close[row + 1 : row + 11])
        np.testing.assert_array_equal(window["target_dates"], dates[row + 1 : row + 11])
        np.testing.assert_array_equal(window["target_variance"], variance[row + 1 : row + 11])
        means = [variance[max(row + 1 - n, 1) : row + 1].mean() for n in (1, 5, 22)]
        np.testing.assert_allclose(window["past_variance"], means)
        assert window["sigma"] == sigma[row]
        assert window["ticker"] == "ACME"
    np.testing.assert_allclose(windows["train_mean"], close[:350].mean(), rtol=1e-14)
    np.testing.assert_allclose(windows["train_std"], close[:350].std(), rtol=1e-14)
    assert np.isfinite(windows[list(FEATURE_COLUMNS)].to_numpy(float)).all()


def test_splits_follow_in_time_with_an_embargo(bars: pd.DataFrame) -> None:
    windows = build_windows(bars, ticker="ACME", config=CONFIG)
    rows = pd.Series(range(500), index=bars["date"])
    origins = {name: rows[windows.loc[windows["split"] == name, "origin"]].to_numpy() for name in SPLITS}
    assert origins["train"].tolist() == list(range(59, 350 - 20))
    assert origins["validation"].tolist() == list(range(349, 400 - 20))
    assert origins["test"].tolist() == list(range(399, 490))


def test_series_features_are_talib_on_adjusted_prices(bars: pd.DataFrame) -> None:
    windows = build_windows(bars, ticker="ACME", config=CONFIG)
    rows = pd.Series(range(500), index=bars["date"])[windows["origin"]].to_numpy()
    for name, values in series_indicators(adjust(bars)).items():
        np.testing.assert_array_equal(windows[name], values[rows], err_msg=name)
    around_split = windows[(rows >= 250) & (rows < 310)]
    assert (np.abs(np.log(around_split["sma_60"] / around_split["history"].str[-1])) < 0.3).all()


def test_window_features_are_the_last_in_window_values_of_raw_prices(bars: pd.DataFrame) -> None:
    windows = build_windows(bars, ticker="ACME", config=IN_WINDOW)
    rows = pd.Series(range(500), index=bars["date"])[windows["origin"]].to_numpy()
    assert rows.min() == CONFIG.sigma_min
    row = rows[100]
    raw = bars.iloc[row - 9 : row + 1]
    inside = window_indicators(*(raw[name].to_numpy()[None] for name in ("high", "low", "close")))
    window = windows.iloc[100]
    assert window["sma_20"] == window["sma_60"] == inside["sma"][0, -1] == pytest.approx(raw["close"].tail(5).mean())
    assert window["rsi_14"] == inside["rsi"][0, -1]
    assert window["macd"] == inside["macd"][0, -1]
    assert window["bb_lower"] == inside["bbands_lower"][0, -1]
    assert window["min"] == raw["adj_close"].min()


@SCOPES
@given(cut=st.integers(150, 490), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_changing_the_future_changes_no_feature_and_no_prompt(
    bars: pd.DataFrame, config: FeatureConfig, cut: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    changed = bars.copy()
    prices = ["open", "high", "low", "close", "adj_close"]
    changed.loc[cut:, prices] *= rng.uniform(0.2, 5.0, (500 - cut, 1))
    before, after = (build_windows(frame, ticker="ACME", config=config) for frame in (bars, changed))
    known = bars["date"].iloc[cut - 1]
    before, after = (frame[frame["origin"] <= known].reset_index(drop=True) for frame in (before, after))
    assert len(before) > 50
    columns = ["origin", "split", "sigma", *FEATURE_COLUMNS]
    pd.testing.assert_frame_equal(before[columns], after[columns], check_exact=True)
    for row in range(0, len(before), 17):
        assert render(before.iloc[row], config=config) == render(after.iloc[row], config=config)
    assert render(before.iloc[-1], config=config) == render(after.iloc[-1], config=config)


def test_standardised_prompts_know_nothing_after_the_train_split(bars: pd.DataFrame) -> None:
    config = FeatureConfig(units="train_standard", prompt_style="prices")
    changed = bars.copy()
    changed.loc[350:, "adj_close"] *= 1.5
    before, after = (build_windows(frame, ticker="ACME", config=config) for frame in (bars, changed))
    assert render(before.iloc[0], config=config) == render(after.iloc[0], config=config)
    pd.testing.assert_series_equal(before["train_std"], after["train_std"], check_exact=True)


@SCOPES
def test_the_latest_window_is_what_was_known_at_that_origin(bars: pd.DataFrame, config: FeatureConfig) -> None:
    windows = build_windows(bars, ticker="ACME", config=config)
    for row in (59, 260, 489):
        latest = latest_window(bars.head(row + 1), ticker="ACME", config=config)
        assert len(latest) == 1
        assert not {"split", "target", "target_dates", "target_variance"} & set(latest.columns)
        assert latest["origin"].iloc[0] == bars["date"].iloc[row]
        built = windows[windows["origin"] == bars["date"].iloc[row]]
        for name in ("sigma", *FEATURE_COLUMNS):
            assert latest[name].iloc[0] == built[name].iloc[0], name
        np.testing.assert_array_equal(latest["past_variance"].iloc[0], built["past_variance"].iloc[0])
        assert render(latest.iloc[0], config=config) == render(built.iloc[0], config=config)


def test_the_latest_window_needs_only_the_warm_up(bars: pd.DataFrame) -> None:
    assert len(latest_window(bars.head(60), ticker="ACME", config=CONFIG)) == 1
    with pytest.raises(InsufficientHistoryError, match="ACME: 59 sessions are too few for one window; 60 are needed"):
        latest_window(bars.head(59), ticker="ACME", config=CONFIG)
    assert len(latest_window(bars.head(21), ticker="ACME", config=IN_WINDOW)) == 1


@SCOPES
def test_too_short_a_history_names_ticker_sessions_and_need(bars: pd.DataFrame, config: FeatureConfig) -> None:
    with pytest.raises(InsufficientHistoryError, match=r"ACME: 100 sessions leave no .*; \d+ are needed") as caught:
        build_windows(bars.head(100), ticker="ACME", config=config)
    needed = int(str(caught.value).split("; ")[1].split()[0])
    assert set(build_windows(bars.head(needed), ticker="ACME", config=config)["split"]) == set(SPLITS)
    with pytest.raises(InsufficientHistoryError, match=f"{needed} are needed"):
        build_windows(bars.head(needed - 1), ticker="ACME", config=config)


@pytest.mark.parametrize("rows", [1, 5, 11, 61])
def test_a_handful_of_sessions_is_too_few_not_a_crash(bars: pd.DataFrame, rows: int) -> None:
    with pytest.raises(InsufficientHistoryError, match=f"ACME: {rows} sessions"):
        build_windows(bars.head(rows), ticker="ACME", config=CONFIG)


def test_prices_that_never_move_are_named(bars: pd.DataFrame) -> None:
    still = bars.assign(**dict.fromkeys(["open", "high", "low", "close", "adj_close"], 10.0))
    with pytest.raises(InsufficientHistoryError, match="ACME: the prices do not move in the train split"):
        build_windows(still, ticker="ACME", config=CONFIG)
    with pytest.raises(InsufficientHistoryError, match="ACME: the prices do not move over the last 60 sessions"):
        latest_window(still, ticker="ACME", config=CONFIG)


def test_windows_within_a_standstill_are_left_out_and_the_others_stay(bars: pd.DataFrame) -> None:
    halted = bars.copy()
    halted.loc[100:199, ["open", "high", "low", "close", "adj_close"]] = 50.0
    windows = build_windows(halted, ticker="ACME", config=CONFIG)
    missing = set(build_windows(bars, ticker="ACME", config=CONFIG)["origin"]) - set(windows["origin"])
    assert missing == set(bars["date"].iloc[160:200])
    assert (windows["sigma"] > 0).all()


def test_other_shapes_of_window_work(bars: pd.DataFrame) -> None:
    config = FeatureConfig(context=3, horizon=1)
    windows = build_windows(bars, ticker="ACME", config=config)
    assert {len(history) for history in windows["history"]} == {3}
    assert {len(target) for target in windows["target"]} == {1}
    assert (windows["lag_3"] == 0).all()
    wide = build_windows(bars, ticker="ACME", config=FeatureConfig(context=30, horizon=5, indicator_scope="window"))
    assert {len(history) for history in wide["history"]} == {30}


def test_windows_survive_parquet(bars: pd.DataFrame) -> None:
    windows = build_windows(bars, ticker="ACME", config=CONFIG)
    buffer = io.BytesIO()
    windows.to_parquet(buffer, index=False)
    again = pd.read_parquet(buffer)
    assert list(again.columns) == list(windows.columns)
    for name in ("history", "target", "target_dates"):
        np.testing.assert_array_equal(np.stack(again[name]), np.stack(windows[name]))
    assert render_all(again, config=CONFIG) == render_all(windows, config=CONFIG)


def test_unsafe_tickers_are_refused(bars: pd.DataFrame) -> None:
    with pytest.raises(TickerNameError):
        build_windows(bars, ticker="../x", config=CONFIG)
    with pytest.raises(TickerNameError):
        latest_window(bars, ticker="../x", config=CONFIG)


def test_windows_of_1500_sessions_take_less_than_a_second() -> None:
    bars = market(SyntheticConfig(sessions=1500))
    build_windows(bars, ticker="DEMO", config=CONFIG)
    best = np.inf
    for _ in range(5):
        start = time.process_time()
        build_windows(bars, ticker="DEMO", config=CONFIG)
        best = min(best, time.process_time() - start)
    assert best < 1.0


@needs_stocknet
@pytest.mark.parametrize(
    ("ticker", "counts"),
    [("AAPL", (801, 108, 242)), ("BRK-A", (801, 108, 242)), ("GMRE", (128, 12, 50))],
)
def test_real_tickers_fill_every_split(ticker: str, counts: tuple[int, int, int]) -> None:
    bars = read_csv(STOCKNET / f"{ticker}.csv", ticker=ticker)
    windows = build_windows(bars, ticker=ticker, config=CONFIG)
    assert tuple(int((windows["split"] == name).sum()) for name in SPLITS) == counts
    assert all(render_all(windows, config=CONFIG))
