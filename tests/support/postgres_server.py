"""A PostgreSQL server of a test's own, where its binaries are installed."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service_home import free_port


def binaries() -> Path:
    """The folder with initdb and pg_ctl; skips the test where there is none."""
    on_path = shutil.which("initdb")
    found = [Path(on_path)] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed")
    return found[-1].parent


@contextmanager
def postgres_server(password: str) -> Iterator[str]:
    """Run a server whose user `owner` has this password; yields `host:port`."""
    folder = Path(tempfile.mkdtemp(prefix="tickerforge-postgres-"))
    secret = folder / "password"
    secret.write_text(password)
    # It refuses to run as root.
    nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
    if nobody:
        shutil.chown(folder, "nobody", "nogroup")
        shutil.chown(secret, "nobody", "nogroup")
    port, data, where = free_port(), folder / "data", binaries()

    def call(name: str, *arguments: str) -> None:
        command = [*nobody, str(where / name), "-D", str(data), *arguments]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=60)

    try:
        call("initdb", "-U", "owner", "-A", "scram-sha-256", "--pwfile", str(secret), "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        call("pg_ctl", "-w", "-o", options, "-l", str(folder / "log"), "start")
        try:
            yield f"127.0.0.1:{port}"
        finally:
            call("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
