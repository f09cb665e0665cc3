import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_server import free_port
from tickerforge.tasks.base.errors import TrackingError
from tickerforge.tasks.base.paths import MANIFEST_FILE, Workspace
from tickerforge.tasks.models.training_log import read_metrics
from tickerforge.tasks.outputs.evaluate import read_report
from tickerforge.tasks.store.artifacts import ArtifactRef, read_manifest
from tickerforge.tasks.tracking.client import EXPERIMENT, as_tracking_error
from tickerforge.tasks.tracking.runs import flatten
from tickerforge.tasks.tracking.server import check_reachable, tracking_uri, without_credentials
from tickerforge.tasks.tracking.stage_runs import (
    PipelineLog,
    PipelineRun,
    Tracking,
    client_of,
    connect,
    finish_pipeline,
    follow_pipeline,
    log_comparison,
    log_stage,
    start_nested_run,
    wait_for_tracking,
)
from trained_pieces import Pieces

STARTED = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def log() -> Iterator[PipelineLog]:
    log = follow_pipeline(
        Workspace.current(),
        "train DEMO",
        params={"training": {"lora_rank": 4}},
        tags={"ticker": "DEMO"},
        started=STARTED,
    )
    yield log
    log.life_sign.end(logged=True)


@pytest.fixture
def run(log: PipelineLog) -> PipelineRun:
    return wait_for_tracking(log, patience_seconds=0)


def just_made(artifact: ArtifactRef) -> ArtifactRef:
    return artifact.model_copy(update={"cached": False})


def from_the_store(artifact: ArtifactRef) -> ArtifactRef:
    return artifact.model_copy(update={"cached": True})


def description(run: PipelineRun) -> str:
    return client_of(run.tracking).get_run(run.run_id).data.tags.get("mlflow.note.content", "")


def children(run: PipelineRun, parent: str) -> list:
    return client_of(run.tracking).search_runs(
        [run.tracking.experiment_id], filter_string=f"tags.`mlflow.parentRunId` = '{parent}'"
    )


def test_the_embedded_database_lies_in_the_workspace_with_its_artifacts(tracking: Tracking) -> None:
    workspace = Workspace.current()
    assert workspace.mlflow_db.is_file()
    experiment = client_of(tracking).get_experiment_by_name(EXPERIMENT)
    assert experiment.artifact_location == workspace.mlflow_artifacts.as_uri()
    assert connect(workspace) == tracking


def test_a_pipeline_is_a_parent_run_with_dotted_parameters(log: PipelineLog, run: PipelineRun) -> None:
    stored = client_of(run.tracking).get_run(run.run_id)
    assert stored.data.params == {"training.lora_rank": "4"}
    assert stored.data.tags["ticker"] == "DEMO"
    assert stored.data.tags["git_revision"]
    finish_pipeline(log, status="FAILED", tags={"verdict": "no"}, ended=STARTED + timedelta(hours=2))
    stored = client_of(run.tracking).get_run(run.run_id)
    assert stored.info.status == "FAILED"
    assert stored.data.tags["verdict"] == "no"
    assert stored.info.end_time - stored.info.start_time == 2 * 3600 * 1000
    assert stored.info.start_time == STARTED.timestamp() * 1000


def test_a_stage_is_a_nested_run_with_every_logged_step_at_its_time(
    log: PipelineLog, run: PipelineRun, made: Pieces
) -> None:
    log_stage(log, "grpo_1st", artifact=just_made(made.grpo_1st), params={"steps": 2})
    (stage,) = children(run, run.run_id)
    assert stage.info.run_name == "grpo_1st"
    assert stage.info.status == "FINISHED"
    assert stage.data.params == {"steps": "2"}
    assert stage.data.tags["store_key"] == made.grpo_1st.key
    assert stage.data.tags["seed"] == "0"
    history = client_of(run.tracking).get_metric_history(stage.info.run_id, "curves/reward")
    logged = read_metrics(made.grpo_1st.path / "metrics.jsonl")
    assert [(point.step, point.value) for point in history] == [(step, row["reward"]) for step, row in logged]
    assert len(history) == 3
    created = read_manifest(made.grpo_1st).created.timestamp() * 1000
    before_the_end = [logged[-1][1]["seconds"] - row["seconds"] for _, row in logged]
    times = [created - seconds * 1000 for seconds in before_the_end]
    assert [point.timestamp for point in history] == pytest.approx(times, abs=1)
    assert stage.info.start_time <= history[0].timestamp
    assert stage.info.end_time == pytest.approx(created, abs=1)
    # MLflow's page of a run shows the groups in the order of their names.
    assert sorted({name.partition("/")[0] for name in stage.data.metrics}) == ["curves", "summary"]


def test_a_stage_from_the_store_is_a_link_to_the_run_that_made_it(
    log: PipelineLog, run: PipelineRun, made: Pieces
) -> None:
    log_stage(log, "sft", artifact=just_made(made.sft), params={})
    (maker,) = children(run, run.run_id)
    again = follow_pipeline(Workspace.current(), "again", params={}, tags={"ticker": "DEMO"}, started=STARTED)
    second = wait_for_tracking(again, patience_seconds=0)
    log_stage(log, "grpo_1st", artifact=just_made(made.grpo_1st), params={})
    for _ in range(2):
        log_stage(again, "sft", artifact=from_the_store(made.sft), params={})
        log_stage(again, "grpo_1st", artifact=from_the_store(made.grpo_1st), params={})
    assert children(second, second.run_id) == []
    page = rf"#/experiments/{run.tracking.experiment_id}/runs/(\w+)"
    found = re.fullmatch(rf"From the store: \[sft\]\({page}\), \[grpo_1st\]\({page}\)", description(second))
    assert found is not None
    linked = [client_of(run.tracking).get_run(run_id).data.tags["store_key"] for run_id in found.groups()]
    assert linked == [maker.data.tags["store_key"], made.grpo_1st.key]


def test_a_stage_from_the_store_that_mlflow_does_not_know_is_logged(
    log: PipelineLog, run: PipelineRun, made: Pieces
) -> None:
    unknown = from_the_store(made.sft).model_copy(update={"key": "made elsewhere"})
    log_stage(log, "sft", artifact=unknown, params={})
    (stage,) = children(run, run.run_id)
    assert (stage.info.run_name, stage.data.tags["store_key"]) == ("sft", "made elsewhere")
    assert description(run) == ""


def test_a_stage_that_was_deleted_and_trained_again_is_logged_again(
    log: PipelineLog, run: PipelineRun, made: Pieces, tmp_path: Path
) -> None:
    log_stage(log, "sft", artifact=just_made(made.sft), params={})
    folder = shutil.copytree(made.sft.path, tmp_path / "again")
    manifest = read_manifest(made.sft)
    later = manifest.model_copy(update={"created": manifest.created + timedelta(hours=1)})
    (folder / MANIFEST_FILE).write_text(later.model_dump_json(), encoding="utf-8")
    log_stage(log, "sft", artifact=from_the_store(made.sft).model_copy(update={"path": folder}), params={})
    ends = sorted(each.info.end_time for each in children(run, run.run_id))
    assert ends[1] - ends[0] == 3600 * 1000


def test_a_comparison_is_one_run_with_every_model_split_and_metric(
    log: PipelineLog, run: PipelineRun, made: Pieces
) -> None:
    log_comparison(log, just_made(made.comparison))
    report = read_report(made.comparison)
    assert report.chosen is not None
    (comparison,) = children(run, run.run_id)
    assert children(run, comparison.info.run_id) == []
    metrics = comparison.data.metrics
    assert {name.split("/")[0] for name in metrics} == set(report.models)
    for model in report.models:
        assert metrics[f"{model}/test/mse"] == report.value(model, split="test", metric="mse")
    assert comparison.data.tags["chosen"] == report.chosen
    expected = report.value(report.chosen, split="test", metric="mse")
    assert client_of(run.tracking).get_run(run.run_id).data.metrics["test/mse"] == expected
    names = {item.path for item in client_of(run.tracking).list_artifacts(run.run_id, "model_comparison")}
    assert names == {"model_comparison/report.html"}
    logged = Path(client_of(run.tracking).get_run(run.run_id).info.artifact_uri.removeprefix("file://"))
    assert (logged / "model_comparison" / "report.html").samefile(made.comparison.path / "report.html")


def test_a_run_shows_its_verdict_and_the_report_also_if_the_comparison_came_from_the_store(
    log: PipelineLog, run: PipelineRun, made: Pieces
) -> None:
    client, headline = client_of(run.tracking), made.comparison.meta["headline"]
    log_comparison(log, just_made(made.comparison))
    own_page = f"#/experiments/{run.tracking.experiment_id}/runs/{run.run_id}/artifacts/model_comparison/report.html"
    assert description(run) == f"{headline} [Report]({own_page})"
    again = follow_pipeline(Workspace.current(), "again", params={}, tags={"ticker": "DEMO"}, started=STARTED)
    second = wait_for_tracking(again, patience_seconds=0)
    log_comparison(again, from_the_store(made.comparison))
    assert children(second, second.run_id) == client.list_artifacts(second.run_id) == []
    page = re.fullmatch(r".* \[Report\]\(#/experiments/\d+/runs/(\w+)/artifacts/(.*)\)", description(second), re.DOTALL)
    assert page is not None
    report = Path(client.download_artifacts(page[1], page[2]))
    assert report.read_bytes() == (made.comparison.path / "report.html").read_bytes()
    first, later = (client.get_run(each.run_id).data for each in (run, second))
    assert (later.tags["verdict"], later.tags["promoted"]) == (headline, "false")
    assert later.metrics == first.metrics


def test_what_is_told_twice_is_there_once(
    log: PipelineLog, run: PipelineRun, made: Pieces, monkeypatch: pytest.MonkeyPatch
) -> None:
    close, told = MlflowClient.set_terminated, set[str]()

    def close_without_an_answer(client: MlflowClient, run_id: str, *arguments: Any, **options: Any) -> None:
        close(client, run_id, *arguments, **options)
        if run_id not in told:
            told.add(run_id)
            raise MlflowException("the answer was lost")

    monkeypatch.setattr(MlflowClient, "set_terminated", close_without_an_answer)
    log_stage(log, "sft", artifact=just_made(made.sft), params={"steps": 2})
    log_comparison(log, just_made(made.comparison))
    assert len(log.journal) > 0
    while len(log.journal):
        with suppress(TrackingError):
            log.journal.catch_up()
    assert len(told) == 2
    nested = {child.info.run_name: child for child in children(run, run.run_id)}
    assert sorted(nested) == ["comparison", "sft"]
    assert len(children(run, run.run_id)) == 2
    assert "base/test/mse" in nested["comparison"].data.metrics
    history = client_of(run.tracking).get_metric_history(nested["sft"].info.run_id, "curves/loss")
    assert len(history) == len(read_metrics(made.sft.path / "metrics.jsonl"))
    assert len({start_nested_run(run, "register", tags={"stage": "register"}) for _ in range(2)}) == 1


def test_of_two_runs_that_an_answer_lost_on_the_way_left_one_remains(run: PipelineRun) -> None:
    client, nested = client_of(run.tracking), {"mlflow.parentRunId": run.run_id}
    for _ in range(2):
        client.create_run(run.tracking.experiment_id, run_name="sft", tags=nested)
    kept = start_nested_run(run, "sft", tags={})
    assert [child.info.run_id for child in children(run, run.run_id)] == [kept]


def test_a_part_that_mlflow_refuses_does_not_hold_up_the_others(
    log: PipelineLog, run: PipelineRun, made: Pieces, caplog: pytest.LogCaptureFixture
) -> None:
    log_stage(log, "grpo_1st", artifact=just_made(made.grpo_1st), params={"no such? name!": 1})
    assert "MLflow refuses the stage grpo_1st" in caplog.text
    log_stage(log, "sft", artifact=just_made(made.sft), params={})
    assert len(log.journal) == 0
    assert "sft" in {child.info.run_name for child in children(run, run.run_id)}


def test_a_server_that_is_down_is_reported_at_once_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{free_port()}")
    began = time.monotonic()
    with pytest.raises(TrackingError, match=r"MLflow at http://127\.0\.0\.1:.*unset it") as caught:
        connect(Workspace(tmp_path))
    assert time.monotonic() - began < 30
    assert "secret" not in str(caught.value)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        held: list[socket.socket] = []

        def take() -> None:
            try:
                while True:
                    held.append(listener.accept()[0])
            except OSError:
                return

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=5)
        for connection in held:
            connection.close()


def test_a_server_that_is_silent_is_given_up_within_seconds(
    silent_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", silent_server)
    monkeypatch.setattr("tickerforge.tasks.tracking.server._CONNECT_SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(TrackingError, match="timed out"):
        connect(Workspace(tmp_path))
    assert time.monotonic() - began < 30


class AsksWhoItIs(BaseHTTPRequestHandler):
    """Answers every request with 401."""

    def do_GET(self) -> None:
        self.send_error(401)

    def log_message(self, *args: object) -> None:
        pass


def test_a_server_that_asks_for_a_password_is_reachable_at_an_address_with_one() -> None:
    with HTTPServer(("127.0.0.1", 0), AsksWhoItIs) as server:
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        check_reachable(f"http://user:p%40ss@127.0.0.1:{server.server_port}")
        thread.join(timeout=5)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://user:a@b@host:5000/x", "https://host:5000/x"),
        ("sqlite:////data/a@b/mlflow.db", "sqlite:////data/a@b/mlflow.db"),
        ("no answer from postgresql://u:p@db/mlflow here", "no answer from postgresql://db/mlflow here"),
    ],
)
def test_credentials_are_taken_out_of_addresses(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown


def test_a_servers_password_moves_from_the_address_into_the_variable_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:p%40ss@host:5000/x")
    assert tracking_uri(Workspace(tmp_path)) == "https://host:5000/x"
    assert os.environ["MLFLOW_TRACKING_URI"] == "https://host:5000/x"
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("user", "p@ss")


def test_an_error_and_all_that_led_to_it_are_free_of_credentials() -> None:
    address = "://".join(["postgresql", "user:hidden@db/mlflow"])

    def reach() -> None:
        with as_tracking_error(address):
            try:
                raise ValueError(f"cannot parse {address}?password=hidden")
            except ValueError as error:
                raise OSError(5, f"no answer from {address}") from error

    with pytest.raises(TrackingError) as caught:
        reach()
    told = "".join(str(fault) for fault in chain(caught.value))
    assert "cannot parse postgresql://db/mlflow?password=***" in told
    assert "hidden" not in told


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    with pytest.raises(TrackingError, match="Check that the folder can be written"):
        connect(Workspace(tmp_path))


def test_metrics_are_read_up_to_a_line_cut_short_and_without_what_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"stage": "sft", "step": 1, "total": 9, "loss": 2.5}\n{"step": 2, "loss": NaN, "reward": 1}\n{"st')
    assert read_metrics(path) == [(1, {"loss": 2.5}), (2, {"reward": 1.0})]
    assert read_metrics(tmp_path / "missing.jsonl") == []


def test_parameters_are_flattened_to_texts() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": None}}, "e": [1, 2]}) == {"a.b": "1", "a.c.d": "None", "e": "[1, 2]"}
