"""The night in one process: prices come first, and a faulty ticker leaves the others alone and ends the night red."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from prefect import flow

from tickerforge.evaluation.core.contracts import FREE
from tickerforge.evaluation.report.desk import DeskRow
from tickerforge.features.config import QualityConfig, SyntheticConfig
from tickerforge.features.prices.bars import read_csv
from tickerforge.features.synthetic import market
from tickerforge.flows.errors import NightFailed
from tickerforge.flows.night.basis import basis_of
from tickerforge.flows.night.nightly import (
    Prepared,
    choose,
    nightly,
    prepare_ticker,
    ticker_night,
    trains_tonight,
    unchanged_night,
)
from tickerforge.flows.settings.config import PipelineConfig, with_overrides
from tickerforge.tasks.base.disk import tree_hashes
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.outputs.desk import keep_rows, read_rows
from tickerforge.tasks.outputs.live import check_record
from tickerforge.tasks.prices.market_data import FolderSource, fetch_bars
from tickerforge.tasks.prices.price_files import keep
from tickerforge.tasks.prices.sessions import sessions_between
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.tracking.client import client_of, connect
from tickerforge.tasks.windows.preprocess import store_windows
from tiny_pipeline import tiny_config
from trained_pieces import lend_base_model
from web_server import Reply
from yahoo_server import up_to, yahoo_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
]


@pytest.fixture
def bars() -> pd.DataFrame:
    """Bars of a synthetic ticker that end on the last business day before today."""
    yesterday = pd.Timestamp.now("America/New_York") - pd.offsets.BDay(1)
    return up_to(market(tiny_config().synthetic), last=f"{yesterday:%Y-%m-%d}")


@pytest.fixture
def prices(working_folder: Path, bars: pd.DataFrame) -> Path:
    """A data folder with two good tickers, three sessions behind, and a negative price and too few sessions."""
    lend_base_model(Workspace.current().root)
    folder = working_folder / "prices"
    faulty = bars.copy()
    faulty.loc[50, "close"] = -1.0
    files = {"BAD": faulty, "FRESH": bars.head(397), "LAGS": bars.head(397), "SHORT": bars.head(30)}
    for stock, held in files.items():
        keep(folder, stock, held)
    return folder


def night_table() -> list[dict[str, Any]]:
    """The newest table of a night on the server."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = [each for each in client.read_artifacts() if each.key == "night"]
    return json.loads(max(found, key=lambda each: each.created).data)


def assert_desk_files(folder: Path) -> None:
    """The page and the tables hold the two tickers with forecasts, and the record of these is unchanged."""
    assert {path.name for path in folder.iterdir()} == {"desk.html", "latest.parquet", "latest.csv"}
    latest = pd.read_parquet(folder / "latest.parquet")
    assert list(latest.groupby("ticker").size().items()) == [("FRESH", 2), ("LAGS", 2)]
    assert latest["issuer"].isin(FREE).all()
    assert (latest["q10"] <= latest["median"]).all()
    pd.testing.assert_frame_equal(pd.read_csv(folder / "latest.csv")[["median", "q90"]], latest[["median", "q90"]])
    found = check_record()
    # A free forecast each, and those of the challengers beside them.
    assert (found.forecasts, found.faults) == (4, ())
    page = (folder / "desk.html").read_text()
    assert str(found.head) in page
    tracking = connect(Workspace.current())
    client = client_of(tracking)
    (run,) = client.search_runs([tracking.experiment_id], filter_string="attributes.run_name = 'desk'")
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["desk.html"]


def test_prices_are_updated_first_and_whoever_fails_leaves_the_others_alone_and_a_red_night_that_says_who_and_why(
    prefect_server: None,
    working_folder: Path,
    bars: pd.DataFrame,
    prices: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = with_overrides(tiny_config(), ["stock=FRESH", "data=prices", "warm_start=champion", "update=yahoo"])
    with yahoo_server(monkeypatch, {"FRESH": bars, "LAGS": bars}) as yahoo:
        yahoo.now = f"{bars['date'].iloc[-1]:%Y-%m-%d} 17:30"
        yahoo.instead["LAGS"] = [Reply(status=503)]
        with pytest.raises(NightFailed, match=r"4 tickers: 0 promoted, 2 failed") as failure:
            nightly(config)
        done = [each.getMessage() for each in caplog.records if " tickers are done " in each.getMessage()]
        assert done == ["3 of 4 tickers are done (FRESH)", "4 of 4 tickers are done (LAGS)"]
        told = str(failure.value).splitlines()[1:]
        assert [line.partition(":")[0] for line in told] == ["BAD", "SHORT"]
        assert "negative" in told[0] or "Close" in told[0]
        sessions = {stock: len(read_csv(prices / f"{stock}.csv", ticker=stock)) for stock in ("FRESH", "LAGS")}
        assert sessions == {"FRESH": 400, "LAGS": 397}
        rows = night_table()
        assert [row["Stock"] for row in rows[:2]] == ["BAD", "SHORT"]
        assert [row["Outcome"] for row in rows[:2]] == ["failed", "failed"]
        assert all(row["Why"] for row in rows)
        table = {row["Stock"]: row for row in rows}
        assert set(table) == {"BAD", "SHORT", "FRESH", "LAGS"}
        for stock in ("FRESH", "LAGS"):
            assert table[stock]["Outcome"] == "kept"
            assert table[stock]["Horizon"].endswith("%")
        last = f"{bars['date'].iloc[396]:%Y-%m-%d}"
        stale = f"The prices end on {last}, as they could not be updated (MarketDataError: LAGS"
        assert table["LAGS"]["Watch"] == "not updated"
        assert "updated" not in table["FRESH"]["Watch"]
        shown = {row.ticker: row for row in read_rows()}
        assert stale in " ".join(shown["LAGS"].watch)
        assert [row for row in shown if shown[row].flags[:1] == ("failed",)] == ["BAD", "SHORT"]
        assert_desk_files(working_folder / "forecasts")
        models = working_folder / "models"
        assert {path.name for path in (models / "tiny").iterdir()} == {"FRESH", "LAGS"}

        before, runs = tree_hashes(models), set(Path("results").iterdir())
        days = [f"{datetime.now(UTC):%Y-%m-%d}"]
        again = nightly(config, tickers=("FRESH", "FRESH"))
        days.append(f"{datetime.now(UTC):%Y-%m-%d}")
        assert [(each.stock, each.unchanged) for each in again.tickers] == [("FRESH", True)]
        assert tree_hashes(models) == before
        (row,) = night_table()
        assert row in [table["FRESH"] | {"Outcome": f"kept on {day}"} for day in days]
        seeded = nightly(with_overrides(config, ["seed=1"]), tickers=("LAGS",))
        assert [(each.unchanged, each.judged) for each in seeded.tickers] == [(False, True)]
        assert {folder.name[:5] for folder in set(Path("results").iterdir()) - runs} == {"LAGS_"}

        with pytest.raises(NightFailed, match="NOPE: MarketDataError: NOPE: Yahoo"):
            nightly(config, tickers=("NOPE",))
        assert [row["Outcome"] for row in night_table()] == ["failed"]


def test_a_ticker_trains_by_its_last_training_and_its_drift(working_folder: Path, tmp_path: Path) -> None:
    store, folder = Store(tmp_path / "store"), tmp_path / "prices"
    calm = market(SyntheticConfig(process="random_walk", sessions=1200, seed=3))
    # The daily moves of the last 80 sessions are four times as large.
    wild, later, names = calm.copy(), calm.index[-80:], ["open", "high", "low", "close", "adj_close"]
    moves = np.log(calm.loc[later, "adj_close"] / calm["adj_close"].iloc[-81])
    wild.loc[later, names] = calm.loc[later, names].mul(np.exp(3 * moves), axis=0)
    ready = {}
    for stock, prices in {"CALM": calm, "WILD": wild}.items():
        keep(folder, stock, prices)
        config = PipelineConfig(stock=stock, data=folder)
        made = fetch_bars.fn(FolderSource(folder=folder), stock, store=store, quality=QualityConfig(jumps="accept"))
        windows = store_windows.fn(made, config=config.features, store=store)
        ready[stock] = Prepared(config=config, bars=made, windows=windows, last=prices["date"].iloc[-1].date())
    assert trains_tonight(ready["CALM"], "drift")
    now = datetime.now(UTC)
    rows = {stock: DeskRow(ticker=stock, outcome="kept", judged_at=now - timedelta(days=3)) for stock in ready}
    keep_rows(rows.values())
    assert [trains_tonight(each, "weekly") for each in ready.values()] == [False, False]
    assert [trains_tonight(each, "drift") for each in ready.values()] == [False, True]
    assert trains_tonight(ready["CALM"], "always")
    for changed in ({"judged_at": now - timedelta(days=7)}, {"outcome": "failed"}):
        keep_rows([rows["CALM"].model_copy(update=changed)])
        assert trains_tonight(ready["CALM"], "weekly")
    drifted = rows["CALM"].model_copy(update={"flags": ("error drift",), "trained_on": "basis"})
    keep_rows([drifted])
    assert trains_tonight(ready["CALM"], "drift")
    same, other = (ready["CALM"].model_copy(update={"basis": name}) for name in ("basis", "another"))
    assert [trains_tonight(each, "drift") for each in (same, other)] == [False, True]
    assert [trains_tonight(each, "always") for each in (same, other)] == [False, True]
    keep_rows([drifted.model_copy(update={"outcome": "failed"})])
    assert trains_tonight(same, "always")

    keep_rows(rows.values())
    calm_one = ready["CALM"]
    gone = calm_one.windows.model_copy(update={"path": tmp_path / "gone"})
    lost = {**ready, "CALM": Prepared(config=calm_one.config, bars=calm_one.bars, windows=gone, last=calm_one.last)}
    failures: dict[str, str] = {}
    assert list(choose(lost, "drift", failures=failures)) == ["WILD"]
    assert (list(lost), list(failures)) == (["WILD"], ["CALM"])


def test_an_unchanged_ticker_keeps_its_row_except_for_the_end_of_its_prices(working_folder: Path) -> None:
    ref = ArtifactRef(stage="bars", key="0", path=working_folder, sha256="0")
    ready = Prepared(
        config=tiny_config(), bars=ref, windows=ref, last=date(2026, 11, 27), stale=2, basis="basis", unchanged=True
    )
    row = DeskRow(
        ticker="DEMO",
        outcome="promoted",
        judged_at=datetime(2026, 11, 20, 22, tzinfo=UTC),
        flags=("not updated", "input drift"),
        watch=("No answer.", "It has drifted."),
        basis="basis",
    )
    keep_rows([row])
    night = unchanged_night(ready)
    assert night.desk.flags == ("stale", "input drift")
    assert night.desk.watch == ("The prices end on 2026-11-27 and lack 2 sessions.", "It has drifted.")
    assert (night.row()["Outcome"], night.judged, night.promoted) == ("promoted on 2026-11-20", False, False)
    assert night.desk.basis == "basis"


def test_the_basis_of_a_night_changes_with_prices_settings_base_model_and_registered_versions(tmp_path: Path) -> None:
    bars, other = (ArtifactRef(stage="bars", key="0", path=tmp_path, sha256=sha) for sha in ("0", "1"))
    given: dict[str, Any] = {"bars": bars, "windows": bars, "versions": {"DEMO": {"challenger": "1"}, "ALL": {}}}
    found = [basis_of(tiny_config(), **given) for _ in range(2)]
    found += [basis_of(tiny_config(), **(given | {name: other})) for name in ("bars", "windows")]
    found += [
        basis_of(tiny_config(), **(given | {"versions": {"DEMO": {"challenger": "1"}, "ALL": {"champion": "1"}}}))
    ]
    found += [basis_of(with_overrides(tiny_config(), ["seed=1"]), **given)]
    model = tmp_path / "model"
    model.mkdir()
    for content in ("{}", '{"vocab_size": 2}'):
        (model / "config.json").write_text(content)
        found += [basis_of(with_overrides(tiny_config(), [f"training.model={model}"]), **given)]
    assert found[0] == found[1]
    assert len(set(found)) == 7


@pytest.mark.parametrize(("calendar", "lacks"), [("auto", True), ("none", False)])
def test_prices_that_ended_long_ago_are_stale_although_the_night_names_no_exchange(
    prefect_server: None, working_folder: Path, bars: pd.DataFrame, calendar: str, lacks: bool
) -> None:
    sessions = sessions_between(date(2016, 1, 1), date(2017, 12, 29), exchange="XNYS")
    sessions = sessions[sessions <= np.datetime64("2017-12-29")][-len(bars) :]
    keep(working_folder / "prices", "AAPL", bars.assign(date=sessions))
    config = with_overrides(tiny_config(), ["stock=AAPL", "data=prices", f"quality.exchange={calendar}"])
    ready = flow(prepare_ticker, validate_parameters=False)(config, "AAPL", exchange=None)
    assert (ready.stale > 2000) is lacks
    warnings = ticker_night("AAPL", ready=ready, result=None, forecast=None, failure="", seconds=0).desk.watch
    assert any("end on 2017-12-29 and lack" in warning for warning in warnings) is lacks
