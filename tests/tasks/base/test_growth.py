import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tickerforge.tasks.base.growth import Place, database_place, discard, is_leftover, usage


def place(*roots: Path, paths: tuple[Path, ...] = ()) -> Place:
    return Place("things", roots, len(roots), len(paths), lambda step: 0, paths)


def test_a_file_with_two_names_counts_once_and_is_freed_only_if_both_go(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    (first / "page").write_bytes(b"x" * 100_000)
    os.link(first / "page", second / "page")
    size = (first / "page").stat().st_blocks * 512
    half = usage([place(first, paths=(first,)), place(second)])
    assert [(each.held, each.freed) for each in half] == [(size, 0), (0, 0)]
    both = usage([place(first, paths=(first,)), place(second, paths=(second,))])
    assert [(each.held, each.freed) for each in both] == [(size, size), (0, 0)]


def test_a_folder_that_is_used_while_it_is_removed_gets_its_name_back(tmp_path: Path) -> None:
    folder = tmp_path / "used"
    folder.mkdir()
    (folder / "file").touch()
    assert not discard(folder, unless=lambda renamed: (renamed / "file").is_file())
    assert (folder / "file").is_file()
    assert discard(folder)
    assert list(tmp_path.iterdir()) == []


def test_what_an_interrupted_removal_left_is_recognised_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "big"
    folder.mkdir()
    (folder / "file").touch()
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda path, **_: (_ for _ in ()).throw(KeyboardInterrupt) if _ == {} else None)
        with pytest.raises(KeyboardInterrupt):
            discard(folder)
    (left,) = tmp_path.iterdir()
    assert is_leftover(left)
    assert discard(left)
    assert list(tmp_path.iterdir()) == []


def fill(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        with connection:
            connection.execute("CREATE TABLE rows (content BLOB)")
            connection.executemany("INSERT INTO rows VALUES (?)", [(b"x" * 10_000,)] * 200)
        with connection:
            connection.execute("DELETE FROM rows WHERE rowid > 10")


def test_a_database_gives_the_space_of_removed_rows_back_also_while_another_process_has_it_open(tmp_path: Path) -> None:
    database = tmp_path / "rows.db"
    fill(database)
    with closing(sqlite3.connect(database)) as other:
        assert other.execute("SELECT count(*) FROM rows").fetchone() == (10,)
        found = database_place("rows", database)
        before = usage([found])[0].held
        found.remove(lambda done: None)
        assert usage([found])[0].held < before / 5
        assert other.execute("SELECT count(*) FROM rows").fetchone() == (10,)


def test_a_database_in_the_middle_of_a_read_keeps_its_size_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tickerforge.tasks.base.growth._SQLITE_SECONDS", 0.1)
    database = tmp_path / "rows.db"
    fill(database)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        database_place("rows", database).remove(lambda done: None)
    assert f"{database} is in use and keeps its size" in caplog.text
