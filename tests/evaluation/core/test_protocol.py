"""The published protocol: its windows and figures, and rivals that never use test prices too early."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import mean_absolute_error, mean_squared_error
from sklearn.preprocessing import StandardScaler

from protocol_series import three, walk
from tickerforge.evaluation.baselines.rivals import (
    CLASSICAL,
    classical,
    common_drift,
    drift,
    persistence,
    ridge,
    walks,
)
from tickerforge.evaluation.bench.standings import ProtocolForecast, standings_of, whole_of
from tickerforge.evaluation.core.contracts import FREE, Floats
from tickerforge.evaluation.core.errors import EvaluationError
from tickerforge.evaluation.core.protocol import HORIZON, Protocol, common_border, protocol_of, series_of
from tickerforge.features.prices.bars import read_csv

RIVALS = (persistence, drift, common_drift, ridge)


def entry(name: str, forecast: Floats) -> ProtocolForecast:
    return ProtocolForecast(name, forecast, asked=np.ones(len(forecast), dtype=bool))


def test_on_the_shared_stocknet_prices_persistence_and_drift_have_the_known_errors(stocknet: Path) -> None:
    names = sorted(path.stem for path in stocknet.glob("*.csv"))
    protocol = protocol_of([series_of(read_csv(stocknet / f"{n}.csv", ticker=n), ticker=n) for n in names])
    everything = np.arange(len(protocol.place))
    free = [
        replace(entry(name, middle), whole=whole_of(protocol, [(everything, paths)]))
        for name, (middle, paths) in walks(protocol).items()
    ]
    found = standings_of(protocol, [entry("persistence", persistence(protocol)), *free])
    crps = {name: found.of(name).crps or 0.0 for name in FREE}
    assert {name: f"{value:.3f}" for name, value in crps.items()} == {
        "random_walk": "0.728",
        "random_walk_har": "0.724",
        "drift": "0.730",
    }
    har = found.of("random_walk_har")
    assert (har.crps_p or 1.0) < 0.01
    assert (har.qlike or 1.0) < 0.9 * (found.of("random_walk").qlike or 0.0)
    assert len(names) == 64
    known = {"persistence": ("0.0600", "0.1618"), "drift": ("0.0594", "0.1606")}
    for name, figures in known.items():
        assert (f"{found.of(name).mse:.4f}", f"{found.of(name).mae:.4f}") == figures


def test_errors_are_those_of_scikit_learns_z_scores_averaged_over_tickers() -> None:
    protocol = three()
    forecast = drift(protocol)
    squares, absolutes = [], []
    for place, series in enumerate(protocol.series):
        scaler = StandardScaler().fit(series.prices[: series.train_end, None])
        mine = protocol.place == place
        z = [scaler.transform(values[mine].reshape(-1, 1)) for values in (protocol.target, forecast)]
        squares.append(mean_squared_error(*z))
        absolutes.append(mean_absolute_error(*z))
    found = standings_of(protocol, [entry("persistence", persistence(protocol)), entry("drift", forecast)]).of("drift")
    assert found.mse == pytest.approx(np.mean(squares))
    assert found.mae == pytest.approx(np.mean(absolutes))
    assert found.mse_median == pytest.approx(np.median(squares))


def test_the_first_target_is_the_first_test_row_and_the_last_one_the_last_price() -> None:
    series = walk("AAA", seed=1)
    protocol = protocol_of([series])
    assert protocol.target[0, 0] == series.prices[series.test_start]
    assert protocol.target[-1, -1] == series.prices[-1]
    assert len(protocol.place) == 80 - HORIZON + 1
    assert protocol.origin_price[0] == series.prices[series.test_start - 1]


def test_a_ticker_with_few_windows_weighs_as_much_as_one_with_many() -> None:
    series = [walk("LONG", seed=1, sessions=800), walk("SHORT", seed=2, sessions=100)]
    protocol = protocol_of(series)
    found = standings_of(protocol, [entry("persistence", persistence(protocol))]).standings[0]
    own = [np.square(alone.errors(persistence(alone))).mean() for alone in (protocol_of([each]) for each in series)]
    assert found.mse == pytest.approx(np.mean(own))
    assert found.tickers["SHORT"].windows < found.tickers["LONG"].windows


@pytest.mark.parametrize("rival", RIVALS)
def test_no_rival_sees_anything_after_the_origin(rival) -> None:
    protocol = three()
    known = rival(protocol)
    shaken = []
    for series in protocol.series:
        prices = series.prices.copy()
        prices[series.test_start + 20 :] *= 1.3
        shaken.append(replace(series, prices=prices))
    again = rival(protocol_of(shaken))
    early = protocol.row < np.array([s.test_start for s in protocol.series])[protocol.place] + 20
    np.testing.assert_array_equal(known[early], again[early])


@pytest.mark.parametrize("rival", [drift, common_drift, ridge])
def test_what_is_fitted_does_not_see_test_prices_even_for_later_windows(rival) -> None:
    """A change of one test price changes the inputs at later origins, but no parameter."""
    protocol = three()
    series = list(protocol.series)
    prices = series[0].prices.copy()
    prices[series[0].test_start + 2] *= 1.2
    series[0] = replace(series[0], prices=prices)
    known, again = rival(protocol), rival(protocol_of(series))
    others = protocol.place != 0
    np.testing.assert_array_equal(known[others], again[others])


@pytest.mark.parametrize("rival", [common_drift, ridge])
def test_train_rows_from_the_years_on_which_others_are_tested_teach_the_others_nothing(rival) -> None:
    protocol = three()
    late = protocol.series[2]
    assert late.dates[0] > common_border(protocol.series)
    prices = late.prices.copy()
    prices[: late.train_end] *= np.linspace(1, 3, late.train_end)
    again = rival(protocol_of([*protocol.series[:2], replace(late, prices=prices)]))
    first_two = protocol.place < 2
    np.testing.assert_array_equal(rival(protocol)[first_two], again[first_two])


def test_drifts_that_differ_by_chance_alone_become_one() -> None:
    protocol = protocol_of([walk(f"T{seed}", seed=seed, sessions=1200, daily=0.001) for seed in range(20)])
    scaled = [
        np.log(
            common_drift(protocol)[protocol.place == place][0, 0] / protocol.origin_price[protocol.place == place][0]
        )
        / np.diff(np.log(series.train)).std()
        for place, series in enumerate(protocol.series)
    ]
    own = [np.diff(np.log(series.train)).mean() / np.diff(np.log(series.train)).std() for series in protocol.series]
    assert np.ptp(scaled) < 0.5 * np.ptp(own)
    assert np.mean(scaled) == pytest.approx(np.mean(own))


def test_drifts_that_truly_differ_stay_apart() -> None:
    daily = np.linspace(-0.004, 0.004, 20)
    protocol = protocol_of([walk(f"T{k}", seed=k, sessions=1200, daily=each) for k, each in enumerate(daily)])
    moves = np.log(common_drift(protocol)[:, 0] / protocol.origin_price)
    found = np.array([moves[protocol.place == place][0] for place in range(20)])
    assert np.corrcoef(found, daily)[0, 1] > 0.95
    assert np.polyfit(daily, found, 1)[0] > 0.8


def test_ridge_finds_momentum_and_little_on_a_random_walk() -> None:
    def ratio(phi: float) -> float:
        protocol = protocol_of([walk(f"T{seed}", seed=seed, sessions=1200, phi=phi) for seed in range(8)])
        entries = [entry("persistence", persistence(protocol)), entry("ridge", ridge(protocol))]
        return standings_of(protocol, entries).of("ridge").against_persistence

    assert ratio(0.5) < 0.975
    assert ratio(0.0) == pytest.approx(1.0, abs=0.04)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CLASSICAL)
def test_classical_forecasters_are_fitted_on_train_and_follow_the_latest_price(name: str) -> None:
    series = walk("AAA", seed=4, sessions=200)
    protocol = protocol_of([series])
    forecast, moves = classical(protocol, name)
    assert forecast.shape == protocol.target.shape
    whole = whole_of(protocol, [(np.arange(len(moves)), moves)])
    assert 0.5 < whole.inside.mean() < 0.99
    np.testing.assert_allclose(forecast[:, 0], protocol.origin_price, rtol=0.05)
    prices = series.prices.copy()
    prices[-HORIZON:] *= 1.5
    again, _ = classical(protocol_of([replace(series, prices=prices)]), name)
    np.testing.assert_array_equal(forecast, again)


def test_free_distributions_use_no_price_after_the_common_border_but_those_up_to_each_origin() -> None:
    protocol = three()
    shaken = []
    for series in protocol.series:
        prices = series.prices.copy()
        prices[series.train_end + 5 :] *= 1.3
        shaken.append(replace(series, prices=prices))
    before, after = walks(protocol), walks(protocol_of(shaken))
    for name in FREE:
        middle, paths = before[name]
        assert paths.shape == (len(protocol.place), 99, HORIZON)
        np.testing.assert_allclose(np.median(paths, axis=1), np.log(middle / protocol.origin_price[:, None]))
    late = np.flatnonzero(protocol.row > protocol.row.max() - 5)
    np.testing.assert_allclose(before["random_walk"][1][late], after["random_walk"][1][late])


def test_an_unknown_classical_forecaster_and_a_table_without_persistence_are_refused() -> None:
    protocol: Protocol = three()
    with pytest.raises(EvaluationError, match="no classical forecaster 'prophet': there are garch, ets, theta, arima"):
        classical(protocol, "prophet")
    with pytest.raises(EvaluationError, match="the table needs persistence"):
        standings_of(protocol, [entry("drift", drift(protocol))])


def test_a_better_forecaster_has_a_small_p_value_and_is_compared_on_its_own_windows() -> None:
    protocol = protocol_of([walk(f"T{seed}", seed=seed, sessions=1200) for seed in range(4)])
    naive = persistence(protocol)
    forecast = naive + 0.5 * (protocol.target - naive)
    asked = np.arange(len(forecast)) % 3 == 0
    forecast[~asked] = np.nan
    found = standings_of(protocol, [entry("persistence", naive), ProtocolForecast("mine", forecast, asked=asked)]).of(
        "mine"
    )
    assert found.against_persistence == pytest.approx(0.25)
    assert found.p_value < 0.01
    assert (found.windows, found.is_complete) == (int(asked.sum()), False)


def test_a_ticker_with_too_few_sessions_is_refused_by_name() -> None:
    series = walk("TINY", seed=1, sessions=40)
    bars = pd.DataFrame({"date": series.dates.astype("datetime64[s]"), "adj_close": series.prices})
    with pytest.raises(EvaluationError, match="TINY: 40 sessions leave no test window"):
        series_of(bars, ticker="TINY")
