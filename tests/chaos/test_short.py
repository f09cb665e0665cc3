"""The most frequent faults, on one service. Run it first: `pytest -m chaos tests/chaos/test_short.py`."""

import time

import pytest

from checks import all_is_well
from operations import Operations
from service_home import wait_until
from tickerforge.flows.settings.config import PipelineConfig

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
]

CANCELLED_SECONDS = 30


def test_a_run_that_is_cancelled_in_the_ui_is_gone_with_its_slot_within_half_a_minute(
    operations: Operations, config: PipelineConfig
) -> None:
    run = operations.train(config, heavy_stages="here")
    with operations.held_in("base_model") as process:
        operations.cancel(run)
    cancelled = time.monotonic()
    assert wait_until(lambda: not process.is_running(), seconds=CANCELLED_SECONDS), operations.told(run)
    operations.lets_go(seconds=CANCELLED_SECONDS - (time.monotonic() - cancelled))
    assert operations.outcome(run, seconds=CANCELLED_SECONDS) == "CANCELLED"


def test_a_run_outlives_the_death_of_both_servers_and_its_worker(
    operations: Operations, config: PipelineConfig, reference: dict[str, str]
) -> None:
    run = operations.train(config, heavy_stages="here")
    with operations.held_in("grpo_1st"):
        for victim in ("prefect", "mlflow", "cpu-worker"):
            operations.kill(victim)
    operations.completes(run)
    all_is_well(operations, reference)
