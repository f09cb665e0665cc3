"""Damage to a registered model on a running service: refused, named, and repaired by the next run."""

import shutil
from pathlib import Path

import pytest

from checks import all_is_well
from operations import Operations
from test_store_damage import spoil
from tickerforge.flows.settings.config import PipelineConfig

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
]

DAMAGES = {"a flipped bit": spoil, "a file gone": Path.unlink, "all gone": lambda path: shutil.rmtree(path.parent)}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "tickerforge.json"])
def test_a_damaged_version_forecasts_nothing_and_the_next_run_registers_it_again(
    operations: Operations, config: PipelineConfig, reference: dict[str, str], name: str, damage: str
) -> None:
    from mlflow import MlflowClient

    operations.completes(operations.train(config, heavy_stages="here"))
    (version,) = operations.versions()
    spec, dest = f"{config.stock}@{version.version}", operations.work / "pulled"
    assert operations.call("pull", spec, str(dest)).returncode == 0
    before = (dest / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(operations.workspace.pulled, ignore_errors=True)

    (path,) = operations.workspace.mlflow_artifacts.rglob(f"adapter/{name}")
    DAMAGES[damage](path)
    asked = ("forecast", "--stock", config.stock, "--alias", str(version.version))
    for refused in (operations.call("pull", spec, str(dest)), operations.call(*asked)):
        assert refused.returncode == 2
        assert f"{config.stock}/{version.version} is damaged in MLflow" in refused.stderr
    assert (dest / "adapter_model.safetensors").read_bytes() == before

    operations.completes(operations.train(config, heavy_stages="here"))
    assert len(operations.versions()) == 2
    assert operations.call("pull", f"{config.stock}@challenger", str(dest)).returncode == 0
    assert (dest / "adapter_model.safetensors").read_bytes() == before
    MlflowClient(operations.service.mlflow).delete_model_version(version.name, version.version)
    all_is_well(operations, reference)
