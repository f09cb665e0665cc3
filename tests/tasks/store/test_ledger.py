"""The ledger of records: what was sealed cannot be changed, removed, added or replaced without a sign."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tickerforge.features.config import FrozenModel
from tickerforge.tasks.store import ledger
from tickerforge.tasks.store.ledger import Head, check, head, seal
from tickerforge.tasks.store.records import record_bytes, write_record

NOW = datetime(2026, 11, 20, 22, tzinfo=UTC)
KINDS = ("forecasts",)


class Note(FrozenModel):
    """A record of the test."""

    text: str


@pytest.fixture(autouse=True)
def _own_home(working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TICKERFORGE_STORE", raising=False)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return tmp_path / "home" / "state" / "records"


def write(*names: str) -> list[str]:
    for name in names:
        write_record("forecasts", name, Note(text=name))
    return [f"forecasts/{name}" for name in names]


def sealed(*names: str, at: datetime = NOW) -> Head:
    end = seal(write(*names), kinds=KINDS, at=at, since=at)
    assert end is not None
    return end


def faults(known: str = "") -> tuple[str, ...]:
    return check(kinds=KINDS, known=known).faults


def test_an_unchanged_record_has_no_faults_and_its_end_stands_for_it() -> None:
    assert (head(), faults()) == (None, ())
    first = sealed("A/1", "B/1")
    second = sealed("A/2", at=NOW + timedelta(days=1))
    found = check(kinds=KINDS, known=str(first))
    assert (found.faults, found.blocks, found.head, head()) == ((), 2, second, second)
    assert found.sealed == {
        "forecasts/A/1": NOW,
        "forecasts/B/1": NOW,
        "forecasts/A/2": NOW + timedelta(days=1),
    }


def test_a_changed_a_removed_and_an_added_record_are_named(records: Path) -> None:
    sealed("A/1", "A/2", "A/3")
    (records / "forecasts" / "A" / "1.json").write_text('{"text": "better"}')
    (records / "forecasts" / "A" / "2.json").unlink()
    write("A/0")
    assert [fault.partition(":")[0] for fault in faults()] == ["forecasts/A/1", "forecasts/A/2", "forecasts/A/0"]


def test_a_changed_and_a_missing_block_break_the_chain(records: Path) -> None:
    for day in range(3):
        sealed(f"A/{day}", at=NOW + timedelta(days=day))
    middle = records / "ledger" / "00000002.json"
    block = json.loads(middle.read_text())
    middle.write_text(json.dumps(block | {"written_at": "2026-11-21T21:00:00Z"}))
    assert [fault.partition(":")[0] for fault in faults()] == ["block 00000003"]
    middle.unlink()
    assert any("blocks are missing" in fault for fault in faults())
    middle.write_text("no block")
    assert any(fault.startswith("block 00000002") for fault in faults())


def test_a_record_that_was_replaced_as_a_whole_is_found_by_an_end_that_somebody_kept(records: Path) -> None:
    kept = sealed("A/1")
    for block in (records / "ledger").iterdir():
        block.unlink()
    (records / "forecasts" / "A" / "1.json").write_text('{"text": "better"}')
    seal([], kinds=KINDS, at=NOW, since=NOW)
    assert faults() == ()
    assert "replaced or shortened" in faults(str(kept))[0]


def test_records_of_an_earlier_version_are_in_the_first_block() -> None:
    write("A/1", "A/2")
    sealed("A/3")
    assert faults() == ()


def test_a_record_is_sealed_once_and_a_clock_behind_keeps_the_order() -> None:
    first = sealed("A/1")
    assert sealed("A/1") == first
    assert sealed("A/2", at=NOW - timedelta(minutes=1)).number == 2
    assert faults() == ()


def test_runs_that_append_at_the_same_time_keep_one_chain() -> None:
    sealed("A/1")
    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(lambda number: sealed(f"T{number}/1"), range(8)))
    assert sorted(end.number for end in ends) == list(range(2, 10))
    assert faults() == ()


def test_a_block_is_read_once_per_append(monkeypatch: pytest.MonkeyPatch) -> None:
    for day in range(3):
        sealed(f"A/{day}", at=NOW + timedelta(days=day))
    read: list[str] = []

    def counted(path: str) -> bytes | None:
        read.append(path)
        return record_bytes(path)

    monkeypatch.setattr(ledger, "record_bytes", counted)
    sealed("A/3", at=NOW + timedelta(days=3))
    assert read == ["ledger/00000003", "forecasts/A/3", "ledger/00000004"]
