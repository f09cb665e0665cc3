"""The command `prune` on a home with real databases, a store and results."""

import io
import os
import re
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aging import make_older
from prefect_rows import make_empty, run, used
from service_home import CLI, Home
from tickerforge.flows.cli import prune as command
from tickerforge.flows.errors import ConfigError
from tickerforge.flows.night import growth
from tickerforge.tasks.outputs.desk import desk_page
from tickerforge.tasks.outputs.pruning import read_prunable
from tickerforge.tasks.store.artifacts import Store
from tickerforge.tasks.tracking.client import client_of, connect
from tickerforge.tasks.tracking.stage_runs import finish_pipeline, follow_pipeline, wait_for_tracking

NIGHTS = 3
FIRST = datetime.now(UTC).replace(hour=4, minute=30, microsecond=0) - timedelta(days=NIGHTS)


@pytest.fixture
def home(prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Three nights, a day apart, each with a run in MLflow, results and an artifact."""
    home = Home(tmp_path / "home", tmp_path / "work")
    home.work.mkdir()
    monkeypatch.setenv("TICKERFORGE_HOME", str(home.root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    make_empty(home.workspace.prefect_db)
    for night in range(NIGHTS):
        make_older(home.workspace, home.work, days=1)
        began = datetime.now(UTC)
        with used(home.workspace.prefect_db) as db:
            run(db, "nightly", began)
        folder = home.work / "results" / f"AAA_{began:%Y%m%d_%H%M%S}"
        folder.mkdir(parents=True)
        (folder / "report.html").write_bytes(os.urandom(100_000))
        log = follow_pipeline(
            home.workspace, folder.name, params={}, tags={"results": f"results/{folder.name}"}, started=began
        )
        run_id = wait_for_tracking(log).run_id
        client_of(connect(home.workspace)).log_text(run_id, "text", "file.txt")
        finish_pipeline(log, ended=began + timedelta(seconds=1))
        Store(home.workspace.store).build("windows", {"night": night}, _write, code="v1")
    return home


def _write(folder: Path) -> None:
    (folder / "windows.parquet").write_bytes(os.urandom(50_000))


def prune(
    home: Home,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    keep_nights: int = 1,
    answer: str = "",
    dry_run: bool = False,
    yes: bool = False,
) -> str:
    """Call the command in this process, as its imports take long, and return what it printed."""
    databases = {
        "prefect": f"sqlite+aiosqlite:///{home.workspace.prefect_db}",
        "mlflow": f"sqlite:///{home.workspace.mlflow_db}",
    }
    with monkeypatch.context() as patch, used(home.workspace.prefect_db):
        patch.chdir(home.work)
        patch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", databases["prefect"])
        for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        patch.setattr("sys.stdin", io.StringIO(answer))
        command.prune(home.workspace, **databases, keep_nights=keep_nights, dry_run=dry_run, yes=yes)
    return capsys.readouterr().out


def row(text: str, place: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if place in line]
    return re.findall(r"[\d.,]+", line)


def state(home: Home) -> tuple[int, int]:
    return len(list((home.work / "results").iterdir())), len(list((home.workspace.store / "windows").iterdir()))


def test_it_shows_what_goes_asks_and_removes_it_once(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = prune(home, capsys, monkeypatch, keep_nights=4, yes=True)
    assert "Prefect has a record of 3 nights, 4 are to be kept: nothing to remove." in few
    assert read_prunable() is None
    planned = prune(home, capsys, monkeypatch, dry_run=True)
    shown = read_prunable()
    assert shown is not None
    assert f"{shown.things} " in row(planned, "all")[0] + " "
    assert shown.text.startswith(f"{shown.things} things in runs, results and caches, ")
    assert "tickerforge prune --keep-nights 1 removes them" in desk_page([], at=shown.at)
    with pytest.raises(ConfigError, match="add --yes"):
        prune(home, capsys, monkeypatch)
    assert "nothing was removed" in prune(home, capsys, monkeypatch, answer="n\n")
    assert state(home) == (3, 3)
    done, _, after = prune(home, capsys, monkeypatch, answer="y\n").partition("Before and after")
    assert state(home) == (1, 1)
    for place in ("Prefect flow runs", "MLflow runs", "results of runs", "stored artifacts"):
        assert row(planned, place)[:2] == row(done, place)[:2] == ["3", "2"]
        assert row(after, place)[:2] == ["3", "1"]
    again = prune(home, capsys, monkeypatch, yes=True)
    assert row(again.partition("Before and after")[0], "all")[-1] == "0.0"
    assert state(home) == (1, 1)
    assert "keep-nights" not in desk_page([], at=shown.at)


def test_a_night_looks_once_per_day_at_what_a_prune_would_remove(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.work)
    first = datetime.now(UTC)

    def looked(at: datetime) -> datetime | None:
        with used(home.workspace.prefect_db):
            growth.look_daily(home.workspace, at=at)
        found = read_prunable()
        return found and found.at

    assert looked(first) is None
    monkeypatch.setattr(growth, "is_embedded", lambda: True)
    before = first - timedelta(days=1)
    assert looked(before) == before
    assert (found := read_prunable()) is not None
    assert (found.things, found.text) == (0, "")
    monkeypatch.setattr(growth, "KEEP_NIGHTS", 2)
    assert looked(first) == first
    found = read_prunable()
    assert found is not None
    # Of the first of three nights: its run in each database, its results and its artifact.
    assert (found.things, found.freed > 150_000) == (4, True)
    assert looked(first + timedelta(hours=19)) == first
    assert looked(first + timedelta(hours=21)) == first + timedelta(hours=21)


@pytest.mark.nightly
@pytest.mark.parametrize("sign", ["home/state/mlartifacts/*", "work/results/*", "home/cache/store/windows/*"])
def test_a_prune_that_is_killed_is_finished_by_the_next(
    home: Home, sign: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in home.work.glob("results/*"):
        for number in range(3000):
            (folder / f"{number}.txt").touch()
    before = set(tmp_path.glob(sign))
    process = subprocess.Popen([*CLI, "prune", "--keep-nights", "1", "--yes"], cwd=home.work, env=home.variables())
    deadline = time.monotonic() + 300
    while set(tmp_path.glob(sign)) == before and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert set(tmp_path.glob(sign)) != before
    prune(home, capsys, monkeypatch, yes=True)
    assert state(home) == (1, 1)
    assert row(prune(home, capsys, monkeypatch, dry_run=True), "all")[-1] == "0.0"
    for night in range(NIGHTS):
        Store(home.workspace.store).build("windows", {"night": night}, _write, code="v1")
    assert state(home) == (1, 3)


def test_databases_of_other_servers_are_left_alone(home: Home) -> None:
    elsewhere = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    done = subprocess.run(
        [*CLI, "prune", "--keep-nights", "1", "--yes"],
        cwd=home.work,
        env=home.variables() | elsewhere,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 2
    assert "MLFLOW_TRACKING_URI names a server whose database is not in this home" in done.stderr
    assert state(home) == (3, 3)
