import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from object_store import BUCKET, Place, in_a_process, s3_server, use_server
from tickerforge.tasks.base.disk import tree_hashes
from tickerforge.tasks.base.errors import NotFinished, StoreError
from tickerforge.tasks.store.artifacts import ArtifactRef, FinishedOnly, Store
from tickerforge.tasks.store.records import list_records, read_record, write_record
from tickerforge.tasks.store.shared_store import SharedStore


@pytest.fixture(scope="module")
def object_store() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def s3(object_store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of our own at the server that the environment names."""
    import boto3

    use_server(monkeypatch, object_store)
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield client
    for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=item["Key"])
    client.delete_bucket(Bucket=BUCKET)
    client.close()


class Kept(BaseModel):
    value: int


@pytest.fixture(params=["bucket", "mounted folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "bucket":
        return Place(f"s3://{BUCKET}/pre/fix/", client=request.getfixturevalue("s3"))
    (tmp_path / "mounted folder").mkdir()
    return Place((tmp_path / "mounted folder").as_uri(), root=tmp_path / "mounted folder")


def store(place: Place, root: Path) -> Store:
    return Store(root, SharedStore(place.url))


def write_value(folder: Path) -> dict[str, int]:
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / "value.txt").write_text("42")
    (folder / "a+b [1].bin").write_bytes(bytes(range(256)))
    return {"rows": 1}


def never(folder: Path) -> None:
    raise AssertionError("built again")


def build(at: Store, builder: Callable = write_value, **changes: Any) -> ArtifactRef:
    return at.build("windows", {"a": 1}, builder, code="v1", **changes)


def test_what_one_machine_built_another_finds_byte_for_byte(place: Place, tmp_path: Path) -> None:
    one, other = store(place, tmp_path / "one"), store(place, tmp_path / "other")
    built = build(one)
    found = build(other, never)
    assert not built.cached
    assert found.cached
    assert found.path.is_relative_to(tmp_path / "other")
    assert tree_hashes(found.path) == tree_hashes(built.path)
    assert found == built.model_copy(update={"path": found.path, "cached": True})
    assert not list((tmp_path / "other" / "partial").iterdir())


def test_a_reference_from_another_machine_is_placed_here_once(place: Place, tmp_path: Path) -> None:
    ref = build(store(place, tmp_path / "one"))
    other = store(place, tmp_path / "other")
    placed = other.here(ref)
    assert placed == ref.model_copy(update={"path": other.folder("windows", ref.key)})
    assert tree_hashes(placed.path) == tree_hashes(ref.path)
    for name in place.names():
        place.remove(name)
    assert other.here(ref) == placed
    assert Store(tmp_path / "one").here(ref) == ref


@pytest.mark.parametrize("damage", ["changed here", "deleted here"])
def test_a_damaged_or_deleted_local_copy_is_fetched_instead_of_built(
    place: Place, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    at = store(place, tmp_path / "one")
    ref = build(at)
    value = ref.path / "sub" / "value.txt"
    for call in (lambda: build(at, never), lambda: at.here(ref)):
        caplog.clear()
        if damage == "changed here":
            value.write_text("41")
        else:
            for path in (value, ref.path / "manifest.json"):
                path.unlink()
        call()
        assert value.read_text() == "42"
        assert "is damaged" in caplog.text


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("changed", "value.txt has changed"),
        ("missing", "value.txt is missing"),
        ("manifest", "unreadable manifest"),
        ("outside", "unreadable manifest"),
        ("half", "half there"),
    ],
)
def test_what_is_damaged_or_half_there_counts_as_absent_and_is_pushed_again(
    place: Place, tmp_path: Path, damage: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    one, other, third = (store(place, tmp_path / name) for name in ("one", "other", "third"))
    ref = build(one)
    written = (ref.path / "manifest.json").read_bytes()
    match damage:
        case "changed":
            place.put(place.named("value.txt"), b"41")
        case "missing":
            place.remove(place.named("value.txt"))
        case "manifest":
            place.put(place.named("manifest.json"), b"{")
        case "outside":
            place.put(place.named("manifest.json"), written.replace(b"sub/value.txt", b"../../../value.txt"))
        case "half":
            place.remove(place.named("manifest.json"))
    with pytest.raises(StoreError, match="neither in"):
        other.here(ref)
    assert said in caplog.text
    told = [record.levelno for record in caplog.records if record.name == "tickerforge.tasks.store.shared_store"]
    assert [level for level in told if level > logging.INFO] == [logging.WARNING]
    assert not list(other.root.rglob("value.txt"))
    build(one, never)
    assert build(third, never).sha256 == ref.sha256


def test_a_damaged_shared_artifact_is_built_again_and_replaced(place: Place, tmp_path: Path) -> None:
    ref = build(store(place, tmp_path / "one"))
    place.put(place.named("value.txt"), b"41")
    assert not build(store(place, tmp_path / "other")).cached
    assert build(store(place, tmp_path / "third"), never).sha256 == ref.sha256


def test_two_contents_of_one_key_do_not_mix(place: Place, tmp_path: Path) -> None:
    """Two machines that train the same at the same time end with different seconds in their metrics."""

    def timed(seconds: str) -> Callable:
        def builder(folder: Path) -> None:
            (folder / "metrics").write_text(seconds)
            (folder / "weights").write_text("w")

        return builder

    one, other = Store(tmp_path / "one"), Store(tmp_path / "other")
    refs = [build(one, timed("1")), build(other, timed("2"))]
    assert refs[0].key == refs[1].key
    one, other, third = (store(place, tmp_path / name) for name in ("one", "other", "third"))
    assert [build(one, never).sha256, build(other, never).sha256] == [ref.sha256 for ref in refs]
    for at in (one, other, third):
        for ref, seconds in zip(refs, "12", strict=True):
            placed = at.here(ref)
            assert placed.sha256 == ref.sha256
            assert (placed.path / "metrics").read_text() == seconds
    assert {build(at, never).sha256 for at in (one, third)} == {refs[0].sha256}


def test_an_artifact_that_could_not_be_pushed_is_kept_and_pushed_by_the_next_build(tmp_path: Path) -> None:
    folder = tmp_path / "mounted"
    at = store(Place(str(folder)), tmp_path / "one")

    def unmounted_meanwhile(partial: Path) -> None:
        write_value(partial)
        folder.rmdir()

    folder.mkdir()
    with pytest.raises(StoreError, match=r"mounted \(TICKERFORGE_STORE\) is not there: mount it"):
        build(at, unmounted_meanwhile)
    folder.mkdir()
    assert build(at, never).cached
    assert build(store(Place(str(folder)), tmp_path / "other"), never).cached


def test_an_artifact_finished_before_there_was_a_shared_store_is_pushed_when_it_is_used(
    place: Place, tmp_path: Path
) -> None:
    build(Store(tmp_path / "one"))
    assert place.names() == []
    build(store(place, tmp_path / "one"), never)
    build(store(place, tmp_path / "other"), never)


def test_a_store_that_builds_nothing_sees_what_others_finished(place: Place, tmp_path: Path) -> None:
    at = FinishedOnly(tmp_path / "other", SharedStore(place.url))
    with pytest.raises(NotFinished):
        build(at)
    build(store(place, tmp_path / "one"))
    assert build(at).cached
    assert not list((at.root / "partial").iterdir())


def test_many_pushing_and_fetching_at_once_leave_whole_artifacts(place: Place, tmp_path: Path) -> None:
    refs: list[ArtifactRef] = []

    def work(name: str) -> None:
        refs.append(build(store(place, tmp_path / name)))

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "other", "one", "third")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refs) == 4
    assert len({ref.sha256 for ref in refs}) == 1
    assert build(store(place, tmp_path / "last"), never).sha256 == refs[0].sha256
    assert not [name for name in place.names() if "partial" in name]


def test_an_artifact_that_is_nowhere_says_where_it_was_looked_for(place: Place, tmp_path: Path) -> None:
    ref = build(Store(tmp_path / "one"))
    with pytest.raises(
        StoreError, match=rf"{tmp_path / 'other'} nor in a shared store, since none .*TICKERFORGE_STORE"
    ):
        Store(tmp_path / "other").here(ref)
    with pytest.raises(StoreError, match=r"nor in the shared store (s3|file)://"):
        store(place, tmp_path / "other").here(ref)


def test_a_file_that_another_machine_has_deleted_before_is_no_error(place: Place) -> None:
    files = SharedStore(place.url).files
    files.write("note.json", b"{}")
    for _ in range(2):
        files.delete("note.json")
        assert files.read("note.json") is None


def test_records_lie_in_the_bucket_as_well(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKERFORGE_STORE", f"s3://{BUCKET}/pre")
    kept = Kept(value=1)
    for name in ("AAPL/2026-11-20", "AAPL-X", "^GSPC/2026-11-20"):
        write_record("night", name, kept)
    assert read_record("night", "^GSPC/2026-11-20", Kept) == kept
    assert read_record("night", "AAPL", Kept) is None
    assert list_records("night", "AAPL/") == ["AAPL/2026-11-20"]


def test_a_bucket_that_does_not_exist_is_named_and_is_no_matter_of_another_attempt(s3: Any, tmp_path: Path) -> None:
    from tickerforge.tasks.base.retries import is_transient

    with pytest.raises(StoreError, match="s3://nowhere/x has no such bucket: create it") as caught:
        build(Store(tmp_path, SharedStore("s3://nowhere/x")))
    assert not is_transient(caught.value)


def test_a_forked_process_uses_the_store_as_well(s3: Any, tmp_path: Path) -> None:
    script = """
        import multiprocessing
        from tickerforge.tasks.store.artifacts import Store

        def build(name):
            return Store.current().build("windows", {"a": name}, lambda folder: (folder / "x").touch(), code="v1")

        build("parent")
        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(*(ref.cached for ref in pool.map(build, ["parent", "one", "two"])))
    """
    environment = {"TICKERFORGE_HOME": str(tmp_path), "TICKERFORGE_STORE": f"s3://{BUCKET}/pre"}
    assert in_a_process(script, **environment) == "True False False\n"


def test_a_block_of_the_ledger_is_written_by_one_of_two_writers(place: Place, tmp_path: Path) -> None:
    files = SharedStore(place.url).files
    assert [files.create("ledger/1.json", text) for text in (b"first", b"second")] == [True, False]
    assert (files.read("ledger/1.json"), files.list("ledger/")) == (b"first", ["ledger/1.json"])
