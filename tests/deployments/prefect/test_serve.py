from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tickerforge.deployments.prefect.serve import deployments, main
from tickerforge.flows.errors import ConfigError
from tickerforge.flows.settings.config import PipelineConfig, with_overrides


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    """Two stocks in a data folder."""
    for stock in ("AAPL", "BRK-A"):
        (tmp_path / f"{stock}.csv").touch()
    return with_overrides(PipelineConfig(), [f"data={tmp_path}", "training.grpo_1st.steps=7"])


def test_one_deployment_for_the_form_and_one_a_night_for_each_ticker(config: PipelineConfig) -> None:
    manual, aapl, brk = deployments(config, tickers=("AAPL", "BRK-A"), cron="0 22 * * 1-5")
    assert manual.name == "manual"
    assert manual.schedules == []
    assert [served.name for served in (aapl, brk)] == ["nightly-AAPL", "nightly-BRK-A"]
    assert aapl.schedules[0].schedule.cron == "0 22 * * 1-5"
    assert aapl.schedules[0].schedule.timezone == "America/New_York"
    (tokyo,) = deployments(config, tickers=("AAPL",), exchange="XTKS")[1:]
    assert tokyo.schedules[0].schedule.timezone == "Asia/Tokyo"
    assert tokyo.parameters["exchange"] == "XTKS"


def test_the_parameters_of_every_deployment_are_valid_and_keep_all_stages_in_the_serving_process(
    config: PipelineConfig,
) -> None:
    from tickerforge.flows.train.pipeline import train_ticker

    for served in deployments(config, tickers=("BRK-A",)):
        read = train_ticker.validate_parameters(served.parameters)
        assert read["config"].training.grpo_1st.steps == 7
        assert read["heavy_stages"] == "here"
    assert read["config"].stock == "BRK-A"


@pytest.mark.parametrize("with_prices", [False, True])
def test_a_nightly_ticker_without_prices_is_refused(config: PipelineConfig, with_prices: bool) -> None:
    with pytest.raises(ConfigError, match="no prices for MSFT"):
        deployments(config if with_prices else PipelineConfig(), tickers=("MSFT",))


def test_the_server_knows_the_schedule_and_the_form_after_deploying(
    prefect_server: None, config: PipelineConfig
) -> None:
    from prefect.client.orchestration import get_client

    for served in deployments(config, tickers=("AAPL",)):
        served.apply()
    with get_client(sync_client=True) as client:
        manual = client.read_deployment_by_name("train-ticker/manual")
        nightly = client.read_deployment_by_name("train-ticker/nightly-AAPL")
    assert nightly.schedules[0].active
    assert manual.parameter_openapi_schema is not None
    definitions = manual.parameter_openapi_schema["definitions"]
    assert definitions["TrainingConfig"]["properties"]["backend"]["enum"] == ["auto", "transformers", "unsloth"]
    assert definitions["PipelineConfig"]["properties"]["stock"]["description"]


def test_serving_without_a_server_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2
    assert "prefect server start" in result.output
