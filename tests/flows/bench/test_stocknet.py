"""`tickerforge benchmark stocknet`: the command on real prices, and our own stages in its table."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from protocol_series import walk
from tickerforge.evaluation.bench.standings import Standings
from tickerforge.flows.bench.stocknet import check_protocol, read_protocol, stage_forecasts, stand
from tickerforge.flows.cli.benchmark import benchmark_app as app
from tickerforge.flows.errors import ConfigError
from tickerforge.flows.settings.config import PipelineConfig, with_overrides
from tiny_pipeline import SETTINGS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
]
OWN_WINDOWS = {key: value for key, value in SETTINGS.items() if not key.startswith(("features.", "stock", "synthetic"))}


def write_prices(folder: Path, ticker: str, *, seed: int, sessions: int = 400) -> None:
    series = walk(ticker, seed=seed, sessions=sessions)
    price = series.prices
    columns = {"Open": price, "High": price * 1.01, "Low": price * 0.99, "Close": price, "Adj Close": price}
    frame = pd.DataFrame({"Date": series.dates, **columns, "Volume": np.full(len(price), 1000)})
    frame.to_csv(folder / f"{ticker}.csv", index=False, date_format="%Y-%m-%d")


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    """Two tickers, one with too short a history and one with a broken file."""
    folder = tmp_path / "prices"
    folder.mkdir()
    for seed, (ticker, sessions) in enumerate({"AAA": 400, "BBB": 400, "SHORT": 30}.items()):
        write_prices(folder, ticker, seed=seed, sessions=sessions)
    (folder / "BROKEN.csv").write_text("Date,Open\n2013-01-01,5\n")
    return folder


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["stocknet", *arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_baselines_and_a_file_of_forecasts_stand_in_one_table_and_in_the_json(
    prices: Path, working_folder: Path
) -> None:
    protocol, _ = read_protocol(prices)
    names = np.array(protocol.tickers, dtype=object)[protocol.place]
    mine = pd.DataFrame({"ticker": names, "origin": protocol.origins.astype(str)})
    perfect = pd.DataFrame(protocol.target, columns=[f"h{k}" for k in range(1, 11)])
    mine.join(perfect).to_csv("oracle.csv", index=False)
    done = invoke("--data", str(prices), "--baselines-only", "--predictions", "oracle.csv", "--output", "out.json")
    assert done.exit_code == 0, done.output
    assert "oracle" in done.output
    assert "BROKEN is left out" in done.output
    assert "VTA, as reported (88 tickers)" in done.output
    found = Standings.model_validate(json.loads(Path("out.json").read_text()))
    assert [each.name for each in found.standings] == [
        *("persistence", "random_walk", "random_walk_har", "drift", "common_drift", "ridge", "oracle")
    ]
    assert "Distributions, and rankings" in done.output
    assert (found.of("random_walk").crps_skill, found.of("random_walk").members) == (0.0, 99)
    assert found.of("oracle").crps is None
    assert "Volatility per ticker" in done.output
    own = found.of("random_walk_har").volatility
    assert list(own) == ["AAA", "BBB"]
    assert all(0.5 < each.expected / each.realised < 2 for each in own.values())
    assert found.of("oracle").mse == pytest.approx(0, abs=1e-12)
    assert list(found.of("drift").tickers) == ["AAA", "BBB"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--predictions", "none.csv"], "cannot read none.csv"),
        (["--baseline", "prophet"], "--baseline prophet: there are garch, ets, theta, arima"),
        (["--set", "features.horizon=5"], "features.horizon = 5: the published protocol has 10"),
    ],
)
def test_bad_input_ends_with_exit_code_2_before_anything_is_trained(
    prices: Path, working_folder: Path, arguments: list[str], message: str
) -> None:
    done = invoke("--data", str(prices), "--baselines-only", *arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_settings_that_change_the_test_windows_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"features\.test_fraction = 0\.1: the published protocol has 0\.2"):
        check_protocol(with_overrides(PipelineConfig(), ["features.test_fraction=0.1"]))


@pytest.mark.slow
def test_our_stages_stand_in_the_table_and_the_chosen_one_answers_every_test_window(
    prices: Path, working_folder: Path, prefect_server: None
) -> None:
    settings = {**OWN_WINDOWS, "stock": "ALL", "data": str(prices), "features.prompt_style": "prices"}
    limited = with_overrides(PipelineConfig(), [f"{key}={value}" for key, value in settings.items()])
    protocol, notes = read_protocol(prices)
    few = stand(protocol, stages=stage_forecasts(limited), notes=notes)
    stages = few.standings[6:]
    assert [each.name for each in stages] == ["base", "grpo_1st", "sft", "grpo_2nd"]
    assert {(each.windows, each.is_complete) for each in stages} == {(6, False)}
    unlimited = with_overrides(limited, ["evaluation.max_windows=null"])
    assert unlimited.evaluation.max_windows is None
    everything = stand(protocol, stages=stage_forecasts(unlimited))
    (chosen,) = [each for each in everything.standings if each.is_chosen]
    assert (chosen.windows, chosen.is_complete) == (len(protocol.place), True)
    assert any("promoted for ALL" in note for note in everything.notes)
