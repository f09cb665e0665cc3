import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tickerforge.tasks.base.disk import (
    check_replaceable,
    copy_tree,
    folder_sha256,
    is_full_disk,
    locked,
    replace_folder,
)
from tickerforge.tasks.base.errors import LockTimeout, PublishError


def fill(folder: Path) -> None:
    (folder / "marker").write_text("ours")
    (folder / "sub").mkdir()
    (folder / "sub" / "file").write_text("new")


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    replace_folder(target, fill, marker="marker")
    (target / "stray").write_text("old")
    replace_folder(target, fill, marker="marker")
    assert sorted(path.name for path in target.rglob("*")) == ["file", "marker", "sub"]
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_a_failed_replacement_leaves_the_former_folder_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "target"
    replace_folder(target, fill, marker="marker")
    before = folder_sha256(target)

    def full(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(PublishError, match="the disk is full while writing target"):
        replace_folder(target, full, marker="marker")
    assert folder_sha256(target) == before
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_only_what_is_ours_or_empty_may_be_replaced(tmp_path: Path) -> None:
    check_replaceable(tmp_path / "new", marker="marker")
    check_replaceable(tmp_path, marker="marker")
    (tmp_path / "file").write_text("mine")
    for foreign in (tmp_path, tmp_path / "file"):
        with pytest.raises(PublishError, match="was not written by TickerForge"):
            check_replaceable(foreign, marker="marker")


def test_a_copy_may_leave_out_names_at_the_top(tmp_path: Path) -> None:
    fill(tmp_path)
    copy_tree(tmp_path, tmp_path / "copy", leave_out=frozenset({"marker", "copy"}))
    assert sorted(path.name for path in (tmp_path / "copy").rglob("*")) == ["file", "sub"]


def test_a_folders_hash_follows_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = folder_sha256(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = folder_sha256(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, folder_sha256(tmp_path)}) == 3


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (ValueError("database or disk is full"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (RuntimeError("shape mismatch"), False),
    ],
)
def test_a_full_disk_is_told_from_other_faults(tmp_path: Path, error: Exception, expected: bool) -> None:
    assert is_full_disk(error, near=tmp_path / "not there yet") is expected


def test_a_full_disk_is_seen_behind_the_error_it_caused(tmp_path: Path) -> None:
    outer = RuntimeError("could not save")
    outer.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert is_full_disk(outer, near=tmp_path)


def test_a_lock_waits_for_another_thread(tmp_path: Path) -> None:
    order: list[str] = []

    def hold() -> None:
        with locked(tmp_path / "lock", waiting_for="it"):
            order.append("first in")
            time.sleep(0.3)
            order.append("first out")

    thread = threading.Thread(target=hold)
    thread.start()
    while not order:
        time.sleep(0.01)
    with locked(tmp_path / "lock", waiting_for="it"):
        order.append("second in")
    thread.join()
    assert order == ["first in", "first out", "second in"]


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from tickerforge.tasks.base.disk import locked
with locked(Path({str(tmp_path / "lock")!r}), waiting_for="it"):
    print("in", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "in\n"
    holder.kill()
    holder.communicate()
    began = time.monotonic()
    with locked(tmp_path / "lock", waiting_for="it"):
        assert time.monotonic() - began < 20


def test_a_shared_lock_keeps_out_only_who_wants_it_alone(tmp_path: Path) -> None:
    def take(**how: bool) -> None:
        with locked(tmp_path / "lock", waiting_for="it", timeout=0.1, **how):
            pass

    with locked(tmp_path / "lock", waiting_for="it", shared=True):
        take(shared=True)
        with pytest.raises(LockTimeout, match=r"holds the lock .*lock of it"):
            take()
    take()


def test_who_waits_for_a_lock_whose_holder_removes_the_file_locks_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    entered: list[int] = []

    def enter() -> None:
        with locked(path, waiting_for="a") as descriptor:
            entered.append(os.fstat(descriptor).st_ino)

    thread = threading.Thread(target=enter)
    with locked(path, waiting_for="a"):
        thread.start()
        # It waits with the old file open.
        thread.join(0.5)
        assert entered == []
        path.unlink()
    thread.join(10)
    assert entered == [path.stat().st_ino]
