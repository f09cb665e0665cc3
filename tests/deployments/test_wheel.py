"""The wheel: one package with all its files, and a command that works where nothing else of the project is."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("features", "training", "evaluation", "tasks", "flows", "deployments")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheel is built from, so that building leaves nothing in the working tree."""
    folder = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by pip with the installed setuptools."""
    dist = tmp_path_factory.mktemp("dist")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(dist), str(source))
    (built,) = dist.glob("*.whl")
    return built


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_one_package_with_every_module_and_data_file(source: Path, wheel: Path) -> None:
    names = {Path(name) for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    ours = {name.relative_to("tickerforge") for name in names if name.parts[0] == "tickerforge"}
    assert {name.parts[0].endswith(".dist-info") for name in names if name.parts[0] != "tickerforge"} == {True}
    wanted = {path.relative_to(source) for name in PACKAGES for path in (source / name).rglob("*") if path.is_file()}
    assert ours == wanted
    assert {
        Path("features/py.typed"),
        Path("evaluation/report/report.html.j2"),
        Path("evaluation/report/desk.js"),
        Path("deployments/prefect.yaml"),
        Path("deployments/recipes/demo.toml"),
        Path("deployments/kubernetes/gpu-pool.json"),
        Path("deployments/service/supervisord.conf"),
    } <= ours


@pytest.mark.nightly
def test_the_installed_wheel_passes_its_own_diagnosis_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    environment, empty = tmp_path / "environment", tmp_path / "empty"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    pip("--python", str(environment / "bin" / "python"), "install", "--no-deps", "--no-index", str(wheel))
    # The dependencies come from this environment. A folder named in a .pth file does not get its own .pth files run, so
    # the editable installation of the working tree stays out.
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(str(distribution("prefect").locate_file("")))
    empty.mkdir()
    shared = ("PREFECT_", "MLFLOW_", "TICKERFORGE_", "PYTHON")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(shared)}

    def call(*command: str) -> "subprocess.CompletedProcess[str]":
        program = str(environment / "bin" / command[0])
        return subprocess.run(
            [program, *command[1:]], cwd=empty, env=variables, capture_output=True, text=True, check=False
        )

    done = call("tickerforge", "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in empty.iterdir()] == [".tickerforge"]
    where = call("python", "-c", "import tickerforge.deployments.cli as cli; print(cli.__file__)").stdout.strip()
    assert Path(where).is_relative_to(site)
