import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from tickerforge.evaluation.core.contracts import Verdict
from tickerforge.tasks.base.errors import NotRegistered
from tickerforge.tasks.registry.promotion import history, rollback
from tickerforge.tasks.registry.registration import RegisteredModel, register_adapter
from tickerforge.tasks.registry.versions import aliases_of, find_version
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.tracking.client import Tracking, client_of
from tickerforge.tasks.tracking.stage_runs import PipelineRun, start_pipeline
from trained_pieces import Pieces

# MLflow uses what pandas 3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FIRST = datetime(2026, 11, 20, 21, 30, tzinfo=UTC)
SECOND, THIRD = FIRST + timedelta(days=1), FIRST + timedelta(days=2)


@pytest.fixture(scope="module")
def run(tracking: Tracking) -> PipelineRun:
    return start_pipeline(tracking, "promotion", params={}, tags={})


@pytest.fixture(scope="module")
def verdict(made: Pieces, tmp_path_factory: pytest.TempPathFactory) -> ArtifactRef:
    """The comparison as it would be had the gate promoted the adapter."""
    found = Verdict.model_validate_json((made.comparison.path / "verdict.json").read_bytes())

    def build(folder: Path) -> None:
        for name in ("report.json", "report.html"):
            shutil.copy(made.comparison.path / name, folder)
        (folder / "verdict.json").write_text(found.model_copy(update={"promoted": True}).model_dump_json())

    return Store(tmp_path_factory.mktemp("promoted")).build("comparison", {}, build, code="v1")


def register(
    ticker: str, made: Pieces, run: PipelineRun, verdict: ArtifactRef, *, stage: str, at: datetime
) -> RegisteredModel:
    card = made.card(stage).model_copy(update={"ticker": ticker})
    adapter = {"sft": made.sft, "grpo_1st": made.grpo_1st}[stage]
    return register_adapter.fn(run, adapter, card=card, bars=made.bars, comparison=verdict, at=at)


@contextmanager
def killed_at(call: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A death of the process in place of a call to MLflow."""

    def killed(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, killed)
        yield


def champion(tracking: Tracking, ticker: str) -> str:
    return aliases_of(tracking, f"tickerforge-{ticker}")["champion"]


def test_a_rollback_makes_the_previous_champion_champion_and_marks_the_one_it_leaves(
    made: Pieces, run: PipelineRun, verdict: ArtifactRef, tracking: Tracking, caplog: pytest.LogCaptureFixture
) -> None:
    register("BACK", made, run, verdict, stage="sft", at=FIRST)
    register("BACK", made, run, verdict, stage="grpo_1st", at=SECOND)
    assert champion(tracking, "BACK") == "2"
    done = rollback(tracking, "BACK", at=THIRD, reason="wrong prices")
    assert (done.champion, done.rolled_back) == (1, 2)
    assert champion(tracking, "BACK") == "1"

    newest, oldest = history(tracking, "BACK")
    assert (newest.version, newest.former_champion, newest.promoted_at) == (2, 1, SECOND)
    assert (newest.rolled_back_at, newest.rolled_back_reason) == (THIRD, "wrong prices")
    assert newest.aliases == ("challenger",)
    assert (oldest.former_champion, oldest.rolled_back_at, oldest.promoted_at) == (None, None, FIRST)
    assert oldest.aliases == ("champion",)
    assert oldest.data_sha256 == made.bars.sha256
    assert oldest.git_revision == "test"
    assert oldest.skill is not None
    assert oldest.reasons
    assert Path(mlflow.artifacts.download_artifacts(oldest.report)).is_file()

    with pytest.raises(NotRegistered, match="BACK: no champion before version 1 is left"):
        rollback(tracking, "BACK", at=THIRD)
    assert champion(tracking, "BACK") == "1"

    # A cached run of the same pipeline: the very adapter that was rolled back passes the gate again.
    caplog.set_level(logging.WARNING)
    again = register("BACK", made, run, verdict, stage="grpo_1st", at=THIRD)
    assert (again.version, again.aliases, again.reused) == ("2", ("challenger",), True)
    assert champion(tracking, "BACK") == "1"
    assert "as version 2 it was rolled back on 2026-11-22T21:30:00+00:00 (wrong prices)" in caplog.text


def test_a_new_adapter_is_promoted_after_a_rollback_and_passes_over_what_was_rolled_back(
    made: Pieces, run: PipelineRun, verdict: ArtifactRef, tracking: Tracking
) -> None:
    register("NEXT", made, run, verdict, stage="sft", at=FIRST)
    register("NEXT", made, run, verdict, stage="grpo_1st", at=SECOND)
    rollback(tracking, "NEXT", at=SECOND)
    trained_anew = made.sft.model_copy(update={"key": "another"})
    card = made.card().model_copy(update={"ticker": "NEXT"})
    new = register_adapter.fn(run, trained_anew, card=card, bars=made.bars, comparison=verdict, at=THIRD)
    assert new.aliases == ("challenger", "champion")
    assert [record.former_champion for record in history(tracking, "NEXT")] == [1, 1, None]
    assert rollback(tracking, "NEXT", at=THIRD).champion == 1


def test_predecessors_that_were_rolled_back_are_passed_over(
    made: Pieces, run: PipelineRun, verdict: ArtifactRef, tracking: Tracking
) -> None:
    for key in ("first", "second", "third"):
        adapter = made.sft.model_copy(update={"key": key})
        card = made.card().model_copy(update={"ticker": "FAR"})
        register_adapter.fn(run, adapter, card=card, bars=made.bars, comparison=verdict, at=FIRST)
    client_of(tracking).set_model_version_tag("tickerforge-FAR", "2", "rolled_back_at", FIRST.isoformat())
    assert rollback(tracking, "FAR", at=SECOND).champion == 1


def test_without_a_champion_there_is_nothing_to_roll_back(made: Pieces, run: PipelineRun, tracking: Tracking) -> None:
    with pytest.raises(NotRegistered, match="nothing is registered for NOPE"):
        rollback(tracking, "NOPE", at=FIRST)
    with pytest.raises(NotRegistered, match="nothing is registered for NOPE"):
        history(tracking, "NOPE")
    register("WEAK", made, run, made.comparison, stage="sft", at=FIRST)
    with pytest.raises(NotRegistered, match="WEAK has no champion"):
        rollback(tracking, "WEAK", at=FIRST)
    (only,) = history(tracking, "WEAK")
    assert (only.promoted_at, only.former_champion, only.aliases) == (None, None, ("challenger",))


@pytest.mark.parametrize(
    "broken",
    [
        "create_model_version",
        *(
            pytest.param(call, marks=pytest.mark.nightly)
            for call in ("set_registered_model_alias", "set_model_version_tag")
        ),
    ],
)
def test_a_registration_that_was_killed_between_two_calls_is_completed_by_the_next(
    broken: str,
    made: Pieces,
    run: PipelineRun,
    verdict: ArtifactRef,
    tracking: Tracking,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticker = f"KILL-{broken[4:9].upper()}".replace("_", "")
    register(ticker, made, run, verdict, stage="sft", at=FIRST)
    with killed_at(broken, monkeypatch), pytest.raises(KeyboardInterrupt):
        register(ticker, made, run, verdict, stage="grpo_1st", at=SECOND)
    assert champion(tracking, ticker) == "1"
    assert register(ticker, made, run, verdict, stage="grpo_1st", at=SECOND).aliases == ("challenger", "champion")
    assert [record.former_champion for record in history(tracking, ticker)] == [1, None]
    assert champion(tracking, ticker) == "2"


def test_a_rollback_that_was_killed_between_two_calls_is_completed_by_the_next(
    made: Pieces, run: PipelineRun, verdict: ArtifactRef, tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    register("HALF", made, run, verdict, stage="sft", at=FIRST)
    register("HALF", made, run, verdict, stage="grpo_1st", at=FIRST)
    with killed_at("set_registered_model_alias", monkeypatch), pytest.raises(KeyboardInterrupt):
        rollback(tracking, "HALF", at=SECOND, reason="first call")
    assert champion(tracking, "HALF") == "2"
    assert rollback(tracking, "HALF", at=THIRD, reason="second call").champion == 1
    assert find_version(tracking, "tickerforge-HALF", alias="2").tags["rolled_back_reason"] == "second call"
