"""The command line in odd places: paths of any letters, no locale, no home folder, and folders of others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from plain_rights import obeying_rights
from tickerforge.features.config import SyntheticConfig
from tickerforge.features.synthetic import market
from tickerforge.tasks.prices.price_files import keep

COMMAND = Path(sys.executable).with_name("tickerforge")


def call(*arguments: str | Path, folder: Path, **environment: str | None) -> subprocess.CompletedProcess[str]:
    """Run the real command; a variable that is `None` is missing."""
    changed = {name: value for name, value in (os.environ | environment).items() if value is not None}
    line = [*obeying_rights(), COMMAND, *arguments]
    return subprocess.run(line, cwd=folder, env=changed, capture_output=True, text=True, check=False)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with spaces and letters of three alphabets, and prices in it."""
    folder = tmp_path / "Müller & Söhne" / "цены 価格"
    folder.mkdir(parents=True)
    keep(folder / "prices", "ACME", market(SyntheticConfig(sessions=400)))
    return folder


def test_paths_may_have_any_letters_without_a_locale_and_without_a_home_folder(place: Path) -> None:
    done = call(
        *("preprocess", "--root-path", place / "prices", "--report"),
        folder=place,
        LC_ALL="C",
        PYTHONUTF8="0",
        HOME=None,
        TICKERFORGE_HOME=None,
    )
    assert done.returncode == 0, done.stderr
    assert (place / "results" / "preprocessing" / "ACME.png").is_file()
    assert (place / ".tickerforge" / "cache" / "store" / "windows").is_dir()
    assert "results/preprocessing/ACME.png" in done.stdout


@pytest.mark.parametrize("command", [("run", "--stock", "ACME"), ("nightly",)], ids=lambda command: command[0])
def test_a_working_folder_that_cannot_be_written_is_refused_before_any_work(
    place: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    place.chmod(0o555)
    done = call(*command, "--data", "prices", folder=place, TICKERFORGE_HOME=str(tmp_path / "home"))
    place.chmod(0o755)
    assert done.returncode == 2, done.stderr
    assert f"{place} is not writable: results and models go to the working folder" in done.stderr
    assert not (tmp_path / "home").exists()


def test_the_home_of_another_user_is_refused_with_the_cure(place: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir(mode=0o000)
    done = call("preprocess", "--root-path", "prices", folder=place, TICKERFORGE_HOME=str(foreign))
    foreign.chmod(0o755)
    assert done.returncode == 2, done.stderr
    assert "Permission denied" in done.stderr
    assert "TICKERFORGE_HOME names the folder that you want" in done.stderr
