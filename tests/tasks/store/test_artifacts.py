import errno
import json
import logging
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest

from tickerforge.features.config import FeatureConfig
from tickerforge.tasks.base.errors import StoreError
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.store.artifacts import ArtifactRef, Store, code_version, part_sha256, read_manifest
from tickerforge.tasks.store.shared_store import SharedStore


def write_value(folder: Path) -> dict[str, int]:
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / "value.txt").write_text("42")
    return {"rows": 1}


def build(store: Store, **changes: object) -> ArtifactRef:
    arguments: dict = {"stage": "windows", "inputs": {"a": 1}, "builder": write_value, "code": "v1", "seed": 0}
    return store.build(**(arguments | changes))


def test_a_second_build_is_a_hit_that_does_not_call_the_builder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    first = build(store)

    def never(folder: Path) -> None:
        raise AssertionError("built twice")

    caplog.set_level(logging.INFO)
    second = build(store, builder=never)
    assert not first.cached
    assert second.cached
    assert second.model_copy(update={"cached": False}) == first
    assert "windows: cached" in caplog.text
    assert (second.path / "sub" / "value.txt").read_text() == "42"
    assert second.meta == {"rows": 1}


@pytest.mark.parametrize(
    "change", [{"inputs": {"a": 2}}, {"code": "v2"}, {"seed": 1}, {"stage": "bars"}, {"inputs": {"a": FeatureConfig()}}]
)
def test_every_input_changes_the_key(tmp_path: Path, change: dict) -> None:
    store = Store(tmp_path)
    assert build(store).key != build(store, **change).key


def test_an_artifact_as_input_counts_by_content_and_not_by_its_own_key(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, other = build(store), build(store, seed=1)
    assert one.key != other.key
    assert one.sha256 == other.sha256
    assert build(store, inputs={"windows": one}).key == build(store, inputs={"windows": other}).key


def test_a_path_is_refused_as_input_because_its_content_may_change(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="input 'file'"):
        build(Store(tmp_path), inputs={"file": tmp_path})


@pytest.mark.parametrize("damage", ["change", "delete", "manifest", "no manifest"])
def test_a_damaged_artifact_is_rebuilt_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    store = Store(tmp_path)
    first = build(store)
    value, manifest = first.path / "sub" / "value.txt", first.path / "manifest.json"
    match damage:
        case "change":
            value.write_text("41")
        case "delete":
            value.unlink()
        case "manifest":
            manifest.write_text("{")
        case "no manifest":
            manifest.unlink()
    again = build(store)
    assert not again.cached
    assert again.sha256 == first.sha256
    assert value.read_text() == "42"
    assert "damaged" in caplog.text
    assert caplog.records[-1].levelno == logging.WARNING
    assert build(store).cached


def test_the_manifest_says_what_the_artifact_was_made_from(tmp_path: Path) -> None:
    manifest = read_manifest(build(Store(tmp_path), seed=5))
    assert manifest.inputs == {"a": 1}
    assert manifest.seed == 5
    assert manifest.code == "v1"
    assert list(manifest.files) == ["sub/value.txt"]
    assert manifest.packages["numpy"]
    assert manifest.created.utcoffset() is not None
    assert manifest.created.utcoffset().total_seconds() == 0


def test_a_failed_build_leaves_nothing_behind_and_the_error_passes_unchanged(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise ValueError("row 3 is bad")

    with pytest.raises(ValueError, match="row 3 is bad"):
        build(Store(tmp_path), builder=fail)
    assert not list(tmp_path.rglob("half.txt"))
    assert not (tmp_path / "windows").exists()


def test_a_resumable_build_finds_what_the_interrupted_one_left(tmp_path: Path) -> None:
    def checkpointed(folder: Path) -> None:
        checkpoint = folder / "checkpoint"
        if not checkpoint.exists():
            checkpoint.write_text("step 7")
            raise KeyboardInterrupt
        (folder / "result.txt").write_text(f"from {checkpoint.read_text()}")
        checkpoint.unlink()

    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        build(store, builder=checkpointed, resumable=True)
    ref = build(store, builder=checkpointed, resumable=True)
    assert (ref.path / "result.txt").read_text() == "from step 7"
    assert list(read_manifest(ref).files) == ["result.txt"]


BUILD_IN_A_PROCESS = """
    import sys, time
    from pathlib import Path
    from tickerforge.tasks.store.artifacts import Store

    def slowly(folder):
        with open(Path(sys.argv[1]).parent / "calls.txt", "a") as calls:
            calls.write("call\\n")
        for step in range(int(sys.argv[2])):
            path = folder / f"step-{step}"
            if not path.exists():
                path.write_text(str(step))
                print("wrote", step, flush=True)
                if str(step) == sys.argv[3]:
                    time.sleep(300)

    ref = Store(Path(sys.argv[1])).build("grpo_1st", {}, slowly, code="v1", resumable=True)
    print("cached" if ref.cached else "built", ref.sha256, flush=True)
"""


def start_process(root: Path, *, steps: int, waits_after: int = -1) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(BUILD_IN_A_PROCESS), str(root), str(steps), str(waits_after)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_build_killed_in_the_middle_resumes_and_ends_with_the_same_content(tmp_path: Path) -> None:
    undisturbed, store = tmp_path / "undisturbed" / "store", tmp_path / "killed" / "store"
    expected, _ = start_process(undisturbed, steps=4).communicate(timeout=60)
    killed = start_process(store, steps=4, waits_after=1)
    assert killed.stdout is not None
    lines = [killed.stdout.readline(), killed.stdout.readline()]
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert lines == ["wrote 0\n", "wrote 1\n"]
    assert not list(store.glob("grpo_1st/*"))
    resumed, _ = start_process(store, steps=4).communicate(timeout=60)
    assert "wrote 0" not in resumed
    assert resumed.splitlines()[-1] == expected.splitlines()[-1]
    assert resumed.splitlines()[-1].startswith("built ")
    assert not list((store / "partial").iterdir())


def test_two_processes_that_want_the_same_artifact_build_it_once(tmp_path: Path) -> None:
    processes = [start_process(tmp_path / "store", steps=8) for _ in range(2)]
    ends = [process.communicate(timeout=60)[0].splitlines()[-1] for process in processes]
    assert sorted(end.split()[0] for end in ends) == ["built", "cached"]
    assert len({end.split()[1] for end in ends}) == 1
    assert (tmp_path / "calls.txt").read_text().count("call") == 1


def test_two_threads_that_want_the_same_artifact_build_it_once(tmp_path: Path) -> None:
    calls, refs = [], []

    def slowly(folder: Path) -> None:
        calls.append(threading.get_ident())
        time.sleep(0.3)
        (folder / "value").write_text("1")

    def work() -> None:
        refs.append(build(Store(tmp_path), builder=slowly))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert sorted(ref.cached for ref in refs) == [False, True]


@pytest.fixture
def small_disk(tmp_path: Path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small tmpfs needs the right to do so")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_named_as_such_and_leaves_nothing_visible(small_disk: Path) -> None:
    def large(folder: Path) -> None:
        (folder / "large").write_bytes(bytes(1_000_000))

    store = Store(small_disk / "store")
    with pytest.raises(StoreError, match=r"disk is full while storing windows .*TICKERFORGE_HOME"):
        build(store, builder=large)
    assert not (store.root / "windows").exists()
    assert not list(store.root.rglob("large"))
    assert build(store).path.is_dir()


def test_a_full_disk_is_recognised_behind_the_words_of_a_library_in_another_language(small_disk: Path) -> None:
    def large(folder: Path) -> None:
        import numpy as np
        from safetensors.numpy import save_file

        save_file({"weights": np.zeros(500_000)}, folder / "weights.safetensors")

    with pytest.raises(StoreError, match="disk is full"):
        build(Store(small_disk / "store"), builder=large)


def test_a_builders_own_os_error_is_not_taken_for_the_stores(tmp_path: Path) -> None:
    def missing(folder: Path) -> None:
        raise FileNotFoundError(errno.ENOENT, "gone", "prices.csv")

    with pytest.raises(FileNotFoundError):
        build(Store(tmp_path), builder=missing)


def test_a_store_that_cannot_be_written_says_where_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file is in the way")
    with pytest.raises(StoreError, match="TICKERFORGE_HOME"):
        build(Store(tmp_path / "store"))


def test_a_part_of_an_artifact_has_a_hash_of_its_own(tmp_path: Path) -> None:
    def with_metrics(seconds: float):
        def builder(folder: Path) -> None:
            (folder / "adapter").mkdir()
            (folder / "adapter" / "weights").write_text("w")
            (folder / "metrics.jsonl").write_text(json.dumps({"seconds": seconds}))

        return builder

    store = Store(tmp_path)
    one, other = build(store, builder=with_metrics(1.0)), build(store, builder=with_metrics(2.0), seed=1)
    assert one.sha256 != other.sha256
    assert part_sha256(one, "adapter") == part_sha256(other, "adapter")
    assert part_sha256(one, "metrics.jsonl") != part_sha256(other, "metrics.jsonl")
    with pytest.raises(StoreError, match="holds no report"):
        part_sha256(one, "report")


def test_the_code_version_follows_the_source_and_the_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version, body in (("one", "x = 1"), ("two", "x = 2")):
        folder = tmp_path / version / f"pack_{version}"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(body)
        monkeypatch.syspath_prepend(str(tmp_path / version))
    versions = [code_version("pack_one"), code_version("pack_two"), code_version("pack_one", libraries=("numpy",))]
    assert len(set(versions)) == 3
    with pytest.raises(ValueError, match="pack_three"):
        code_version("pack_three")


CODE = """
    \"\"\"Prices in logs.\"\"\"

    from math import log

    BASE = 10
    \"\"\"Of the logs.\"\"\"

    class Scale:
        \"\"\"A scale.\"\"\"

        def of(self, price: float) -> float:
            \"\"\"The log of a price.\"\"\"
            # Prices are positive.
            return log(price, BASE)
"""


def version_of(name: str, content: str, folder: Path) -> str:
    """The version of a package with this file, as a process sees it that has not seen another one."""
    with pytest.MonkeyPatch.context() as patch:
        package = Path(tempfile.mkdtemp(dir=folder)) / "pack"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / name).write_text(textwrap.dedent(content))
        patch.syspath_prepend(str(package.parent))
        code_version.cache_clear()
        return code_version("pack")


@pytest.mark.parametrize(
    ("former", "new"),
    [
        ("Prices in logs.", "Prices on a log scale.\n\n    Base ten."),
        ("Of the logs.", "Base of the logarithms."),
        ("A scale.", "Turns prices into logs."),
        ("The log of a price.", "Return the logarithm of a price."),
        ("# Prices are positive.\n", "\n"),
        ("BASE = 10", "BASE = 10  # decimal"),
        ("\n    BASE", "\n\n\n    BASE"),
        ("log(price, BASE)", "log(\n                price,\n                BASE,\n            )"),
    ],
)
def test_prose_and_layout_of_the_code_leave_its_version(former: str, new: str, tmp_path: Path) -> None:
    assert former in CODE
    changed = version_of("scale.py", CODE.replace(former, new, 1), tmp_path)
    assert changed == version_of("scale.py", CODE, tmp_path)


@pytest.mark.parametrize(
    ("former", "new"),
    [
        ("BASE = 10", "BASE = 11"),
        ("BASE = 10", "BASE = 10.0"),
        ("log(price, BASE)", "log(BASE, price)"),
        ("log(price, BASE)", "+log(price, BASE)"),
        ("return log", "yield log"),
        ("price: float)", "price: float = 1.0)"),
        ("class Scale", "class Scales"),
        ("log(price, BASE)", "(log(price), BASE)"),
    ],
)
def test_every_expression_of_the_code_changes_its_version(former: str, new: str, tmp_path: Path) -> None:
    assert former in CODE
    changed = version_of("scale.py", CODE.replace(former, new, 1), tmp_path)
    assert changed != version_of("scale.py", CODE, tmp_path)


def test_every_character_of_a_template_counts(tmp_path: Path) -> None:
    comments = ("{# prose #}", "{# other prose #}", "{# prose #}")
    one, other, same = (version_of("report.j2", comment, tmp_path) for comment in comments)
    assert one == same != other


def test_the_environment_names_home_and_shared_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKERFORGE_HOME", str(tmp_path))
    assert Store.current() == Store(Workspace.current().store)
    monkeypatch.setenv("TICKERFORGE_STORE", "")
    assert Store.current().shared is None
    monkeypatch.setenv("TICKERFORGE_STORE", "s3://bucket/prefix")
    assert Store.current().shared == SharedStore("s3://bucket/prefix")
