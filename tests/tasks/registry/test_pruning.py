"""What prune removes of MLflow, for good: never what a champion, a rollback, a challenger or a recent run needs."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mlflow
import pytest

from aging import make_older
from tickerforge.evaluation.core.contracts import Verdict
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.registry.promotion import history, rollback
from tickerforge.tasks.registry.pruning import Backend, mlflow_places, pulled_place
from tickerforge.tasks.registry.registration import fetch_registered, pull_adapter, register_adapter
from tickerforge.tasks.registry.versions import RegisteredAdapter
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.tracking.client import Tracking, client_of, connect
from tickerforge.tasks.tracking.stage_runs import (
    DESCRIPTION_TAG,
    PipelineRun,
    finish_pipeline,
    follow_pipeline,
    log_comparison,
    log_stage,
    start_nested_run,
    wait_for_tracking,
)
from trained_pieces import Pieces

# MLflow uses what pandas 3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

NIGHTS = 5


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A home of its own, as everything in it becomes older."""
    folder = tmp_path_factory.mktemp("pruned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TICKERFORGE_HOME", str(folder / "home"))
        patch.setenv("MLFLOW_TRACKING_URI", "")
        patch.delenv("MLFLOW_TRACKING_URI")
        yield Workspace(folder / "home")


def comparison(made: Pieces, folder: Path, *, night: int, promoted: bool) -> ArtifactRef:
    """The comparison of a night, as it would be had the gate decided this."""
    verdict = Verdict.model_validate_json((made.comparison.path / "verdict.json").read_bytes())

    def build(fresh: Path) -> None:
        for name in ("report.json", "report.html"):
            shutil.copy(made.comparison.path / name, fresh)
        (fresh / "verdict.json").write_text(verdict.model_copy(update={"promoted": promoted}).model_dump_json())

    return Store(folder).build("comparison", {"night": night}, build, code="v1")


@contextmanager
def pipeline(workspace: Workspace, name: str) -> Iterator[PipelineRun]:
    log = follow_pipeline(workspace, name, params={}, tags={"results": f"results/{name}"}, started=datetime.now(UTC))
    yield wait_for_tracking(log)
    finish_pipeline(log)


@pytest.fixture(scope="module")
def nights(made: Pieces, workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    """Five nights of a ticker, a day apart: 1, 2 and 3 were promoted, 3 was rolled back, 5 is the challenger."""
    work = tmp_path_factory.mktemp("work")
    for night in range(1, NIGHTS + 1):
        make_older(workspace, work, days=1)
        found = comparison(made, work, night=night, promoted=night <= 3)
        log = follow_pipeline(
            workspace,
            f"night {night}",
            params={},
            tags={"results": f"results/AAA_{night}"},
            started=datetime.now(UTC),
        )
        # The stage is made on the first night, the later ones link to it.
        stage = made.grpo_1st.model_copy(update={"cached": night > 1})
        log_stage(log, "grpo_1st", artifact=stage, params={})
        log_comparison(log, found)
        adapter = made.sft if night % 2 else made.grpo_1st
        card = made.card("sft" if night % 2 else "grpo_1st").model_copy(update={"ticker": "AAA"})
        run = wait_for_tracking(log)
        register_adapter.fn(run, adapter, card=card, bars=made.bars, comparison=found, at=datetime.now(UTC))
        finish_pipeline(log)
        if night == 3:
            rollback(run.tracking, "AAA", at=datetime.now(UTC), reason="wrong prices")
    return connect(workspace)


def prune(workspace: Workspace, *, days: float) -> tuple[list[int], frozenset[str]]:
    backend = Backend(f"sqlite:///{workspace.mlflow_db}", files=workspace.mlflow_artifacts)
    contents = backend.contents(before=datetime.now(UTC) - timedelta(days=days))
    removed = [place.remove(lambda done: None) for place in mlflow_places(workspace, backend, contents)]
    return removed, contents.results


def names(tracking: Tracking) -> set[str]:
    found = client_of(tracking).search_runs([tracking.experiment_id], filter_string="attributes.run_name LIKE 'night%'")
    return {run.info.run_name for run in found}


def test_only_versions_that_nothing_needs_go_with_their_files_and_runs(nights: Tracking, workspace: Workspace) -> None:
    assert [version.version for version in history(nights, "AAA")] == [5, 4, 3, 2, 1]
    files = {version: _files(version) for version in range(1, NIGHTS + 1)}
    champion = pull_adapter(nights, "AAA", dest=workspace.root / "champion")
    (removed_versions, removed_runs), results = prune(workspace, days=0.5)
    # 2 is the champion, 1 the one before, 3 was rolled back, 5 is the challenger and recent.
    assert [version.version for version in history(nights, "AAA")] == [5, 3, 2, 1]
    assert [version for version, folder in files.items() if not folder.exists()] == [4]
    assert removed_versions == 1
    assert removed_runs > 0
    assert names(nights) == {"night 1", "night 2", "night 3", "night 5"}
    assert results == {"AAA_1", "AAA_2", "AAA_3", "AAA_5"}
    again = pull_adapter(nights, "AAA", dest=workspace.root / "again")
    assert (again / "adapter_model.safetensors").read_bytes() == (champion / "adapter_model.safetensors").read_bytes()
    assert mlflow.pyfunc.load_model("models:/tickerforge-AAA@champion") is not None
    assert prune(workspace, days=0.5)[0] == [0, 0]
    assert rollback(nights, "AAA", at=datetime.now(UTC)).champion == 1


def test_no_run_that_stays_links_to_one_that_is_gone(nights: Tracking, workspace: Workspace) -> None:
    client = client_of(nights)
    for run in client.search_runs([nights.experiment_id], filter_string="attributes.run_name LIKE 'night%'"):
        linked = run.data.tags.get(DESCRIPTION_TAG, "").split("/runs/")[1:]
        assert linked
        for text in linked:
            assert client.get_run(text[:32]).info.lifecycle_stage == "active"


def test_a_link_to_a_run_that_is_gone_becomes_a_text_that_says_so(nights: Tracking, workspace: Workspace) -> None:
    client, gone = client_of(nights), "0" * 32
    with pipeline(workspace, "linking") as run:
        text = f"From the store: [grpo_1st](#/experiments/{nights.experiment_id}/runs/{gone}), [x](https://x.org)"
        client.set_tag(run.run_id, DESCRIPTION_TAG, text)
    prune(workspace, days=0.5)
    note = client.get_run(run.run_id).data.tags[DESCRIPTION_TAG]
    assert note == "From the store: grpo_1st (removed by `tickerforge prune`), [x](https://x.org)"


def test_of_an_old_run_only_the_stage_stays_to_which_a_recent_run_links(
    nights: Tracking, workspace: Workspace, tmp_path: Path
) -> None:
    client = client_of(nights)
    with pipeline(workspace, "maker") as maker:
        linked, other = (start_nested_run(maker, name, tags={}) for name in ("linked", "other"))
        for run_id in (linked, other):
            client.set_terminated(run_id)
        _link(client, maker, to=other)
    make_older(workspace, tmp_path, days=2)
    with pipeline(workspace, "linker") as linker:
        _link(client, linker, to=linked)
    _, results = prune(workspace, days=1)
    there = {run.info.run_id for run in client.search_runs([nights.experiment_id])}
    assert {linked, other, maker.run_id} & there == {linked, maker.run_id}
    assert {"linker", "maker"} & results == {"linker"}
    assert client.get_run(linker.run_id).data.tags[DESCRIPTION_TAG].startswith("[stage](")
    assert client.get_run(maker.run_id).data.tags[DESCRIPTION_TAG] == "stage (removed by `tickerforge prune`)"


def test_pruning_a_copied_home_leaves_the_files_of_the_original(
    nights: Tracking, workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = Workspace(tmp_path / "copy")
    with pipeline(workspace, "to copy") as run:
        client_of(nights).log_text(run.run_id, "text", "file.txt")
    make_older(workspace, tmp_path, days=2)
    shutil.copytree(workspace.root, copy.root)
    prune(copy, days=1)
    assert Path(client_of(nights).download_artifacts(run.run_id, "file.txt")).read_text() == "text"
    assert "lies outside of" in caplog.text


def test_an_active_run_stays_however_old_it_is_and_a_closed_one_goes_for_good(
    nights: Tracking, workspace: Workspace, tmp_path: Path
) -> None:
    log = follow_pipeline(workspace, "active", params={}, tags={}, started=datetime.now(UTC))
    active = wait_for_tracking(log)
    with pipeline(workspace, "closed") as closed:
        client_of(nights).log_text(closed.run_id, "text", "file.txt")
    # A run that somebody deleted in MLflow's page is only marked.
    client_of(nights).delete_run(closed.run_id)
    file = workspace.mlflow_artifacts / closed.run_id / "artifacts" / "file.txt"
    assert file.is_file()
    make_older(workspace, tmp_path, days=2)
    prune(workspace, days=1)
    assert client_of(nights).get_run(active.run_id).info.status == "RUNNING"
    with pytest.raises(Exception, match=f"{closed.run_id}.*not found"):
        client_of(nights).get_run(closed.run_id)
    assert not file.parents[1].exists()
    finish_pipeline(log)


@pytest.mark.nightly
def test_a_removal_that_was_killed_at_any_call_is_finished_by_the_next(
    made: Pieces, nights: Tracking, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with pipeline(workspace, "night 6") as run:
        found = comparison(made, tmp_path, night=6, promoted=False)
        register_adapter.fn(run, made.sft, card=_card(made), bars=made.bars, comparison=found, at=datetime.now(UTC))
    with pipeline(workspace, "night 7") as run:
        found = comparison(made, tmp_path, night=7, promoted=False)
        register_adapter.fn(run, made.sft, card=_card(made), bars=made.bars, comparison=found, at=datetime.now(UTC))
    make_older(workspace, tmp_path, days=3)

    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    for kind, call in (
        (Registry, "delete_model_version"),
        (Backend, "_forget_tags"),
        (LocalArtifactRepository, "delete_artifacts"),
        (SqlAlchemyStore, "_hard_delete_logged_model"),
        (SqlAlchemyStore, "_hard_delete_run"),
        (Backend, "_forget_links"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(kind, call, killed)
            with pytest.raises(KeyboardInterrupt):
                prune(workspace, days=1)
    prune(workspace, days=1)
    assert [version.version for version in history(nights, "BBB")] == [2]
    assert "night 6" not in names(nights)
    assert "night 7" in names(nights)
    assert prune(workspace, days=1)[0] == [0, 0]


def test_a_copy_that_nobody_uses_goes_and_is_fetched_again(nights: Tracking, workspace: Workspace) -> None:
    used, unused = (RegisteredAdapter(ticker="AAA", version=version) for version in (1, 2))
    copies = [fetch_registered(nights, adapter, cache=workspace.pulled) for adapter in (used, unused)]
    for copy in copies:
        os.utime(copy, (0, 0))
    assert fetch_registered(nights, used, cache=workspace.pulled) == copies[0]
    place = pulled_place(workspace, before=datetime.now(UTC) - timedelta(days=1))
    assert (place.items, place.stale) == (2, 1)
    assert place.remove(lambda done: None) == 1
    assert [copy.exists() for copy in copies] == [True, False]
    assert fetch_registered(nights, unused, cache=workspace.pulled) == copies[1]


def _link(client, run: PipelineRun, *, to: str) -> None:
    client.set_tag(run.run_id, DESCRIPTION_TAG, f"[stage](#/experiments/{run.tracking.experiment_id}/runs/{to})")


def _card(made: Pieces):
    return made.card("sft").model_copy(update={"ticker": "BBB"})


def _files(version: int) -> Path:
    """Where the registry keeps a version: no copy, the files themselves."""
    return Path(mlflow.artifacts.download_artifacts(f"models:/tickerforge-AAA/{version}"))
