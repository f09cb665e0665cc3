"""The shipped files of deployments, and what is said of a mistake in them."""

import re
from pathlib import Path

import pytest

from tickerforge.deployments.prefect.deploy import deploy, resolve_entry
from tickerforge.deployments.prefect.entries import (
    FORECAST,
    NIGHTLY,
    PREFECT_FILE,
    TickersFile,
    for_night,
    nightly_entries,
    read_entries,
    read_tickers,
)
from tickerforge.flows.errors import ConfigError
from tickerforge.flows.server.slots import ticker_limit
from tickerforge.flows.settings.config import PipelineConfig, with_overrides
from tickerforge.tasks.base.errors import MarketDataError

PEOPLES = ("train-ticker/1-train-one-stock", "nightly/2-retrain-all-stocks", "forecast/3-forecast-all-stocks")
DEMO = with_overrides(PipelineConfig(), ["stock=DEMO"])


def written(folder: Path, text: str, *, name: str = "tickers.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_shipped_files_are_read_and_all_their_flows_load_and_take_the_parameters() -> None:
    listed = read_tickers()
    entries = (*read_entries(), *nightly_entries(listed))
    names = {f"{resolve_entry(entry, config=DEMO, stocks=['DEMO'])[0].name}/{entry.name}" for entry in entries}
    assert {
        "train-ticker/1-train-one-stock",
        "nightly/2-retrain-all-stocks",
        "forecast/3-forecast-all-stocks",
        "heavy-stage/internal",
        "train-batch/internal",
        "train-ticker/nightly-DEMO",
    } <= names
    assert len(names) == len(entries)
    assert {entry.work_pool.name for entry in entries} == {"cpu-pool", "gpu-pool"}


def test_the_night_in_the_project_file_has_the_hour_and_exchange_of_the_file_of_tickers() -> None:
    (night,) = (entry for entry in read_entries() if entry.entrypoint == NIGHTLY)
    deployed = for_night(night, read_tickers())
    assert night.schedules == deployed.schedules
    assert night.parameters["exchange"] == deployed.parameters["exchange"]


@pytest.mark.parametrize(
    ("shipped", "mistake", "told"),
    [
        ("work_pool: {name: cpu-pool}", "work_pol: {name: cpu-pool}", r"deployments\.0\.work_pol: Extra inputs"),
        ("work_pool: {name: cpu-pool}", "work_pool: {nmae: cpu-pool}", r"work_pool\.nmae: Extra inputs"),
        ("    work_pool: {name: cpu-pool}\n", "", r"deployments\.0\.work_pool: Field required"),
        ("work_pool: {name: cpu-pool}", "work_pool: {name: cpu-poool}", "'cpu-pool' or 'gpu-pool'"),
        ("30 23 * * 1-5", "30 25 * * 1-5", "Invalid cron"),
        ("timezone: America/New_York", "timezone: America/New_Yrok", "Invalid timezone"),
        ("collision_strategy: ENQUEUE", "collision_strategy: QUEUE", "collision_strategy: Input should be"),
        ("name: tickerforge\n", "name: [tickerforge\n", "cannot read"),
    ],
)
def test_a_mistake_in_the_project_file_is_told_by_its_place(
    tmp_path: Path, shipped: str, mistake: str, told: str
) -> None:
    text = PREFECT_FILE.read_text()
    assert shipped in text
    with pytest.raises(ConfigError, match=told):
        read_entries(written(tmp_path, text.replace(shipped, mistake, 1), name="prefect.yaml"))


@pytest.mark.parametrize(
    ("shipped", "mistake", "told"),
    [
        (
            "tickerforge.flows.train.pipeline.train_ticker",
            "tickerforge.flows.train.pipeline.train_tickers",
            "one-stock: the entry point .* does not load",
        ),
        (
            "tickerforge.flows.train.pipeline.train_ticker",
            "tickerforge.flows.train.pipelin.train_ticker",
            "one-stock: the entry point .* does not load",
        ),
        ("      stock: DEMO", "      stok: DEMO", "no parameter stok"),
        ("      stock: DEMO", "      overrides: seed = -1", "one-stock: seed = -1: must be a whole number"),
        ("      stock: DEMO", "      exchnge: XNYS", "one-stock: .*exchnge"),
        ("heavy_stages: gpu-pool", "heavy_stages: gpu", "one-stock: .*heavy_stages"),
    ],
)
def test_an_entry_that_could_not_run_is_refused_before_anything_is_deployed(
    tmp_path: Path, shipped: str, mistake: str, told: str
) -> None:
    text = PREFECT_FILE.read_text()
    assert shipped in text
    entries = read_entries(written(tmp_path, text.replace(shipped, mistake, 1), name="prefect.yaml"))
    with pytest.raises(ConfigError, match=f"(?s){told}"):
        resolve_entry(entries[0], config=DEMO, stocks=["DEMO"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[tickers.AAPL]\ncorn = '0 0 * * *'", r"tickers\.AAPL\.corn: Extra inputs"),
        ("[tickers.'../b']", "tickers: "),
        ("[tickers.AAPL", "cannot read"),
    ],
)
def test_a_mistake_in_the_file_of_tickers_is_told_by_its_place(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_tickers(written(tmp_path, text))


def test_a_bad_cron_an_unknown_exchange_and_a_ticker_without_prices_are_refused(tmp_path: Path) -> None:
    (tmp_path / "AAPL.csv").touch()
    with pytest.raises(ConfigError, match="Invalid cron"):
        deploy(tickers=written(tmp_path, "[tickers.DEMO]\ncron = '99 * * * *'"))
    with pytest.raises(MarketDataError, match="XNIX"):
        deploy(tickers=written(tmp_path, "exchange = 'XNIX'\n[tickers.DEMO]"))
    with pytest.raises(ConfigError, match=r"nightly-MSFT: .*no prices for MSFT"):
        deploy(data=tmp_path, tickers=written(tmp_path, "[tickers.MSFT]"))


def test_the_pool_of_all_tickers_may_have_a_night_of_its_own_and_is_left_out_of_the_night(tmp_path: Path) -> None:
    listed = read_tickers(written(tmp_path, "[tickers.AAPL]\n[tickers.ALL]\ncron = '0 18 * * 5'\n"))
    (night,) = (for_night(entry, listed) for entry in read_entries() if entry.entrypoint == NIGHTLY)
    assert night.parameters["tickers"] == ["AAPL"]
    (pool,) = (entry for entry in nightly_entries(listed) if entry.name == "nightly-ALL")
    config = with_overrides(PipelineConfig(), ["stock=AAPL", f"data={tmp_path}"])
    _, parameters = resolve_entry(pool, config=config, stocks=["AAPL", "BRK.B"])
    assert (parameters["stock"], parameters["warm_start"]) == ("ALL", "champion")
    assert pool.schedules[0].active
    with pytest.raises(ConfigError, match="give --data FOLDER"):
        resolve_entry(pool, config=DEMO, stocks=["DEMO"])


def test_the_daily_forecast_is_on_the_days_of_the_exchange_of_the_night_at_its_own_hour(tmp_path: Path) -> None:
    listed = read_tickers(written(tmp_path, "exchange = 'XTKS'\n[tickers.\"7203.T\"]\n"))
    (daily,) = (for_night(entry, listed) for entry in read_entries() if entry.entrypoint == FORECAST)
    assert daily.parameters["exchange"] == "XTKS"
    assert [(each.cron, each.timezone) for each in daily.schedules] == [("0 18 * * 1-5", "Asia/Tokyo")]


def test_the_name_of_every_ticker_survives_in_prefect() -> None:
    from prefect.types.names import WITHOUT_BANNED_CHARACTERS

    names = ["M&M.NS", "BRK-B", "^GSPC", "EURUSD=X", "EUR/USD"]
    tickers = TickersFile.model_validate({"tickers": {name: {} for name in names}})
    written = [*(entry.name for entry in nightly_entries(tickers)), *map(ticker_limit, tickers.tickers)]
    assert len(set(written)) == 2 * len(names)
    assert all(re.fullmatch(WITHOUT_BANNED_CHARACTERS, name) for name in written), written
