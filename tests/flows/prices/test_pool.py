"""One adapter for all tickers: trained, judged and registered, and then the start of a ticker's own training."""

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tickerforge.features.config import SyntheticConfig
from tickerforge.features.synthetic import market
from tickerforge.flows.cli.preflight import check_prices
from tickerforge.flows.errors import ConfigError, NightFailed
from tickerforge.flows.settings.config import PipelineConfig, check_source, with_overrides
from tickerforge.flows.train.pipeline import PipelineResult, train_ticker
from tickerforge.tasks.base.errors import MarketDataError
from tickerforge.tasks.prices.market_data import fetch_bars
from tiny_pipeline import tiny_config
from tracking_environment import forget_tracking
from trained_pieces import lend_base_model

slow = pytest.mark.slow
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
]
YAHOO = ["Date", "Open", "High", "Low", "Close", "Adj Close", "Volume"]


def write_prices(folder: Path, stock: str, *, seed: int, first: int = 0) -> None:
    """Prices of a synthetic ticker from its `first` session on."""
    bars = market(SyntheticConfig(sessions=400, seed=seed)).iloc[first:]
    bars.set_axis(YAHOO, axis=1).to_csv(folder / f"{stock}.csv", index=False, date_format="%Y-%m-%d")


@pytest.fixture(scope="module")
def prices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good tickers, one of them listed later, and one without enough sessions."""
    folder = tmp_path_factory.mktemp("prices")
    for seed, (stock, first) in enumerate({"AAA": 0, "BBB": 0, "LATE": 80, "SHORT": 380}.items()):
        write_prices(folder, stock, seed=seed, first=first)
    return folder


@pytest.fixture(scope="module")
def config(prices: Path) -> PipelineConfig:
    return with_overrides(tiny_config(), ["stock=ALL", f"data={prices}", "evaluation.max_windows=24"])


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder, with a home of its own, that all tests of this file share."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TICKERFORGE_HOME", str(home := tmp_path_factory.mktemp("home")))
        lend_base_model(home)
        forget_tracking(patch)
        yield folder


@pytest.fixture(scope="module")
def pool(work: Path, prefect_server: None, config: PipelineConfig) -> PipelineResult:
    """One finished run of the pool."""
    return train_ticker(config)


@pytest.fixture(scope="module")
def own(pool: PipelineResult, config: PipelineConfig) -> PipelineResult:
    """A ticker's run that starts from the pool's adapter, since the ticker has no champion."""
    return train_ticker(with_overrides(config, ["stock=AAA", "warm_start=champion"]))


def log_of(result: PipelineResult) -> str:
    return (result.results / "pipeline.log").read_text()


@slow
def test_a_pool_is_registered_as_all_and_says_which_ticker_is_left_out_and_why(
    pool: PipelineResult, prices: Path
) -> None:
    assert pool.registered is not None
    assert pool.registered.name == "tickerforge-ALL"
    assert list(pool.left_out) == ["SHORT"]
    assert "SHORT: 20 sessions" in pool.left_out["SHORT"]
    assert "SHORT is left out of the pool" in log_of(pool)
    text = (pool.results / "model_comparison" / "report.md").read_text()
    assert re.search(r"## Data quality: 1,120 sessions of prices, \d+ (missing|extra) sessions?", text)
    assert f"- Command: `tickerforge run --stock ALL --data {prices.name} --set " in text
    assert "Pooled: `AAA, BBB, LATE`" in text
    assert "Left out: `SHORT`" in text
    assert "windows dropped for targets after" in text


@slow
def test_every_stage_of_a_pool_learns_from_every_ticker(pool: PipelineResult) -> None:
    accepted = pd.read_parquet(pool.results / "sft_data_generation" / "sft_data.parquet")
    assert set(accepted["ticker"]) == {"AAA", "BBB", "LATE"}
    assert "rejection 12/12" in log_of(pool)


@slow
def test_the_report_of_a_pool_has_a_row_for_every_ticker_and_one_for_all(pool: PipelineResult) -> None:
    assert [row.ticker for row in pool.report.tickers if row.split == "test"] == ["AAA", "BBB", "LATE"]
    assert sum(row.windows for row in pool.report.tickers if row.split == "test") == 24
    text = (pool.results / "model_comparison" / "report.md").read_text()
    for name in ("AAA", "BBB", "LATE", "ALL (pool)"):
        assert f"| {name} | " in text
    assert "ALL (pool)" in pool.report_path.read_text()


@slow
def test_the_same_pool_again_takes_everything_from_the_store(pool: PipelineResult, config: PipelineConfig) -> None:
    again = train_ticker(config)
    for stage in ("grpo_1st", "sft_data", "sft", "grpo_2nd", "comparison"):
        assert f"{stage}: cached" in log_of(again)
    assert again.verdict == pool.verdict
    assert again.registered is not None
    assert pool.registered is not None
    assert again.registered.version == pool.registered.version


@slow
def test_a_ticker_starts_from_the_pool_and_its_report_says_what_that_bought(own: PipelineResult) -> None:
    assert "training starts from ALL@1" in log_of(own)
    assert own.report.models[5:7] == ("base", "pooled")
    for path in (own.report_path, own.report_path.with_name("report.md")):
        text = path.read_text()
        assert "What pooling gained: on test the pooled adapter" in text
        assert "the base model's. After training on AAA alone" in text.replace("&#39;", "'")
        assert "Pooled adapter" in text
    against = own.report.test_of("sft", split="test", against="pooled")
    assert against is not None
    errors = [own.report.value(model, split="test", metric="scaled_mse") or 0.0 for model in ("sft", "pooled")]
    assert against.mean_difference == pytest.approx(errors[0] - errors[1])


@slow
def test_that_run_again_starts_where_it_started_and_trains_nothing(own: PipelineResult, config: PipelineConfig) -> None:
    again = train_ticker(with_overrides(config, ["stock=AAA", "warm_start=champion"]))
    assert "training starts from ALL@1" in log_of(again)
    assert "grpo_1st: cached" in log_of(again)
    assert again.report == own.report


@slow
def test_the_night_starts_a_ticker_without_a_champion_from_the_pool(
    own: PipelineResult, work: Path, config: PipelineConfig
) -> None:
    from tickerforge.flows.night.nightly import nightly

    before = set((work / "results").glob("AAA_*"))
    with pytest.raises(NightFailed, match=r"1 failed.\nALL: MarketDataError: "):
        nightly(with_overrides(config, ["stock=AAA", "warm_start=champion"]), tickers=("AAA", "ALL"))
    (folder,) = set((work / "results").glob("AAA_*")) - before
    assert "Pooled adapter" in (folder / "model_comparison" / "report.md").read_text()


@slow
def test_the_pools_adapter_forecasts_any_ticker(pool: PipelineResult, config: PipelineConfig) -> None:
    from tickerforge.flows.night.next_sessions import forecast_stock

    made = forecast_stock(with_overrides(config, ["stock=BBB"]), adapter=pool.adapters["sft"])
    assert (made.ticker, len(made.sessions)) == ("BBB", 2)


@pytest.mark.parametrize("stock", ["ALL", "AAA"])
def test_a_csv_file_by_the_name_of_the_pool_is_refused_with_the_cure(tmp_path: Path, stock: str) -> None:
    from tickerforge.flows.prices.preprocess import preprocess
    from tickerforge.tasks.prices.market_data import FolderSource
    from tickerforge.tasks.store.artifacts import Store

    for seed, name in enumerate(("ALL", "AAA")):
        write_prices(tmp_path, name, seed=seed)
    config = with_overrides(tiny_config(), [f"stock={stock}", f"data={tmp_path}"])
    if stock == "ALL":
        with pytest.raises(MarketDataError, match=r"ALL\.csv cannot be used.*Rename the file.*ALL-US\.csv"):
            check_prices(config)
    else:
        check_prices(config)
    store = Store(tmp_path / "store")
    with pytest.raises(MarketDataError, match="Rename the file"):
        fetch_bars.fn(FolderSource(folder=tmp_path), "ALL", store=store)
    found = preprocess(tmp_path, (), features=config.features, store=store)
    assert {each.stock: bool(each.error) for each in found} == {"ALL": True, "AAA": False}


def test_a_pool_of_one_ticker_without_a_folder_or_of_z_scores_is_refused(tmp_path: Path) -> None:
    write_prices(tmp_path, "AAA", seed=0)
    pool = with_overrides(tiny_config(), ["stock=ALL", f"data={tmp_path}"])
    with pytest.raises(MarketDataError, match="holds 1: put two or more"):
        check_prices(pool)
    with pytest.raises(ConfigError, match="give --data FOLDER"):
        check_source(with_overrides(tiny_config(), ["stock=ALL", "synthetic.ticker=ALL"]))
    with pytest.raises(ConfigError, match="not comparable"):
        check_source(with_overrides(pool, ["features.units=train_standard", "training.model=other"]))


def test_the_files_of_one_ticker_cannot_go_by_the_name_of_the_pool() -> None:
    from tickerforge.flows.settings.files import check_names_ticker

    with pytest.raises(ConfigError, match="name the ticker"):
        check_names_ticker(with_overrides(tiny_config(), ["stock=ALL", "data=prices"]))
