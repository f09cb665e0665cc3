"""The backtest: exact against manual accounts, blind to the future, profitable only if forecasts know something."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from evaluation_frames import market_windows, noisy_forecasts
from pooled_frames import LIVES, ticker_bars, ticker_windows
from tickerforge.evaluation.backtest.positions import bought_and_held, market_of, mean_variance, positions
from tickerforge.evaluation.backtest.simulation import backtest, settle
from tickerforge.evaluation.baselines.simple import baseline_forecasts
from tickerforge.evaluation.comparison.compare import compare, select_windows
from tickerforge.evaluation.core.config import BacktestConfig, EvaluationConfig
from tickerforge.evaluation.core.contracts import Backtest
from tickerforge.evaluation.core.errors import EvaluationError
from tickerforge.evaluation.core.panels import Answers, Truth, answers_of, session_calendar, truth_of
from tickerforge.features.config import SyntheticConfig
from tickerforge.features.prices.bars import adjust
from tickerforge.features.synthetic import market

FREE, TEN = BacktestConfig(cost_bps=0), BacktestConfig()
DAYS = np.datetime64("2024-01-01") + np.arange(9)


def opens_of(bars: pd.DataFrame, ticker: str = "DEMO") -> pd.DataFrame:
    return adjust(bars)[["date", "open"]].assign(ticker=ticker)


def by_hand(signs: list[float], *, origins: list[int], horizon: int = 2) -> tuple[Truth, Answers]:
    """Windows at rows `origins` of `DAYS`, each forecast to rise, to fall or to stay."""
    rows = np.array(origins)
    count = len(rows)
    truth = Truth(
        ticker="DEMO",
        split="test",
        tickers=np.full(count, "DEMO", dtype=object),
        origins=DAYS[rows],
        positions=rows,
        target=np.full((count, horizon), 100.0),
        target_dates=DAYS[rows[:, None] + np.arange(1, horizon + 1)],
        origin_price=np.full(count, 100.0),
        sigma=np.full(count, 0.02),
        train_mean=np.full(count, 100.0),
        train_std=np.full(count, 5.0),
        variance=np.full((count, horizon), 0.0004),
    )
    median = 100.0 + np.array(signs)[:, None] * np.ones(horizon)
    none = np.zeros(count, dtype=np.int64)
    return truth, Answers("sft", median, np.empty((0, horizon)), none, none, none)


def prices(values: list[float], ticker: str = "DEMO") -> pd.DataFrame:
    return pd.DataFrame({"ticker": ticker, "date": DAYS[: len(values)].astype("datetime64[s]"), "open": values})


def run(windows: pd.DataFrame, forecasts: pd.DataFrame, opens: pd.DataFrame, config: BacktestConfig = TEN) -> Backtest:
    truth = truth_of(windows, split="test", calendar=session_calendar(windows))
    answers = [answers_of(forecasts, model=model, truth=truth) for model in forecasts["model"].unique()]
    return backtest(truth, answers, opens=opens, config=config, tried=("sft",))


def test_entries_exits_and_costs_are_those_worked_out_by_hand() -> None:
    # Known on the evening of day 0: up over days 1 and 2. Known on day 2: down over days 3 and 4.
    truth, answers = by_hand([+1, -1], origins=[0, 2])
    found = backtest(truth, [answers], opens=prices([90, 100, 110, 121, 110, 99]), config=TEN, tried=("sft",))
    assert found.dates == tuple(DAYS[1:6].tolist())
    cost = 0.001
    flat = found.of("long_flat", "sft")
    assert flat is not None
    # Bought at 100 on day 1, sold at 121 on day 3; nothing afterwards.
    bought, sold = 1 - cost, 1 - cost
    assert flat.equity == pytest.approx(
        (1, 1.1 * bought, 1.21 * bought, 1.21 * bought * sold, 1.21 * bought * sold), abs=1e-6
    )
    assert flat.turnover == pytest.approx(2 / 4 * 252)
    assert flat.exposure == 0.5
    short = found.of("long_short", "sft")
    assert short is not None
    # Turned over at 121 on day 3: one capital sold, one sold short. On day 4, at 110, the short has become 110/121 of a
    # capital of 1 + 11/121 and is brought back to the whole; at 99 it is bought back.
    gain = 1 + 11 / 121
    restored = 1 - (110 / 121) / gain
    last = 1 + 11 / 110
    expected = bought * 1.21 * (1 - 2 * cost) * gain * (1 - cost * restored) * last * (1 - cost * (99 / 110) / last)
    assert short.total_return == pytest.approx(expected - 1, abs=1e-9)
    held = found.of("buy_and_hold")
    assert held is not None
    assert held.total_return == pytest.approx(0.99 * (1 - cost) ** 2 - 1, abs=1e-9)


def test_forecasts_that_overlap_share_the_capital() -> None:
    truth, answers = by_hand([+1, -1, +1], origins=[0, 1, 2])
    market_ = market_of(truth, opens=prices([100.0] * 7))
    held = positions(truth, [answers], market=market_, config=TEN)["long_short"]["sft"]
    assert held[:, 0].tolist() == [1, 0, 0, 1]


def test_without_a_current_forecast_nothing_is_held() -> None:
    truth, answers = by_hand([+1, +1], origins=[0, 5])
    market_ = market_of(truth, opens=prices([100.0] * 9))
    held = positions(truth, [answers], market=market_, config=TEN)["long_flat"]["sft"]
    assert held[:, 0].tolist() == [1, 1, 0, 0, 0, 1, 1]


def test_a_forecast_of_no_move_never_trades() -> None:
    windows, train = market_windows()
    bars = market(SyntheticConfig(process="random_walk", sessions=600, seed=3))
    found = run(windows, baseline_forecasts(windows, windows=windows, train=train), opens_of(bars))
    for rule in ("long_flat", "long_short"):
        account = found.of(rule, "persistence")
        assert account is not None
        assert (account.turnover, account.exposure, account.total_return, account.sharpe) == (0, 0, 0, None)
    drift = found.of("long_short", "drift")
    assert drift is not None
    assert drift.exposure == 1


def test_a_session_that_the_ticker_lacks_leaves_its_position_as_it_was() -> None:
    truth, answers = by_hand([+1, -1], origins=[0, 4])
    other = replace(truth, tickers=np.array(["OTHER", "OTHER"], dtype=object), origins=truth.origins)
    both = replace(
        truth,
        ticker="ALL",
        **{
            name: np.concatenate([getattr(truth, name), getattr(other, name)])
            for name in ("tickers", "origins", "positions", "target", "target_dates", "origin_price", "sigma")
        },
    )
    twice = replace(
        answers, median=np.concatenate([answers.median] * 2), n_valid=np.zeros(4, int), n_samples=np.zeros(4, int)
    )
    opens = pd.concat([prices([100.0] * 9).drop(index=3), prices([100.0] * 9, "OTHER")])
    market_ = market_of(both, opens=opens)
    held = positions(both, [twice], market=market_, config=TEN)["long_short"]["sft"]
    # The forecast of day 0 ends on day 2, but DEMO could not be sold on day 3.
    assert (2 * held[:, 0]).tolist() == [1, 1, 1, 0, -1, -1]
    assert (2 * held[:, 1]).tolist() == [1, 1, 0, 0, -1, -1]


def test_a_session_without_an_open_is_refused_by_name() -> None:
    truth, answers = by_hand([+1], origins=[0])
    with pytest.raises(EvaluationError, match="DEMO: a forecast covers 2024-01-03, but the prices have no open"):
        backtest(truth, [answers], opens=prices([100.0, 100.0]), config=TEN, tried=("sft",))


def test_an_account_that_loses_everything_stays_at_nothing() -> None:
    net, _ = settle(np.full((3, 1), -1.0), np.array([[0.1], [2.0], [-0.5]]), cost=0.001)
    assert net[1:].tolist() == [-1, 0]


def pool() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Windows, forecasts with some knowledge, and opens of three tickers that begin and end on different dates."""
    frames, opens, forecasts = [], [], []
    for seed, ticker in enumerate(LIVES):
        windows, train = ticker_windows(ticker)
        frames.append(windows)
        opens.append(opens_of(ticker_bars(ticker), ticker))
        asked = select_windows(windows, config=EvaluationConfig())
        forecasts += [
            baseline_forecasts(asked, windows=windows, train=train),
            noisy_forecasts(asked, model="sft", knowledge=0.2, seed=seed),
        ]
    return pd.concat(frames, ignore_index=True), pd.concat(forecasts, ignore_index=True), pd.concat(opens)


def test_no_position_knows_its_own_open_or_anything_after_it() -> None:
    windows, forecasts, opens = pool()
    truth = truth_of(windows, split="test", calendar=session_calendar(windows))
    answers = answers_of(forecasts, model="sft", truth=truth)
    market_ = market_of(truth, opens=opens)
    day = (market_.last - market_.first) // 2
    session = market_.sessions[market_.first + day]
    rng = np.random.default_rng(0)

    late = opens["date"].to_numpy().astype("datetime64[D]") >= session
    moved = opens.assign(open=opens["open"] * np.where(late, rng.uniform(0.5, 2, len(opens)), 1.0))
    # A forecast whose origin is this session or a later one is made from its close.
    unknown = truth.origins >= session
    others = replace(answers, median=np.where(unknown[:, None], 1.0, answers.median))
    after = np.where(unknown[:, None], 1.0, truth.target)
    changed = replace(truth, target=after)

    before = positions(truth, [answers], market=market_, config=TEN)
    again = positions(changed, [others], market=market_of(changed, opens=moved), config=TEN)
    assert set(before) == {"long_flat", "long_short", "equal_risk", "mean_variance"}
    for rule, held in before.items():
        assert np.abs(held["sft"][: day + 1]).sum() > 0
        np.testing.assert_array_equal(held["sft"][: day + 1], again[rule]["sft"][: day + 1])
        assert not np.array_equal(held["sft"][day + 1 :], again[rule]["sft"][day + 1 :])


def test_returns_up_to_a_session_do_not_depend_on_what_comes_after() -> None:
    windows, forecasts, opens = pool()
    day = pd.Timestamp(run(windows, forecasts, opens).dates[20])
    moved = opens.assign(open=opens["open"].where(opens["date"] <= day, opens["open"] * 1.7))
    pairs = zip(run(windows, forecasts, opens).accounts, run(windows, forecasts, moved).accounts, strict=True)
    for one, other in pairs:
        assert one.equity[:20] == other.equity[:20]


def test_equal_risk_weighs_by_calm_and_never_holds_more_than_the_capital() -> None:
    windows, forecasts, opens = pool()
    truth = truth_of(windows, split="test", calendar=session_calendar(windows))
    answers = answers_of(forecasts, model="sft", truth=truth)
    up = replace(answers, median=truth.origin_price[:, None] * np.full(truth.target.shape, 1.01))
    market_ = market_of(truth, opens=opens)
    held = positions(truth, [up], market=market_, config=TEN)["equal_risk"]["sft"]
    some = held.sum(axis=1) > 0
    np.testing.assert_allclose(held[some].sum(axis=1), 1)
    mixed = positions(truth, [answers], market=market_, config=TEN)["equal_risk"]["sft"]
    assert np.abs(mixed).sum(axis=1).max() <= 1 + 1e-12
    assert np.abs(mixed).sum(axis=1).min() < 0.9
    first = truth.positions == truth.positions.min()
    calm = 1 / truth.sigma[first]
    np.testing.assert_allclose(held[0][market_.places[first]], calm / calm.sum())


def test_mean_variance_halves_what_twice_the_variance_moves() -> None:
    windows, _, opens = pool()
    truth = truth_of(windows, split="test", calendar=session_calendar(windows))
    market_ = market_of(truth, opens=opens)
    rng = np.random.default_rng(1)
    steps = rng.standard_normal(market_.opens.shape) * 0.01 * np.sqrt([1.0, 2.0, 1.0])
    wild = replace(market_, opens=100 * np.exp(np.cumsum(steps, axis=0)))
    shape = (market_.last - market_.first, 3)
    expected = {"sft": np.tile([0.001, 0.001, 0.0], (shape[0], 1))}
    held = mean_variance(expected, market=wild, under_way=np.ones(shape, bool), history=5000)["sft"]
    np.testing.assert_allclose(np.abs(held).sum(axis=1), 1)
    assert held[:, 0].mean() / held[:, 1].mean() == pytest.approx(2, rel=0.25)
    assert np.abs(held[:, 2]).max() < 0.1


def test_buying_and_holding_trades_twice() -> None:
    windows, _forecasts, opens = pool()
    truth = truth_of(windows, split="test", calendar=session_calendar(windows))
    market_ = market_of(truth, opens=opens)
    net, traded = settle(bought_and_held(market_), market_.returns, cost=0.0)
    assert traded[[0, -1]].tolist() == pytest.approx([1, 1])
    assert np.abs(traded[1:-1]).max() < 1e-12
    grown = np.prod(1 + market_.returns, axis=0).mean()
    assert np.prod(1 + net) == pytest.approx(grown)


def planted(knowledge: float, seed: int) -> tuple[float, float, float]:
    """Sharpe before costs, yearly return after 10 basis points, and deflated Sharpe of long/short on a random walk."""
    rng = np.random.default_rng(seed)
    count, horizon, sigma = 250, 10, 0.015
    opens = 100 * np.exp(np.cumsum(sigma * rng.standard_normal(count + horizon + 1)))
    # The next session opens at the close plus a little noise.
    closes = np.append(opens[1:], opens[-1]) * np.exp(0.2 * sigma * rng.standard_normal(len(opens)))
    days = np.datetime64("2020-01-01") + np.arange(len(opens))
    rows = np.arange(count)
    ahead = rows[:, None] + np.arange(1, horizon + 1)
    truth, answers = by_hand([1.0] * count, origins=[0] * count)
    truth = replace(
        truth,
        origins=days[rows],
        positions=rows,
        target=closes[ahead],
        target_dates=days[ahead],
        origin_price=closes[rows],
        sigma=np.full(count, sigma),
    )
    moves = np.log(truth.target / truth.origin_price[:, None])
    guess = knowledge * moves + 0.3 * sigma * rng.standard_normal((count, 1))
    answers = replace(answers, median=truth.origin_price[:, None] * np.exp(guess))
    table = pd.DataFrame({"ticker": "DEMO", "date": days.astype("datetime64[s]"), "open": opens})
    free, paid = (
        backtest(truth, [answers], opens=table, config=config, tried=("sft",)).of("long_short", "sft")
        for config in (FREE, TEN)
    )
    assert free is not None
    assert paid is not None
    return free.sharpe or 0.0, paid.annual_return, free.deflated_sharpe or 0.0


def test_a_planted_edge_is_found_in_nearly_every_market() -> None:
    found = np.array([planted(0.1, seed) for seed in range(20)])
    assert found[:, 0].mean() > 2
    assert (found[:, 2] > 0.95).mean() >= 0.75
    assert found[:, 1].mean() > 0


@pytest.mark.nightly
def test_forecasts_without_an_edge_show_none_and_lose_the_costs() -> None:
    found = np.array([planted(0.0, seed) for seed in range(150)])
    chance = found[:, 0].std(ddof=1) / np.sqrt(len(found))
    assert abs(found[:, 0].mean()) < 2.5 * chance
    assert (found[:, 2] > 0.95).mean() <= 0.09
    assert found[:, 1].mean() < 0


def test_a_comparison_with_opens_holds_the_backtest_and_one_without_none() -> None:
    windows, forecasts, opens = pool()
    config = EvaluationConfig(max_windows=40, variants_tried=12)
    report = compare(windows, forecasts, config=config, pool="ALL", opens=opens)
    assert report.backtest is not None
    assert report.backtest.variants == 12
    assert (report.backtest.tickers, report.backtest.hold, report.backtest.cost_bps) == (3, 10, 10)
    traded = report.backtest.of("long_short", "sft")
    held = report.backtest.of("buy_and_hold")
    assert traded is not None
    assert held is not None
    assert set(held.sharpe_by_ticker) == set(LIVES)
    assert set(traded.sharpe_by_ticker) == set(LIVES)
    assert len(traded.equity) == len(report.backtest.dates)
    assert compare(windows, forecasts, config=config, pool="ALL").backtest is None
    assert report.model_validate_json(report.model_dump_json()) == report
