from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from tickerforge.evaluation.comparison.compare import best_free
from tickerforge.evaluation.core.frames import scoring_sigma
from tickerforge.evaluation.core.recalibration import Recalibration
from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.features.errors import BarsError, InsufficientHistoryError
from tickerforge.features.prices.bars import read_csv
from tickerforge.features.splits import split_borders
from tickerforge.features.synthetic import market
from tickerforge.features.windows import build_windows, latest_window
from tickerforge.tasks.models.adapters import adapter_folder
from tickerforge.tasks.models.forecasting import (
    LEAST_FOR_BAND,
    forecast_band,
    forecast_free,
    forecast_next,
    implausible,
    known_price,
    next_sessions,
    random_walk_quantiles,
)
from tickerforge.tasks.windows.preprocess import read_bars
from tickerforge.training.config import TrainingConfig
from trained_pieces import FEATURES, TICKER, TRAINING, Pieces

ENOUGH = TRAINING.model_copy(update={"sampling": TRAINING.sampling.model_copy(update={"samples": 24})})


def forecast(
    made: Pieces,
    bars: pd.DataFrame,
    *,
    seed: int = 3,
    adapter: bool = True,
    training: TrainingConfig = TRAINING,
    now: datetime | None = None,
    recalibration: Recalibration | None = None,
) -> pd.DataFrame:
    return forecast_next(
        bars,
        ticker=TICKER,
        base_model=made.base_model.location,
        adapter=adapter_folder(made.sft) if adapter else None,
        features=FEATURES,
        training=training,
        seed=seed,
        now=now,
        recalibration=recalibration,
    )


def test_a_forecast_is_ten_sessions_with_a_median_inside_its_band_in_prices(made: Pieces) -> None:
    bars = read_bars(made.bars)
    table = forecast(made, bars, training=ENOUGH)
    assert list(table.columns) == ["date", "median", "lower", "upper", "provisional", "answers", "valid"]
    assert len(table) == FEATURES.horizon
    assert table["date"].iloc[0] > bars["date"].iloc[-1]
    assert ((table["lower"] <= table["median"]) & (table["median"] <= table["upper"])).all()
    assert (table[["median", "lower", "upper"]] / bars["adj_close"].iloc[-1]).stack().between(0.5, 2.0).all()
    assert (table["lower"] < table["upper"]).any()


def test_the_same_seed_and_bars_give_the_same_forecast_and_another_seed_another(made: Pieces) -> None:
    bars = read_bars(made.bars)
    first = forecast(made, bars)
    pd.testing.assert_frame_equal(first, forecast(made, bars))
    assert not first.equals(forecast(made, bars, seed=4))


def test_a_frame_as_yahoo_names_it_gives_the_same_forecast(made: Pieces) -> None:
    bars = read_bars(made.bars)
    yahoo = bars.rename(columns=lambda name: name.replace("_", " ").title()).astype({"Volume": "int64"})
    pd.testing.assert_frame_equal(forecast(made, bars), forecast(made, yahoo))


def test_a_forecast_without_a_valid_answer_is_the_last_close_and_says_so(
    made: Pieces, caplog: pytest.LogCaptureFixture
) -> None:
    bars = read_bars(made.bars)
    cut = TRAINING.model_copy(update={"sampling": TRAINING.sampling.model_copy(update={"max_tokens": 8})})
    table = forecast_next(
        bars,
        ticker=TICKER,
        base_model=made.base_model.location,
        adapter=None,
        features=FEATURES,
        training=cut,
        seed=0,
    )
    assert (table["median"] == bars["adj_close"].iloc[-1]).all()
    assert table[["lower", "upper"]].isna().all(axis=None)
    assert (table["valid"] == 0).all()
    assert "none of 4 answers was valid" in caplog.text


def test_a_band_needs_enough_valid_answers_and_their_number_is_said(
    made: Pieces, caplog: pytest.LogCaptureFixture
) -> None:
    assert LEAST_FOR_BAND == 9
    table = forecast(made, read_bars(made.bars))
    assert (table["answers"] == 4).all()
    valid = int(table["valid"].iloc[0])
    assert 0 < valid <= 4
    assert table[["lower", "upper"]].isna().all(axis=None)
    assert f"{valid} of 4 answers {'was' if valid == 1 else 'were'} valid: no band, as 80% need 9" in caplog.text


def test_a_recalibrated_forecast_counts_its_answers_and_has_the_band_of_its_percentiles(made: Pieces) -> None:
    bars, ahead = read_bars(made.bars), np.sqrt(np.arange(1.0, FEATURES.horizon + 1))
    percentiles = tuple(float(each) for each in norm.ppf(np.arange(1, 100) / 100))
    found = Recalibration(median=0.0, variation=0.0, sizes=tuple(2 * ahead), errors=percentiles)
    table = forecast(made, bars, training=ENOUGH, recalibration=found)
    assert (table["answers"] == 24).all()
    assert table["valid"].between(LEAST_FOR_BAND, 24).all()
    close = bars["adj_close"].iloc[-1]
    sigma = float(scoring_sigma(latest_window(bars, ticker=TICKER, config=FEATURES))[0])
    np.testing.assert_allclose(table["median"], close)
    np.testing.assert_allclose(np.log(table["upper"] / close), 2 * ahead * sigma * norm.ppf(0.9), rtol=1e-6)
    np.testing.assert_allclose(np.log(table["lower"] / close), -2 * ahead * sigma * norm.ppf(0.9), rtol=1e-6)


def test_the_end_of_the_bars_is_compared_with_the_clock_if_one_is_given(
    made: Pieces, caplog: pytest.LogCaptureFixture
) -> None:
    bars = read_bars(made.bars)
    forecast(made, bars)
    assert "the prices of DEMO end on" not in caplog.text
    forecast(made, bars, now=bars["date"].iloc[-1].tz_localize("UTC") + pd.Timedelta(days=30))
    assert f"the prices of DEMO end on {bars['date'].iloc[-1].date()}, " in caplog.text


def test_bad_bars_are_refused_by_the_rules_for_files(made: Pieces) -> None:
    bars = read_bars(made.bars)
    with pytest.raises(BarsError, match="DEMO"):
        forecast(made, bars.assign(adj_close=bars["adj_close"].where(bars.index != 7, -1.0)))
    with pytest.raises(InsufficientHistoryError, match="DEMO: 30 sessions"):
        forecast(made, bars.tail(30))


def test_the_band_of_sixteen_calibrated_samples_covers_what_it_says() -> None:
    draws = np.random.default_rng(7).normal(size=(17, 20_000))
    lower, upper = forecast_band(draws[:16])
    assert ((lower <= draws[16]) & (draws[16] <= upper)).mean() == pytest.approx(0.8, abs=0.02)


def test_sessions_of_the_exchange_leave_out_its_holidays(stocknet: Path) -> None:
    dates = pd.read_csv(stocknet / "AAPL.csv", parse_dates=["Date"])["Date"]
    assert str(dates.iloc[-1].date()) == "2017-09-01"
    coming = next_sessions(dates, count=2, ticker="DEMO")
    assert [str(day.date()) for day in coming] == ["2017-09-05", "2017-09-06"]


@pytest.mark.parametrize(
    ("frequency", "expected"), [("B", ["2020-05-20", "2020-05-21"]), ("D", ["2020-04-10", "2020-04-11"])]
)
def test_other_calendars_go_on_as_their_dates_did(frequency: str, expected: list[str]) -> None:
    dates = pd.Series(pd.date_range("2020-01-01", periods=100, freq=frequency))
    assert [str(day.date()) for day in next_sessions(dates, count=2, ticker="DEMO")] == expected


def test_real_prices_follow_from_an_earlier_one_and_most_other_stocks_prices_do_not(stocknet: Path) -> None:
    stocks = {name: read_csv(stocknet / f"{name}.csv", ticker=name) for name in ("AAPL", "MSFT", "KO", "T", "XOM")}
    found = 0
    for name, bars in stocks.items():
        known = known_price(bars.iloc[:600])
        for length in (300, 600, 601, 605, 620, 660, len(bars)):
            assert implausible(bars.iloc[:length], known) == ""
        others = [other for stock, other in stocks.items() if stock != name]
        found += sum(bool(implausible(other, known)) for other in others)
    assert found >= 14


def test_a_jump_is_told_by_its_size_and_the_time_that_passed(made: Pieces) -> None:
    bars = read_bars(made.bars)
    known = known_price(bars.iloc[:-1])

    def jumped(factor: float, *, days: int) -> str:
        last = bars.tail(1).assign(date=bars["date"].iloc[-2] + pd.Timedelta(days=days), adj_close=known.close * factor)
        return implausible(pd.concat([bars.iloc[:-1], last]), known)

    assert jumped(1.2, days=1) == ""
    assert "is 1.8 times that of" in jumped(1.8, days=1)
    assert jumped(1.8, days=400) == ""
    assert "is 100 times that of" in jumped(100, days=400)


def test_the_free_forecast_is_that_of_the_lowest_crps_on_validation_and_says_so() -> None:
    bars = market(SyntheticConfig(process="random_walk", sessions=600, seed=3))
    config = FeatureConfig()
    found = forecast_free(bars, ticker="DEMO", features=config, exchange="24/7")
    windows = build_windows(bars, ticker="DEMO", config=config)
    losses = best_free(windows, train=bars.iloc[: split_borders(len(bars), config).train_end])
    assert found.model == min(losses, key=lambda name: losses[name])
    assert f"lowest CRPS on validation, {losses[found.model]:.3f} against " in found.why
    table, last = found.table, bars["adj_close"].iloc[-1]
    assert (table["lower"] < table["median"]).all()
    assert (table["median"] < table["upper"]).all()
    widths = np.log(table["upper"] / table["lower"]).to_numpy()
    assert widths[-1] / widths[0] == pytest.approx(np.sqrt(10), rel=0.3)
    assert np.log(table["median"] / last).abs().max() < widths[-1] / 2
    changed = bars.copy()
    later = changed.index[split_borders(len(bars), config).test_start : -80]
    changed.loc[later, ["open", "high", "low", "close", "adj_close"]] *= 1.5
    again = forecast_free(changed, ticker="DEMO", features=config, exchange="24/7")
    pd.testing.assert_frame_equal(again.table, table)
    assert random_walk_quantiles(bars, ticker="DEMO", features=config) == found.reference
    fan = np.array(found.quantiles)
    assert fan.shape == (10, 19)
    np.testing.assert_allclose(fan[:, [1, 17]], table[["lower", "upper"]], rtol=1e-6)
