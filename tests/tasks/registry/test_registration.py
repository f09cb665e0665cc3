import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml

from registered_files import stored_base_model, stored_files
from tickerforge.evaluation.core.contracts import Verdict
from tickerforge.evaluation.core.recalibration import Recalibration
from tickerforge.features.errors import TickerNameError
from tickerforge.features.stages import FORECASTS
from tickerforge.tasks.base.errors import NotRegistered, PublishError
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.models.adapters import adapter_folder, adapter_identity, read_card, write_card
from tickerforge.tasks.models.forecasting import forecast_next
from tickerforge.tasks.registry.registration import (
    RegisteredModel,
    fetch_registered,
    pull_adapter,
    register_adapter,
)
from tickerforge.tasks.registry.versions import RegisteredAdapter, find_version, model_name, parse_spec
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.tracking.client import Tracking, client_of
from tickerforge.tasks.tracking.stage_runs import PipelineRun, start_pipeline
from tickerforge.tasks.windows.preprocess import read_bars
from tickerforge.training.errors import AdapterError
from trained_pieces import FEATURES, TICKER, TRAINING, Pieces

AT = datetime(2026, 11, 20, 21, 30, tzinfo=UTC)

# MLflow uses what pandas 3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def run(tracking: Tracking) -> PipelineRun:
    return start_pipeline(tracking, "registry", params={}, tags={})


def register(made: Pieces, run: PipelineRun, comparison: ArtifactRef | None = None) -> RegisteredModel:
    return register_adapter.fn(
        run, made.sft, card=made.card(), bars=made.bars, comparison=comparison or made.comparison, at=AT
    )


@pytest.fixture(scope="module")
def registered(made: Pieces, run: PipelineRun) -> RegisteredModel:
    return register(made, run)


def direct(made: Pieces, *, recalibration: Recalibration | None = None) -> pd.DataFrame:
    return forecast_next(
        read_bars(made.bars),
        ticker=TICKER,
        base_model=made.base_model.location,
        adapter=adapter_folder(made.sft),
        features=FEATURES,
        training=TRAINING,
        seed=made.card().seed,
        recalibration=recalibration,
    )


def test_an_adapter_that_failed_the_gate_becomes_challenger_only(
    registered: RegisteredModel, tracking: Tracking
) -> None:
    assert registered.name == "tickerforge-DEMO"
    assert registered.aliases == ("challenger",)
    version = find_version(tracking, registered.name, alias="challenger")
    assert str(version.version) == registered.version
    with pytest.raises(NotRegistered, match=r"DEMO has no champion; .* There is DEMO@challenger"):
        find_version(tracking, registered.name, alias="champion")


def test_a_version_says_where_it_comes_from(made: Pieces, registered: RegisteredModel, tracking: Tracking) -> None:
    tags = find_version(tracking, registered.name, alias=registered.version).tags
    assert tags["data_sha256"] == made.bars.sha256
    assert tags["adapter_key"] == made.sft.key
    assert tags["git_revision"] == "test"
    assert tags["promoted"] == "false"
    assert tags["verdict"] == made.comparison.meta["headline"]
    assert tags["verdict_reasons"].splitlines()[0][:2] in {"+ ", "- "}
    assert Path(tags["report_path"]).is_dir()
    report = Path(mlflow.artifacts.download_artifacts(tags["report"]))
    assert report.read_bytes() == (made.comparison.path / "report.html").read_bytes()
    assert float(tags["test/mse"]) > 0
    assert {"validation/mse", "validation/skill", "test/skill"} <= set(tags)


def test_a_version_is_described_by_its_verdict_with_a_link_to_the_report_and_the_seed_of_its_run(
    made: Pieces, run: PipelineRun, tracking: Tracking
) -> None:
    forecasts_draw_with = 7 + FORECASTS.seed_offset
    card = made.card().model_copy(update={"ticker": "TOLD", "seed": forecasts_draw_with})
    told = register_adapter.fn(run, made.sft, card=card, bars=made.bars, comparison=made.comparison, at=AT)
    version = find_version(tracking, told.name, alias=told.version)
    page = f"#/experiments/{tracking.experiment_id}/runs/{run.run_id}/artifacts/model_comparison/report.html"
    headline = made.comparison.meta["headline"]
    assert version.description.startswith(f"{headline} [Report]({page}), also in `{version.tags['report_path']}`.")
    assert version.tags["seed"] == "7"


def test_the_run_says_which_version_it_made_and_which_one_is_champion(
    made: Pieces, tracking: Tracking, tmp_path: Path
) -> None:
    client = client_of(tracking)

    def outcome(ticker: str, comparison: ArtifactRef) -> dict[str, str]:
        run = start_pipeline(tracking, "outcome", params={}, tags={})
        card = made.card().model_copy(update={"ticker": ticker})
        register_adapter.fn(run, made.sft, card=card, bars=made.bars, comparison=comparison, at=AT)
        tags = client.get_run(run.run_id).data.tags
        return {name: tags[name] for name in ("promoted", "model_version", "champion_version")}

    refused = {"promoted": "false", "model_version": "1", "champion_version": "none"}
    assert outcome("OUT", made.comparison) == refused
    champion = promoted(made, tmp_path)
    assert outcome("OUT", champion) == {"promoted": "true", "model_version": "2", "champion_version": "2"}
    assert outcome("OUT", made.comparison) == refused | {"champion_version": "2"}


def test_the_registered_model_gives_the_very_same_forecast(made: Pieces, registered: RegisteredModel) -> None:
    model = mlflow.pyfunc.load_model(f"models:/{registered.name}@challenger")
    pd.testing.assert_frame_equal(model.predict(read_bars(made.bars)), direct(made), check_dtype=False)


def test_the_registered_model_recalibrates_its_answers_as_its_card_says(made: Pieces, run: PipelineRun) -> None:
    found = Recalibration(median=0.5, sizes=(0.1,) * FEATURES.horizon, errors=tuple(map(float, range(-49, 50))))
    card = made.card().model_copy(update={"ticker": "WIDE", "recalibration": found})
    wide = register_adapter.fn(run, made.sft, card=card, bars=made.bars, comparison=made.comparison, at=AT)
    table = mlflow.pyfunc.load_model(wide.uri).predict(read_bars(made.bars))
    pd.testing.assert_frame_equal(table, direct(made, recalibration=found), check_dtype=False)
    close = read_bars(made.bars)["adj_close"].iloc[-1]
    answered = direct(made)["median"]
    np.testing.assert_allclose(table["median"] / close, np.sqrt(answered / close))
    assert not np.allclose(table["median"], answered)


def test_the_model_takes_a_plain_frame_and_refuses_a_wrong_one(made: Pieces, registered: RegisteredModel) -> None:
    model = mlflow.pyfunc.load_model(registered.uri)
    plain = read_bars(made.bars).astype({"volume": "int64"})
    assert len(model.predict(plain)) == FEATURES.horizon
    with pytest.raises(ValueError, match="DEMO: column High is missing"):
        model.predict(plain.drop(columns="high"))
    with pytest.raises(ValueError, match="DEMO: 20 sessions are too few"):
        model.predict(plain.tail(20))
    assert list(model.input_example.columns) == ["date", "open", "high", "low", "close", "adj_close", "volume"]
    assert len(model.input_example) == 120


def test_the_registered_model_holds_code_and_safetensors_and_no_pickle(
    made: Pieces, registered: RegisteredModel, tmp_path: Path
) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(registered.uri, dst_path=str(tmp_path)))
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {
        "pyfunc_model.py",
        "forecasting.py",
        "adapter_model.safetensors",
        "tickerforge.json",
    } <= names
    assert "model.safetensors" not in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".bin", ".pt", ".joblib"))]
    texts = [path.read_text() for path in folder.rglob("*.json")]
    assert not [text for text in texts for place in (Workspace.current().root, made.store.root) if str(place) in text]


def test_two_versions_share_one_copy_of_the_base_model_and_each_may_be_pulled(
    made: Pieces, run: PipelineRun, registered: RegisteredModel, tracking: Tracking, tmp_path: Path
) -> None:
    files = Workspace.current().mlflow_artifacts
    before = set(files.rglob("model.safetensors"))
    card = made.card().model_copy(update={"ticker": "SHARE"})
    other = register_adapter.fn(run, made.sft, card=card, bars=made.bars, comparison=made.comparison, at=AT)
    assert set(files.rglob("model.safetensors")) == before
    base = stored_base_model(other, tracking)
    assert base == stored_base_model(registered, tracking)
    assert base / "model.safetensors" in before
    pulled = pull_adapter(tracking, f"SHARE@{other.version}", dest=tmp_path / "pulled")
    assert (pulled / "base_model" / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


def test_a_version_that_holds_its_base_model_as_early_ones_do_is_pulled_and_loaded(
    made: Pieces, run: PipelineRun, tracking: Tracking, tmp_path: Path
) -> None:
    card = made.card().model_copy(update={"ticker": "EARLIER"})
    early = register_adapter.fn(run, made.sft, card=card, bars=made.bars, comparison=made.comparison, at=AT)
    files = stored_files(early)
    shutil.copytree(stored_base_model(early, tracking), files / "artifacts" / "base_model")
    client_of(tracking).delete_model_version_tag(early.name, early.version, "base_model_files")
    description = yaml.safe_load((files / "MLmodel").read_text())
    flavor = description["flavors"]["python_function"]
    del flavor["config"]["base_model_files"]
    flavor["artifacts"]["base_model"] = {"path": "artifacts/base_model", "uri": "base_model"}
    (files / "MLmodel").write_text(yaml.safe_dump(description))
    assert (pull_adapter(tracking, f"EARLIER@{early.version}", dest=tmp_path / "pulled") / "base_model").is_dir()
    forecast = mlflow.pyfunc.load_model(early.uri).predict(read_bars(made.bars))
    pd.testing.assert_frame_equal(forecast, direct(made), check_dtype=False)


def test_registering_the_same_adapter_again_adds_no_version(
    made: Pieces, run: PipelineRun, registered: RegisteredModel, tracking: Tracking
) -> None:
    again = register(made, run)
    assert again.reused
    assert again.version == registered.version
    assert len(client_of(tracking).search_model_versions(f"name = '{registered.name}'")) == 1


def test_a_pulled_adapter_is_a_peft_folder_that_needs_nothing_else(
    made: Pieces, registered: RegisteredModel, tracking: Tracking, tmp_path: Path
) -> None:
    from peft import AutoPeftModelForCausalLM

    folder = pull_adapter(tracking, "DEMO@challenger", dest=tmp_path / "pulled here")
    card = read_card(folder)
    assert card.features == FEATURES
    assert card.training == TRAINING
    assert "models:/tickerforge-DEMO/" in (folder / "README.md").read_text()
    model = AutoPeftModelForCausalLM.from_pretrained(folder)
    assert model.peft_config["default"].r == TRAINING.lora_rank
    table = forecast_next(
        read_bars(made.bars),
        ticker=card.ticker,
        base_model=card.base_model_location(folder),
        adapter=folder,
        features=card.features,
        training=card.training,
        seed=card.seed,
    )
    pd.testing.assert_frame_equal(table, direct(made))


def test_pulling_replaces_what_was_pulled_before_and_nothing_else(
    registered: RegisteredModel, tracking: Tracking, tmp_path: Path
) -> None:
    dest = tmp_path / "dest"
    pull_adapter(tracking, f"DEMO@{registered.version}", dest=dest)
    (dest / "old.txt").write_text("old")
    pull_adapter(tracking, f"DEMO@{registered.version}", dest=dest)
    assert not (dest / "old.txt").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(PublishError, match="new or an empty folder"):
        pull_adapter(tracking, "DEMO@challenger", dest=tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_version_is_fetched_once(registered: RegisteredModel, tracking: Tracking, tmp_path: Path) -> None:
    challenger = RegisteredAdapter.parse("DEMO@challenger", tracking=tracking)
    folder = fetch_registered(tracking, challenger, cache=tmp_path)
    stamp = (folder / "tickerforge.json").stat().st_mtime_ns
    version = RegisteredAdapter.parse(f"DEMO@{registered.version}", tracking=tracking)
    assert fetch_registered(tracking, version, cache=tmp_path) == folder
    assert (folder / "tickerforge.json").stat().st_mtime_ns == stamp


def test_what_is_not_registered_is_said_with_the_cure(
    registered: RegisteredModel, tracking: Tracking, tmp_path: Path
) -> None:
    with pytest.raises(NotRegistered, match=r"nothing is registered for NOPE: train it first"):
        pull_adapter(tracking, "NOPE", dest=tmp_path / "a")
    with pytest.raises(NotRegistered, match=r"DEMO has no 99"):
        pull_adapter(tracking, "DEMO@99", dest=tmp_path / "a")
    with pytest.raises(TickerNameError):
        pull_adapter(tracking, "../../etc@champion", dest=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_spec_names_ticker_and_alias_or_version() -> None:
    assert parse_spec("AAPL") == ("AAPL", "champion")
    assert parse_spec("BRK-A@challenger") == ("BRK-A", "challenger")
    assert parse_spec("BRK.B@3") == ("BRK.B", "3")
    with pytest.raises(NotRegistered, match="names no version"):
        parse_spec("AAPL@")
    assert model_name("BRK.B") == "tickerforge-BRK.B"


def test_a_registered_adapter_is_a_ticker_and_a_version(registered: RegisteredModel, tracking: Tracking) -> None:
    adapter = RegisteredAdapter.parse("DEMO@challenger", tracking=tracking)
    assert adapter == RegisteredAdapter(ticker="DEMO", version=int(registered.version))
    assert adapter == RegisteredAdapter.find(tracking, "DEMO", alias=registered.version)
    assert (str(adapter), adapter.uri) == (f"DEMO@{registered.version}", registered.uri)
    with pytest.raises(NotRegistered, match="DEMO has no champion"):
        RegisteredAdapter.parse("DEMO", tracking=tracking)


def test_a_folder_without_a_card_cannot_be_used_unknowingly(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"holds no tickerforge\.json"):
        read_card(tmp_path)
    (tmp_path / "tickerforge.json").write_text(json.dumps({"ticker": "AAPL"}))
    with pytest.raises(AdapterError, match="another version"):
        read_card(tmp_path)


def test_an_adapter_of_other_prompts_is_used_with_a_warning(
    made: Pieces, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_card(tmp_path, made.card())
    read_card(tmp_path)
    assert not caplog.records
    write_card(tmp_path, made.card().model_copy(update={"prompt_code": "another"}))
    read_card(tmp_path)
    assert "prompts of another version" in caplog.text


def promoted(made: Pieces, root: Path, *, code: str = "v1") -> ArtifactRef:
    """The comparison as it would be had the gate promoted its adapter; another one for another `code`."""
    verdict = Verdict.model_validate_json((made.comparison.path / "verdict.json").read_bytes())

    def build(folder: Path) -> None:
        for name in ("report.json", "report.html"):
            shutil.copy(made.comparison.path / name, folder)
        (folder / "verdict.json").write_text(verdict.model_copy(update={"promoted": True}).model_dump_json())

    return Store(root).build("comparison", {}, build, code=code)


def test_only_the_verdict_makes_a_champion(made: Pieces, run: PipelineRun, tracking: Tracking, tmp_path: Path) -> None:
    before = register(made, run)
    champion = register(made, run, promoted(made, tmp_path))
    assert champion.aliases == ("challenger", "champion")
    assert champion.version != before.version
    assert str(find_version(tracking, champion.name, alias="champion").version) == champion.version
    client_of(tracking).delete_registered_model_alias(before.name, "champion")
    client_of(tracking).set_registered_model_alias(before.name, "challenger", before.version)


def test_a_champion_stays_when_it_is_promoted_again_and_when_a_challenger_is_refused(
    made: Pieces, run: PipelineRun, tracking: Tracking, tmp_path: Path
) -> None:
    champion = register(made, run, promoted(made, tmp_path))
    again = register(made, run, promoted(made, tmp_path, code="v2"))
    assert again.reused
    assert again.version == champion.version
    refused = register(made, run)
    assert refused.aliases == ("challenger",)
    assert refused.version != champion.version
    assert str(find_version(tracking, champion.name, alias="champion").version) == champion.version
    client_of(tracking).delete_registered_model_alias(champion.name, "champion")


def test_the_champion_has_the_content_of_the_adapter_it_was_made_of(
    made: Pieces, registered: RegisteredModel, tracking: Tracking, tmp_path: Path
) -> None:
    client = client_of(tracking)
    client.set_registered_model_alias(registered.name, "champion", registered.version)
    folder = fetch_registered(tracking, RegisteredAdapter.parse(TICKER, tracking=tracking), cache=tmp_path)
    client.delete_registered_model_alias(registered.name, "champion")
    assert adapter_identity(folder) == adapter_identity(made.sft)


@pytest.mark.nightly
def test_mlflow_serves_a_version_and_answers_a_real_request(
    made: Pieces, registered: RegisteredModel, tracking: Tracking, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = ["models", "serve", "-m", registered.uri, "-p", str(port), "--env-manager", "local"]
    log = tmp_path / "serve.log"
    with log.open("w") as written:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *served],
            # MLflow starts `uvicorn` by its name.
            env=os.environ
            | {"MLFLOW_TRACKING_URI": tracking.uri, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        bars = read_bars(made.bars)
        asked = {"dataframe_split": json.loads(bars.to_json(orient="split", date_format="iso", index=False))}
        answer = _answer(f"http://127.0.0.1:{port}/invocations", asked, server, log)
        table = pd.DataFrame(answer["predictions"])
        np.testing.assert_allclose(table["median"], direct(made)["median"])
        assert list(table.columns) == ["date", "median", "lower", "upper", "provisional", "answers", "valid"]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(90)


def _answer(address: str, asked: dict, server: "subprocess.Popen[bytes]", log: Path) -> dict:
    """Ask as soon as the server answers."""
    request = urllib.request.Request(address, json.dumps(asked).encode(), {"content-type": "application/json"})
    deadline = time.monotonic() + 240
    while True:
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error
        except OSError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
