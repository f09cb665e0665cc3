from pathlib import Path

import pytest
from pydantic import BaseModel

from tickerforge.tasks.base.errors import StoreError
from tickerforge.tasks.store.records import list_records, read_record, write_record


class Night(BaseModel):
    tickers: int


class Other(BaseModel):
    name: str


@pytest.fixture(params=["home", "shared"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the records lie; the home does not exist yet."""
    monkeypatch.setenv("TICKERFORGE_HOME", str(tmp_path / "home"))
    if request.param == "home":
        return tmp_path / "home"
    (tmp_path / "mounted").mkdir()
    monkeypatch.setenv("TICKERFORGE_STORE", str(tmp_path / "mounted"))
    return tmp_path / "mounted"


def test_a_record_is_read_as_it_was_last_written(root: Path) -> None:
    assert read_record("night", "AAPL/2026-11-20", Night) is None
    write_record("night", "AAPL/2026-11-20", Night(tickers=1))
    write_record("night", "AAPL/2026-11-20", Night(tickers=2))
    assert read_record("night", "AAPL/2026-11-20", Night) == Night(tickers=2)
    assert [path.name for path in root.rglob("*") if path.is_file()] == ["2026-11-20.json"]


def test_records_are_listed_by_kind_and_beginning(root: Path) -> None:
    assert list_records("night") == []
    for name in ("BRK.B/2026-11-20", "AAPL/2026-11-21", "AAPL/2026-11-20", "AAPL-X/2026-11-20", "^GSPC"):
        write_record("night", name, Night(tickers=1))
    write_record("drift", "AAPL/2026-11-20", Night(tickers=1))
    assert list_records("night") == [
        *("AAPL-X/2026-11-20", "AAPL/2026-11-20", "AAPL/2026-11-21", "BRK.B/2026-11-20", "^GSPC")
    ]
    assert list_records("night", "AAPL/") == ["AAPL/2026-11-20", "AAPL/2026-11-21"]
    assert list_records("night", "AAPL/2026-11-21") == ["AAPL/2026-11-21"]
    assert list_records("nigh") == []
    assert list_records("night", "MSFT/") == []


@pytest.mark.parametrize("name", ["", "../x", "a/../b", "/x", "a//b", "a b", "a/", ".hidden", "a\nb"])
def test_a_name_that_leads_elsewhere_is_refused(root: Path, name: str) -> None:
    for call in (
        lambda: write_record("night", name, Night(tickers=1)),
        lambda: read_record("night", name, Night),
        lambda: list_records(name),
    ):
        with pytest.raises(ValueError, match="not a name for a record"):
            call()
    assert not [path for path in root.rglob("*") if path.is_file()]


def test_a_record_of_another_make_says_which_it_is(root: Path) -> None:
    write_record("night", "one", Night(tickers=1))
    with pytest.raises(StoreError, match=r"record records/night/one.json cannot be read as Other"):
        read_record("night", "one", Other)


def test_a_home_that_is_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("in the way")
    monkeypatch.setenv("TICKERFORGE_HOME", str(tmp_path / "home"))
    with pytest.raises(StoreError, match="TICKERFORGE_HOME"):
        write_record("night", "one", Night(tickers=1))
