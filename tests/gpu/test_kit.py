"""The kit for one GPU, with the tiny model on a CPU: its results, and that nothing outlives it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from service_home import wait_until
from trained_pieces import shared_store, tiny_base_model

pytestmark = pytest.mark.slow

KIT = Path(__file__).with_name("kit.py")
SECONDS = 300


def kit(tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    """Start the kit; its temporary files are in a folder of their own."""
    (tmp_path / "temporary").mkdir()
    model = tiny_base_model(shared_store()).location
    command = [sys.executable, str(KIT), "--model", model, "--out", str(tmp_path / "out"), "--quick", *options]
    env = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def test_its_results_say_what_each_part_did_and_what_was_left_out(tmp_path: Path) -> None:
    process = kit(tmp_path, "--only", "sampling, ")
    assert "Traceback" not in process.communicate(timeout=SECONDS)[1]
    assert process.returncode == 0
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    rows = {row["part"]: row for row in found["rows"]}
    assert rows["prime, transformers"]["loss"][0] > 0
    assert rows["sampling, transformers"]["tokens_per_second"] > 0
    assert all(row["peak_gib"] > 0 for row in rows.values() if "skipped" not in row)
    lines = (tmp_path / "out" / "gpu.md").read_text().splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[-len(rows) :]] == list(rows)
    assert not list((tmp_path / "temporary").glob("tickerforge-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_its_parts_end_with_it(tmp_path: Path, number: signal.Signals) -> None:
    process = kit(tmp_path, "--only", "prime, transformers")
    parts: list[psutil.Process] = []

    def has_started() -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(process.pid).children(recursive=True)
            # The kit watches it by now.
            old = [each for each in found if time.time() - each.create_time() > 1]
            parts.extend(each for each in old if "--part" in each.cmdline())
        return bool(parts)

    try:
        assert wait_until(has_started)
        process.send_signal(number)
        process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert not [part for part in parts if part.is_running() and part.status() != psutil.STATUS_ZOMBIE]
    assert not list((tmp_path / "temporary").glob("tickerforge-*"))
