import errno
import logging
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from object_store import SECRET, in_a_process, use_server
from tickerforge.tasks.base.errors import StoreError, StoreUnreachable
from tickerforge.tasks.base.retries import is_transient
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.store.remote_files import _bucket_files
from tickerforge.tasks.store.shared_store import SharedStore


def build(at: Store) -> ArtifactRef:
    return at.build("windows", {}, lambda folder: None, code="v1")


@pytest.fixture
def fresh_client() -> Iterator[None]:
    """A client that takes its settings from the environment of this very test."""
    _bucket_files.cache_clear()
    yield
    _bucket_files.cache_clear()


@pytest.mark.parametrize("url", ["bucket/prefix", "gs://bucket", "s3://", "file://host/folder", "file:relative"])
def test_a_place_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match="not a place for a shared store: use s3://bucket/prefix or /mnt"):
        SharedStore(url)


@pytest.mark.parametrize("url", [f"s3://me:{SECRET}@bucket/prefix", f"s3://bucket/prefix?secret={SECRET}"])
def test_credentials_in_the_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(StoreError, match="AWS_SECRET_ACCESS_KEY") as caught:
        SharedStore(url)
    assert SECRET not in str(caught.value)


@pytest.mark.usefixtures("fresh_client")
def test_without_s3fs_the_error_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("s3fs", "s3fs.core"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(StoreError, match=r"pip install 'tickerforge\[s3\]'"):
        build(Store(tmp_path, SharedStore("s3://bucket/x")))


class Refusing(BaseHTTPRequestHandler):
    """A server that answers every request with the same error."""

    status, code = 403, "AccessDenied"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = f"<Error><Code>{self.code}</Code><Message>{SECRET}</Message></Error>".encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "code", "error", "said"),
    [
        (403, "AccessDenied", StoreError, r"refuses access \(AccessDenied\): check AWS_ACCESS_KEY_ID"),
        (400, "InvalidRequest", StoreError, r"cannot be used \(InvalidRequest\)"),
        (500, "InternalError", StoreUnreachable, r"does not answer \(InternalError\)"),
        (503, "SlowDown", StoreUnreachable, r"does not answer \(SlowDown\)"),
    ],
)
@pytest.mark.usefixtures("fresh_client")
def test_what_the_server_answers_decides_whether_another_attempt_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, code: str, error: type[Exception], said: str
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Refusing,), {"status": status, "code": code}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        use_server(monkeypatch, f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(error, match=said) as caught:
            build(Store(tmp_path, SharedStore("s3://bucket/x")))
    finally:
        server.shutdown()
        server.server_close()
        assert is_transient(caught.value) == (error is StoreUnreachable)
    assert SECRET not in str(caught.value)


@pytest.mark.usefixtures("fresh_client")
def test_a_server_that_does_not_answer_is_worth_another_attempt_and_its_address_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    use_server(monkeypatch, f"http://user:{SECRET}@127.0.0.1:1")
    with pytest.raises(StoreUnreachable, match="s3://bucket/x does not answer") as caught:
        build(Store(tmp_path, SharedStore("s3://bucket/x")))
    assert is_transient(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value)) + caplog.text


@pytest.mark.parametrize("call", ["copyfile", "scandir"])
def test_a_mounted_folder_that_does_not_answer_is_neither_absent_nor_damaged(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared").mkdir()
    shared = SharedStore(str(tmp_path / "shared"))

    def fill(folder: Path) -> None:
        for name in ("a.txt", "b.txt"):
            (folder / name).write_text(name)

    Store(tmp_path / "first", shared).build("windows", {}, fill, code="v1")
    stored = sorted(path.name for path in (tmp_path / "shared").rglob("*") if path.is_file())
    module = shutil if call == "copyfile" else os
    working = getattr(module, call)

    def stale(path: str, *arguments: object, **options: object) -> object:
        if str(path).startswith(str(tmp_path / "shared")):
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return working(path, *arguments, **options)

    monkeypatch.setattr(module, call, stale)
    if call == "copyfile":
        with pytest.raises(StoreUnreachable, match="does not answer"):
            Store(tmp_path / "second", shared).build("windows", {}, fill, code="v1")
    else:
        with pytest.raises(StoreUnreachable, match="does not answer"):
            shared.files.list("artifacts/")
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "shared").rglob("*") if path.is_file()) == stored


def test_without_a_shared_store_no_client_is_imported(tmp_path: Path) -> None:
    script = """
        import sys
        from tickerforge.tasks.store.records import list_records
        from tickerforge.tasks.store.artifacts import Store

        Store.current().build("windows", {}, lambda folder: None, code="v1")
        print({"fsspec", "s3fs", "botocore", "aiobotocore"} & set(sys.modules))
        list_records("nights")
        print({"s3fs", "botocore", "aiobotocore"} & set(sys.modules))
    """
    assert in_a_process(script, TICKERFORGE_HOME=str(tmp_path)) == "set()\nset()\n"
