"""The whole pipeline, small, through Prefect and MLflow for real."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from tickerforge.evaluation.core.contracts import FREE
from tickerforge.evaluation.core.recalibration import Recalibration
from tickerforge.flows.errors import ConfigError, MissingArtifactError
from tickerforge.flows.settings.config import with_overrides
from tickerforge.flows.settings.files import StageFiles
from tickerforge.flows.train.pipeline import PipelineResult, train_ticker
from tickerforge.tasks.base.disk import tree_hashes
from tickerforge.tasks.base.errors import MarketDataError, NotRegistered
from tickerforge.tasks.models.adapters import read_card, write_card
from tickerforge.training.errors import AdapterError
from tiny_pipeline import tiny_config
from tracking_environment import forget_tracking
from trained_pieces import lend_base_model

# MLflow warns of its own type hints while it is imported, and compares columns in a way that pandas deprecates.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
]

STAGE_FOLDERS = ["stage1_grpo_training", "sft_data_generation", "stage2_sft_training", "stage3_grpo_from_sft"]
ADAPTERS = {"grpo_1st": "grpo_lora_1st", "sft": "sft_lora", "grpo_2nd": "grpo_lora_2nd"}


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
def result(work: Path, prefect_server: None) -> PipelineResult:
    """One finished run."""
    return train_ticker(tiny_config())


@pytest.fixture(scope="module")
def adapters_before(result: PipelineResult) -> dict[str, dict[str, str]]:
    """The files of the published adapters after the first run."""
    return {stage: tree_hashes(path) for stage, path in result.adapters.items()}


@pytest.fixture(scope="module")
def again(result: PipelineResult, adapters_before: dict[str, dict[str, str]]) -> PipelineResult:
    """The same run a second time."""
    return train_ticker(tiny_config())


def mlflow_client():
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{os.environ['TICKERFORGE_HOME']}/state/mlflow.db")


def runs_of(experiment: str) -> list:
    client = mlflow_client()
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def mlflow_run(result: PipelineResult):
    return next(run for run in runs_of("tickerforge") if run.data.tags.get("results", "").endswith(result.results.name))


def test_a_run_leaves_results_and_adapters_in_the_documented_folders(work: Path, result: PipelineResult) -> None:
    folders = sorted(path.name for path in result.results.iterdir())
    assert folders == sorted([*STAGE_FOLDERS, "model_comparison", "pipeline.log"])
    assert result.results.name.startswith("DEMO_")
    for name in ("report.html", "report.md", "metrics.parquet"):
        assert (result.results / "model_comparison" / name).stat().st_size > 0
    assert (result.results / "sft_data_generation" / "DEMO_sft_training_data.csv").is_file()
    for stage, folder in ADAPTERS.items():
        assert result.adapters[stage].resolve() == work / "models" / "tiny" / "DEMO" / folder
        names = {path.name for path in result.adapters[stage].iterdir()}
        assert {"adapter_config.json", "adapter_model.safetensors", "tickerforge.json"} <= names
        assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]


def test_the_log_of_a_run_tells_of_every_stage(result: PipelineResult) -> None:
    log = (result.results / "pipeline.log").read_text()
    for words in ("grpo_1st 3/3", "rejection 12/12", "grpo_2nd 3/3", "forecast sft", "challenger"):
        assert words in log
    assert result.verdict.headline in log


def test_a_run_is_one_finished_parent_in_mlflow_with_a_nested_run_for_each_stage(result: PipelineResult) -> None:
    runs = runs_of("tickerforge")
    parent = mlflow_run(result)
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert parent.info.status == "FINISHED"
    assert {"grpo_1st", "sft_data", "sft", "grpo_2nd"} <= {run.data.tags["stage"] for run in nested}
    assert {run.info.status for run in nested} == {"FINISHED"}
    assert {"data_sha256", "git_revision", "seed", "prefect_flow_run_id"} <= set(parent.data.tags)
    assert parent.data.params["training.grpo_1st.steps"] == "3"


def test_the_chosen_adapter_is_registered_as_challenger_and_not_as_champion_against_the_verdict(
    result: PipelineResult,
) -> None:
    client = mlflow_client()
    assert result.registered is not None
    assert result.registered.name == "tickerforge-DEMO"
    version = client.get_model_version_by_alias("tickerforge-DEMO", "challenger")
    assert str(version.version) == result.registered.version
    aliases = client.get_registered_model("tickerforge-DEMO").aliases
    assert not result.verdict.promoted
    assert "champion" not in aliases


def test_the_ui_has_a_table_and_a_link_to_the_report(result: PipelineResult) -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        artifacts = {artifact.key: artifact for artifact in client.read_artifacts()}
    table = json.loads(artifacts["comparison-demo"].data)
    assert table[0]["Model"] == "Persistence"
    assert sum(row["Model"].endswith("(chosen)") for row in table) == 1
    assert result.report_path.name in artifacts["report-demo"].data


def test_a_run_in_mlflow_carries_its_outcome(result: PipelineResult) -> None:
    data = mlflow_run(result).data
    assert result.registered is not None
    outcome = {"verdict": result.verdict.headline, "promoted": "false", "champion_version": "none", "seed": "0"}
    assert outcome | {"model_version": result.registered.version} == {
        name: data.tags[name] for name in (*outcome, "model_version")
    }
    assert {"validation/skill", "test/skill", "test/scaled_mse"} <= set(data.metrics)
    version = mlflow_client().get_model_version("tickerforge-DEMO", result.registered.version)
    assert version.tags["seed"] == "0"
    assert version.description.startswith(result.verdict.headline)


def test_the_same_run_again_takes_everything_from_the_store_and_registers_nothing_new(
    result: PipelineResult, again: PipelineResult, adapters_before: dict[str, dict[str, str]]
) -> None:
    log = (again.results / "pipeline.log").read_text()
    for stage in ("bars", "windows", "base_model", "grpo_1st", "sft_data", "sft", "grpo_2nd", "comparison"):
        assert f"{stage}: cached" in log
    assert again.results != result.results
    assert again.registered is not None
    assert result.registered is not None
    assert again.registered.version == result.registered.version
    assert {stage: tree_hashes(path) for stage, path in again.adapters.items()} == adapters_before
    assert again.verdict == result.verdict


def test_the_same_run_again_is_one_run_in_mlflow_with_links_to_the_runs_that_made_its_stages(
    again: PipelineResult,
) -> None:
    runs = {run.info.run_id: run for run in runs_of("tickerforge")}
    parent = mlflow_run(again)
    assert [run for run in runs.values() if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id] == []
    assert parent.data.tags["verdict"] == again.verdict.headline
    description = parent.data.tags["mlflow.note.content"]
    assert description.startswith(f"{again.verdict.headline} [Report](#/experiments/")
    _, _, made_before = description.partition("From the store: ")
    linked = dict(re.findall(r"\[(\w+)\]\(#/experiments/\d+/runs/(\w+)\)", made_before))
    assert {stage: runs[maker].data.tags["stage"] for stage, maker in linked.items()} == {
        stage: stage for stage in ("grpo_1st", "sft_data", "sft", "grpo_2nd")
    }


def test_a_forecast_by_alias_equals_the_one_by_the_published_adapter(result: PipelineResult) -> None:
    from tickerforge.flows.night.next_sessions import forecast_stock

    assert result.report.chosen is not None
    registered = forecast_stock(tiny_config(), adapter=None, alias="challenger")
    published = forecast_stock(tiny_config(), adapter=result.adapters[result.report.chosen])
    assert registered.sessions == published.sessions
    assert len(registered.sessions) == 2
    assert (registered.answers, registered.valid > 0) == (4, True)
    assert all(session.lower is None and session.upper is None for session in registered.sessions)
    assert all(session.date > registered.origin for session in registered.sessions)


def test_a_forecast_is_recalibrated_as_the_adapters_card_says(result: PipelineResult, tmp_path: Path) -> None:
    from tickerforge.features.synthetic import market
    from tickerforge.flows.night.next_sessions import Forecast, forecast_stock

    folder = tmp_path / "adapter"
    shutil.copytree(result.adapters["sft"], folder)
    card = read_card(folder)
    halved = Recalibration(median=0.5, sizes=(1.0, 1.0), errors=tuple(map(float, range(-49, 50))))

    def made(recalibration: Recalibration) -> Forecast:
        write_card(folder, card.model_copy(update={"recalibration": recalibration}))
        return forecast_stock(tiny_config(), adapter=folder)

    close = market(tiny_config().synthetic)["adj_close"].iloc[-1]
    medians, answered = (
        np.array([each.median for each in one.sessions]) / close for one in (made(halved), made(Recalibration()))
    )
    np.testing.assert_allclose(medians, np.sqrt(answered))
    assert not np.allclose(medians, answered)


def test_a_forecast_as_of_a_day_equals_the_one_from_a_file_that_ends_there(result: PipelineResult, work: Path) -> None:
    from tickerforge.features.synthetic import market
    from tickerforge.flows.night.next_sessions import forecast_stock
    from tickerforge.tasks.prices.price_files import keep

    bars = market(tiny_config().synthetic)
    day = bars["date"].iloc[-40].date()
    later = bars.index >= len(bars) - 39
    keep(Path("whole"), "DEMO", bars.assign(adj_close=bars["adj_close"] * np.where(later, 1.02, 1.0)))
    keep(Path("cut"), "DEMO", bars[~later])
    whole, cut = (with_overrides(tiny_config(), [f"data={name}", "quality.exchange=none"]) for name in ("whole", "cut"))
    made = forecast_stock(whole, adapter=result.adapters["sft"], as_of=day)
    assert made.origin == made.as_of == day
    assert made.sessions == forecast_stock(cut, adapter=result.adapters["sft"]).sessions
    early = forecast_stock(whole, adapter=result.adapters["sft"], as_of=bars["date"].iloc[150].date())
    assert "knows what followed" in early.warnings[0]
    with pytest.raises(MarketDataError, match="begin on"):
        forecast_stock(whole, adapter=result.adapters["sft"], as_of=date(1990, 1, 1))
    with pytest.raises(ConfigError, match="lies in the future"):
        forecast_stock(whole, adapter=result.adapters["sft"], as_of=date.max)


def test_without_a_champion_the_night_issues_a_free_forecast_even_if_the_challenger_is_damaged(
    result: PipelineResult,
) -> None:
    from mlflow.artifacts import download_artifacts

    from tickerforge.flows.night.next_sessions import forecast_registered
    from tickerforge.tasks.base.paths import Workspace
    from tickerforge.tasks.prices.market_data import SyntheticSource, fetch_bars
    from tickerforge.tasks.store.artifacts import Store

    assert result.registered is not None
    config = tiny_config()
    bars = fetch_bars.fn(SyntheticSource(config=config.synthetic), config.stock, store=Store.current())
    weights = Path(download_artifacts(result.registered.uri)) / "artifacts" / "adapter" / "adapter_model.safetensors"
    content = weights.read_bytes()
    shutil.rmtree(Workspace.current().pulled, ignore_errors=True)
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        night = forecast_registered(config, bars=bars)
        assert night.failed
        assert night.forecast is not None
        assert (night.forecast.issuer in FREE, night.forecast.challenger) == (True, None)
        assert "DEMO/1 is damaged in MLflow: adapter/adapter_model.safetensors has changed" in night.note
    finally:
        weights.write_bytes(content)
    repaired = forecast_registered(config, bars=bars)
    assert repaired.forecast is not None
    assert not repaired.failed
    assert (repaired.forecast.version, repaired.forecast.challenger is not None) == (None, True)
    assert "no adapter of DEMO has beaten every free forecast" in repaired.forecast.why


@pytest.mark.parametrize("damaged", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_with_an_unreadable_file_is_refused(result: PipelineResult, tmp_path: Path, damaged: str) -> None:
    from tickerforge.flows.night.next_sessions import forecast_stock

    folder = tmp_path / "adapter"
    shutil.copytree(result.adapters["sft"], folder)
    (folder / damaged).write_bytes(b"\x00rubbish")
    with pytest.raises(AdapterError, match="adapter"):
        forecast_stock(tiny_config(), adapter=folder)


def test_an_adapter_of_another_stock_is_refused(result: PipelineResult, work: Path) -> None:
    from tickerforge.flows.night.next_sessions import forecast_stock

    other = with_overrides(tiny_config(), ["stock=OTHER", "synthetic.ticker=OTHER"])
    with pytest.raises(AdapterError, match="trained for DEMO"):
        forecast_stock(other, adapter=result.adapters["sft"])


def test_without_a_champion_the_error_names_the_challenger(result: PipelineResult) -> None:
    from tickerforge.flows.night.next_sessions import forecast_stock

    with pytest.raises(NotRegistered, match=r"no champion.*challenger"):
        forecast_stock(tiny_config(), adapter=None)


def test_single_stages_find_what_the_whole_run_made(result: PipelineResult) -> None:
    from tickerforge.flows.stages.single import run_stage

    assert "sft_data: cached" in (run_stage("sft-data", tiny_config()).results / "pipeline.log").read_text()
    assert "sft: cached" in (run_stage("sft", tiny_config()).results / "pipeline.log").read_text()
    folder = result.adapters["sft"]
    assert read_card(folder).recalibration == Recalibration()
    others = {name: read_card(result.adapters[name]) for name in ("grpo_1st", "grpo_2nd")}
    write_card(folder, read_card(folder).model_copy(update={"recalibration": Recalibration(median=0.25)}))
    compared = run_stage("compare", tiny_config())
    assert compared.verdict == result.verdict
    assert read_card(folder).recalibration == result.report.recalibrations.get("sft", Recalibration())
    assert {name: read_card(result.adapters[name]) for name in others} == others
    assert (compared.results / "model_comparison" / "report.html").is_file()


def test_a_comparison_of_finished_stages_takes_no_gpu_slot_and_starts_no_heavy_task(
    result: PipelineResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    from tickerforge.flows.remote import here
    from tickerforge.flows.stages.single import run_stage

    def refuse() -> None:
        raise AssertionError("a slot was asked for")

    monkeypatch.setattr(here, "gpu_slot", refuse)
    run_stage("compare", tiny_config())
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run.id]}}))
    assert run.name == "DEMO compare"
    keys = {task.task_key.rpartition("-")[0] for task in tasks}
    assert "compare_models" in keys
    assert not keys & {"prepare_base_model", "train_grpo", "sample_answers", "train_sft", "forecast_model"}


def test_a_stage_without_its_inputs_names_the_command_that_makes_them(result: PipelineResult) -> None:
    from tickerforge.flows.stages.single import run_stage

    other = with_overrides(tiny_config(), ["seed=99"])
    with pytest.raises(MissingArtifactError, match="tickerforge stage grpo1"):
        run_stage("sft-data", other)
    with pytest.raises(MissingArtifactError, match="tickerforge stage grpo1"):
        run_stage("grpo2", other)


def test_stages_write_and_read_adapters_and_answers_at_explicit_places(work: Path, result: PipelineResult) -> None:
    from tickerforge.flows.stages.single import run_stage

    files = StageFiles(
        grpo_saved_lora_1st=result.adapters["grpo_1st"],
        sft_data_path=work / "mine" / "answers.csv",
        sft_saved_lora=work / "mine" / "sft",
        grpo_saved_lora_2nd=work / "mine" / "second",
        results_dir=work / "mine" / "results",
    )
    for stage in ("sft-data", "sft", "grpo2"):
        run_stage(stage, tiny_config(), files)
    assert {path.name for path in (work / "mine").iterdir()} == {"answers.csv", "sft", "second", "results"}
    assert (work / "mine" / "second" / "adapter_model.safetensors").is_file()
    written = {path.name for path in (work / "mine" / "results").iterdir()}
    assert written == {"sft_data_generation", "stage2_sft_training", "stage3_grpo_from_sft", "pipeline.log"}


def test_stages_run_from_published_files(work: Path, result: PipelineResult) -> None:
    from tickerforge.flows.prices.preprocess import preprocess
    from tickerforge.flows.stages.single import run_stage
    from tickerforge.tasks.base.paths import Workspace
    from tickerforge.tasks.store.artifacts import Store

    config = with_overrides(tiny_config(), ["features.context=10", "features.horizon=10", "training.tiny.steps=5"])
    folder = write_prices(work / "prices", stock="DEMO", config=config)
    preprocess(folder, ["DEMO"], features=config.features, store=Store(Workspace.current().store), output=work / "csv")
    named = {
        f"{split}_{side}_path": work / "csv" / "DEMO" / f"DEMO_{split}_{side}.csv"
        for split in ("train", "full")
        for side in "xy"
    }
    outcome = run_stage("grpo1", config, StageFiles(**named, results_dir=work / "published"))
    assert (work / "published" / "grpo1_full_dataset_results.csv") in outcome.written
    rows = (work / "published" / "grpo1_full_dataset_results.csv").read_text().splitlines()
    assert len(rows) == len((work / "csv" / "DEMO" / "DEMO_full_x.csv").read_text().splitlines())


def test_a_champion_of_other_windows_or_without_a_card_is_passed_over_with_a_warning(
    result: PipelineResult, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tickerforge.flows.train.steps import Steps
    from tickerforge.tasks.base.paths import Workspace
    from tickerforge.tasks.store.artifacts import ArtifactRef, Store

    store = Store(Workspace.current().store)
    windows = ArtifactRef(stage="windows", key="", path=tmp_path, sha256="", meta={})
    other = Steps(with_overrides(tiny_config(), ["features.context=5"]), store)
    assert other.champion_forecasts(windows, result.adapters["sft"]) is None
    assert "takes other windows" in caplog.text
    assert other.champion_forecasts(windows, tmp_path) is None
    assert "cannot be used" in caplog.text


def test_the_registered_champion_is_compared_with_and_stays_unless_beaten(result: PipelineResult) -> None:
    client, name = mlflow_client(), "tickerforge-DEMO"
    assert result.registered is not None
    client.set_registered_model_alias(name, "champion", result.registered.version)
    again = train_ticker(tiny_config())
    assert again.report == result.report
    assert str(client.get_model_version_by_alias(name, "champion").version) == result.registered.version
    other = train_ticker(with_overrides(tiny_config(), ["seed=1"]))
    assert other.report.models[-1] == "champion"
    assert other.registered is not None
    assert {"champion_validation", "champion_test"} <= {reason.name for reason in other.verdict.reasons}
    assert not other.verdict.promoted
    assert str(client.get_model_version_by_alias(name, "champion").version) == result.registered.version
    assert "forecast champion" in (other.results / "pipeline.log").read_text()
    client.delete_registered_model_alias(name, "champion")


def test_a_failed_run_leaves_its_log_and_nothing_else(work: Path, prefect_server: None) -> None:
    (work / "empty").mkdir()
    before = set((work / "results").glob("NONE_*"))
    with pytest.raises(MarketDataError):
        train_ticker(with_overrides(tiny_config(), ["stock=NONE", f"data={work / 'empty'}"]))
    (folder,) = set((work / "results").glob("NONE_*")) - before
    assert [path.name for path in folder.iterdir()] == ["pipeline.log"]
    assert "holds no price files" in (folder / "pipeline.log").read_text()
    assert not (work / "models" / "tiny" / "NONE").exists()


def write_prices(folder: Path, *, stock: str, config) -> Path:
    from tickerforge.features.synthetic import market

    folder.mkdir()
    bars = market(config.synthetic)
    names = ["Date", "Open", "High", "Low", "Close", "Adj Close", "Volume"]
    bars.set_axis(names, axis=1).to_csv(folder / f"{stock}.csv", index=False, date_format="%Y-%m-%d")
    return folder
