import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from tickerforge.features.atomic import atomic_path, write_atomically


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "former")
    with atomic_path(path) as partial:
        partial.write_text("ne")
        assert path.read_text() == "former"
        partial.write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_text_is_utf8_and_bytes_stay_as_they_are(tmp_path: Path) -> None:
    write_atomically(tmp_path / "text", "σ\r\n")
    write_atomically(tmp_path / "bytes", b"\x00\xff")
    assert (tmp_path / "text").read_bytes() == "σ\r\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"


def test_a_failed_write_leaves_the_former_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("former")

    def fill(partial: Path) -> None:
        partial.write_text("half")
        raise OSError("no space on the disk")

    with pytest.raises(OSError, match="disk"), atomic_path(path) as partial:
        fill(partial)
    assert path.read_text() == "former"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_a_killed_writer_left_is_gone_after_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    script = """
        import os, signal, sys
        from pathlib import Path
        from tickerforge.features.atomic import atomic_path

        with atomic_path(Path(sys.argv[1])) as partial:
            partial.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [name for name in os.listdir(tmp_path) if name != "a.txt"]
    assert not path.exists()
    write_atomically(path, "whole")
    assert os.listdir(tmp_path) == ["a.txt"]


def test_many_writers_of_a_shared_file_do_not_mix_their_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"

    def write(letter: str) -> None:
        for _ in range(20):
            with atomic_path(path, shared=True) as partial, partial.open("w") as file:
                for _ in range(10):
                    file.write(letter * 1000)
                    file.flush()

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in {letter * 10_000 for letter in "abc"}
    assert os.listdir(tmp_path) == ["a.txt"]
