"""What prune removes of the store, and what it leaves: what a run has used, builds or reads just now."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tickerforge.tasks.base.disk import locked
from tickerforge.tasks.base.growth import Place
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.store.pruning import answer_place, store_places

BEFORE = datetime.now(UTC) - timedelta(days=1)
OLD = (BEFORE - timedelta(days=1)).timestamp()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home")


@pytest.fixture
def store(workspace: Workspace) -> Store:
    return Store(workspace.store)


def build(store: Store, name: str) -> ArtifactRef:
    def fill(folder: Path) -> None:
        (folder / "content").write_text(name)

    return store.build("stage", {"name": name}, fill, code="v1")


def make_old(*paths: Path) -> None:
    for path in paths:
        os.utime(path, (OLD, OLD))


def remove(places: list[Place]) -> list[int]:
    steps: list[int] = []
    return [place.remove(steps.append) for place in places]


def test_an_artifact_that_no_run_has_used_goes_with_its_lock_and_is_built_again_the_same(
    workspace: Workspace, store: Store
) -> None:
    old, used, new = build(store, "old"), build(store, "used"), build(store, "new")
    make_old(old.path, used.path)
    assert build(store, "used").cached
    places = store_places(workspace, before=BEFORE)
    assert [(place.items, place.stale) for place in places] == [(3, 1), (0, 0), (3, 0)]
    assert places[0].paths == (old.path,)
    assert remove(places) == [1, 0, 0]
    assert [ref.path.is_dir() for ref in (old, used, new)] == [False, True, True]
    assert len(list((store.root / "locks").iterdir())) == 2
    again = build(store, "old")
    assert (again.cached, again.sha256, again.key) == (False, old.sha256, old.key)
    assert [place.stale for place in store_places(workspace, before=BEFORE)] == [0, 0, 0]


def test_an_artifact_that_is_used_after_the_look_stays(workspace: Workspace, store: Store) -> None:
    late = build(store, "late")
    make_old(late.path)
    places = store_places(workspace, before=BEFORE)
    build(store, "late")
    assert remove(places) == [0, 0, 0]
    assert build(store, "late").cached


def test_what_somebody_builds_stays_and_old_checkpoints_of_nobody_go(workspace: Workspace, store: Store) -> None:
    partials = [store.root / "partial" / f"stage-{name}" for name in ("held", "left", "fresh")]
    for folder in partials:
        (folder / "checkpoint").mkdir(parents=True)
        (folder / "checkpoint" / "weights").touch()
    for folder in partials[:2]:
        make_old(folder / "checkpoint" / "weights", folder / "checkpoint", folder)
    with locked(store.root / "locks" / "stage-held.lock", waiting_for="held"):
        assert remove(store_places(workspace, before=BEFORE)) == [0, 1, 0]
    assert [folder.is_dir() for folder in partials] == [True, False, True]
    assert not (store.root / "locks" / "stage-left.lock").exists()


def test_a_removal_that_was_killed_is_finished_by_the_next(
    workspace: Workspace, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = [build(store, name) for name in ("one", "two", "three")]
    make_old(*(ref.path for ref in refs))

    def killed(path: Path, **options: object) -> None:
        if not options:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove(store_places(workspace, before=BEFORE))
    places = store_places(workspace, before=BEFORE)
    assert places[0].stale == 3
    remove(places)
    assert list((store.root / "stage").iterdir()) == []
    assert [build(store, name).sha256 for name in ("one", "two", "three")] == [ref.sha256 for ref in refs]


def test_locks_whose_artifacts_are_gone_go_unless_somebody_waits_for_them(workspace: Workspace, store: Store) -> None:
    gone, held = (store.root / "locks" / f"stage-{name}.lock" for name in ("gone", "held"))
    for lock in (gone, held):
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
        make_old(lock)
    with locked(held, waiting_for="held"):
        assert remove(store_places(workspace, before=BEFORE)) == [0, 0, 1]
    assert (gone.exists(), held.exists()) == (False, True)


def test_answers_of_old_runs_go_and_issued_forecasts_stay(workspace: Workspace) -> None:
    records = workspace.state / "records"
    for name in ("answers/old.json", "answers/new.json", "forecasts/AAPL/2020-01-02-v1.json"):
        (records / name).parent.mkdir(parents=True, exist_ok=True)
        (records / name).write_text("{}")
    make_old(records / "answers/old.json", records / "forecasts/AAPL/2020-01-02-v1.json")
    answers = answer_place(workspace, "answers", before=BEFORE)
    assert (answers.items, answers.stale) == (2, 1)
    assert remove([answers]) == [1]
    assert sorted(path.name for path in records.rglob("*.json")) == ["2020-01-02-v1.json", "new.json"]
