"""What must be true after every disturbance."""

import math
from pathlib import Path
from typing import Any

import pytest

from operations import NEEDED_TAGS, Operations, patience_with_mlflow
from tickerforge.features.synthetic import market
from tickerforge.tasks.base.disk import file_sha256
from tickerforge.tasks.models.training_log import read_metrics
from tiny_pipeline import tiny_config

STEPS = {"training.grpo_1st.steps": 6, "training.grpo_2nd.steps": 6, "training.sft.batch_size": 1}
WEIGHTS = "adapter_model.safetensors"


def weights(work: Path) -> dict[str, str]:
    """Hash the weights of a working folder's published adapters, by folder."""
    found = (work / "models").rglob(WEIGHTS)
    return {path.parent.relative_to(work / "models").as_posix(): file_sha256(path) for path in found}


def nothing_is_lost(operations: Operations, reference: dict[str, str]) -> None:
    """Check that the adapters equal those of an undisturbed run byte by byte, and no partial artifact is left."""
    assert weights(operations.work) == reference
    assert list(operations.store.glob("partial/*")) == []


def nothing_is_half_registered(operations: Operations) -> None:
    """Check that there is a version, every version has all its tags and forecasts, and every alias points to one."""
    import mlflow
    from mlflow import MlflowClient

    uri = operations.service.mlflow
    client, versions = MlflowClient(uri), operations.versions()
    numbers = {(each.name, str(each.version)) for each in versions}
    assert numbers
    for model in client.search_registered_models():
        aliases = client.get_registered_model(model.name).aliases
        assert "challenger" in aliases
        assert {(model.name, str(version)) for version in aliases.values()} <= numbers
    bars = market(tiny_config().synthetic)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)
        try:
            for each in versions:
                assert each.status == "READY"
                assert set(each.tags) >= NEEDED_TAGS, each
                loaded = mlflow.pyfunc.load_model(f"models:/{each.name}/{each.version}")
                assert len(loaded.predict(bars)) == tiny_config().features.horizon
        finally:
            mlflow.set_tracking_uri(None)


def mlflow_has_every_metric(operations: Operations) -> None:
    """Check that MLflow has every step of every stage's `metrics.jsonl`, and no open run.

    The last run holds neither the stages nor the registration that an earlier one has made.
    """
    from mlflow import MlflowClient

    client = MlflowClient(operations.service.mlflow)
    experiment = client.get_experiment_by_name("tickerforge").experiment_id
    runs = client.search_runs([experiment], order_by=["attributes.start_time DESC"])
    assert [run.info.run_name for run in runs if run.info.status == "RUNNING"] == []
    nested = {run.data.tags["stage"]: run for run in reversed(runs) if "store_key" in run.data.tags}
    assert {"grpo_1st", "sft_data", "sft", "grpo_2nd"} <= set(nested)
    assert "register" in {run.data.tags.get("stage") for run in runs}
    compared = 0
    for stage in ("grpo_1st", "sft", "grpo_2nd"):
        run = nested[stage]
        folder = operations.store / stage / run.data.tags["store_key"]
        for name, values in _by_name(read_metrics(folder / "metrics.jsonl")).items():
            history = {each.step: each.value for each in client.get_metric_history(run.info.run_id, f"curves/{name}")}
            assert history == pytest.approx(values), (stage, name)
            compared += len(values)
    assert compared > 0


def _by_name(rows: Any) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for step, values in rows:
        for name, value in values.items():
            if math.isfinite(value):
                found.setdefault(name, {})[step] = value
    return found


def all_is_well(operations: Operations, reference: dict[str, str]) -> float:
    """Check all of the above, and that nothing is held; returns the seconds until all slots and locks were free."""
    seconds = operations.lets_go()
    nothing_is_lost(operations, reference)
    with patience_with_mlflow():
        nothing_is_half_registered(operations)
        mlflow_has_every_metric(operations)
    return seconds
