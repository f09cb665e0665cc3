"""An S3 server of the tests, as the environment names it, and what lies in a shared store behind its back."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tickerforge.tasks.base.disk import tree_hashes

SECRET = "planted-secret-7Q"
BUCKET = "tickerforge-tests"


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of an S3 server of this process, without buckets."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def use_server(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


class Place:
    """A shared store, and what lies in it behind its back."""

    def __init__(self, url: str, root: Path | None = None, client: Any = None) -> None:
        self.url, self.root, self.client = url, root, client

    def names(self) -> list[str]:
        if self.root is not None:
            return sorted(tree_hashes(self.root))
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix="pre/fix/").get("Contents", [])
        return [item["Key"].removeprefix("pre/fix/") for item in found]

    def put(self, name: str, content: bytes) -> None:
        if self.root is not None:
            (self.root / name).write_bytes(content)
        else:
            self.client.put_object(Bucket=BUCKET, Key=f"pre/fix/{name}", Body=content)

    def remove(self, name: str) -> None:
        if self.root is not None:
            (self.root / name).unlink()
        else:
            self.client.delete_object(Bucket=BUCKET, Key=f"pre/fix/{name}")

    def named(self, ending: str) -> str:
        return next(name for name in self.names() if name.endswith(ending))


def in_a_process(script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
