"""A full disk, and artifacts that are damaged or deleted while runs use them."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checks import all_is_well
from operations import Operations
from tickerforge.flows.settings.config import PipelineConfig

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
]


@pytest.fixture
def small_disk(operations: Operations) -> Iterator[Path]:
    """A file system of 100 MB mounted over the store."""
    operations.store.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=100m", "tickerforge-chaos", str(operations.store)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system may be mounted here")
    try:
        yield operations.store
    finally:
        subprocess.run(["umount", "--lazy", str(operations.store)], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte free."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    assert shutil.disk_usage(folder).free == 0
    return ballast


@pytest.mark.parametrize("stage", ["base_model", "grpo_1st", "sft_data", "sft", "forecasts", "comparison"])
def test_a_full_disk_ends_the_run_with_its_cure_and_with_space_it_goes_on(
    operations: Operations, small_disk: Path, config: PipelineConfig, reference: dict[str, str], stage: str
) -> None:
    run = operations.train(config, heavy_stages="here")
    with operations.held_in(stage):
        ballast = fill(small_disk)
    assert operations.outcome(run) == "FAILED", operations.told(run)
    assert "disk is full" in operations.run(run)["state"]["message"]
    ballast.unlink()
    operations.completes(operations.train(config, heavy_stages="here"))
    all_is_well(operations, reference)


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda folder: spoil(folder / "adapter" / "adapter_model.safetensors"),
    "a file gone": lambda folder: (folder / "adapter" / "adapter_config.json").unlink(),
    "the manifest cut off": lambda folder: os.truncate(folder / "manifest.json", 40),
    "all gone": shutil.rmtree,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_artifacts_are_made_again_as_they_were(
    operations: Operations, config: PipelineConfig, reference: dict[str, str], damage: str
) -> None:
    operations.completes(operations.train(config, heavy_stages="here"))
    for stage in ("grpo_1st", "sft"):
        (folder,) = operations.store.glob(f"{stage}/*")
        DAMAGES[damage](folder)
    shutil.rmtree(operations.work / "models")
    operations.completes(operations.train(config, heavy_stages="here"))
    assert len(operations.versions()) == 1
    all_is_well(operations, reference)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("heavy_stages", ["here", "gpu-pool"])
def test_an_artifact_damaged_under_a_run_that_uses_it_spoils_nothing(
    operations: Operations, config: PipelineConfig, reference: dict[str, str], damage: str, heavy_stages: str
) -> None:
    run = operations.train(config, heavy_stages=heavy_stages)
    with operations.held_in("sft"):
        (folder,) = operations.store.glob("grpo_1st/*")
        DAMAGES[damage](folder)
    # It may notice and end with an error, or be done with the artifact; it must not use what is damaged.
    if operations.outcome(run) != "COMPLETED":
        operations.completes(operations.train(config, heavy_stages=heavy_stages))
    all_is_well(operations, reference)
