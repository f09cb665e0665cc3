"""MLflow down for a whole training, Prefect down for a minute; all in another time zone than the exchange's."""

import time

import pytest

from checks import all_is_well
from operations import Operations
from service_home import wait_until
from tickerforge.deployments.service.processes import start_missing, stop_programs
from tickerforge.flows.settings.config import PipelineConfig

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
]

SERVICE = {"TZ": "Pacific/Auckland"}


@pytest.mark.parametrize("heavy_stages", ["here", "gpu-pool"])
def test_mlflow_gets_everything_of_a_training_that_it_missed(
    operations: Operations, config: PipelineConfig, reference: dict[str, str], heavy_stages: str
) -> None:
    stop_programs(operations.service, ["mlflow"])
    run = operations.train(config, heavy_stages=heavy_stages)
    try:
        assert wait_until(lambda: any(operations.store.glob("grpo_2nd/*")), seconds=420), operations.told(run)
    finally:
        start_missing(operations.service, ["mlflow"])
    operations.completes(run)
    all_is_well(operations, reference)


@pytest.mark.parametrize("heavy_stages", ["gpu-pool", "here"])
def test_a_training_outlives_a_minute_without_prefect(
    operations: Operations, config: PipelineConfig, reference: dict[str, str], heavy_stages: str
) -> None:
    run = operations.train(config, heavy_stages=heavy_stages)
    with operations.held_in("grpo_1st"):
        stop_programs(operations.service, ["prefect"])
    time.sleep(60)
    start_missing(operations.service, ["prefect"])
    operations.completes(run)
    all_is_well(operations, reference)


def test_times_in_mlflow_are_true_whatever_the_clock_on_the_wall_shows(
    operations: Operations, config: PipelineConfig, reference: dict[str, str]
) -> None:
    from mlflow import MlflowClient

    began = time.time()
    operations.completes(operations.train(config, heavy_stages="here"))
    ended = time.time()
    client = MlflowClient(operations.service.mlflow)
    experiment = client.get_experiment_by_name("tickerforge").experiment_id
    runs = client.search_runs([experiment], filter_string=f"attributes.start_time >= {round(began * 1000) - 1}")
    assert {"grpo_1st", "sft", "grpo_2nd", "register"} <= {run.data.tags.get("stage") for run in runs}
    for run in runs:
        assert run.info.start_time <= run.info.end_time <= ended * 1000 + 1
    all_is_well(operations, reference)
