"""Runs that compete, and runs that somebody cancels in the UI."""

import shutil
import time
from datetime import UTC, datetime, timedelta

import psutil
import pytest

from checks import all_is_well, nothing_is_half_registered
from operations import NIGHT, Operations
from service_home import wait_until
from tickerforge.flows.settings.config import PipelineConfig, with_overrides

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
]

CANCELLED_SECONDS = 30
WITHOUT_WORKER_SECONDS = 15


@pytest.mark.parametrize("heavy_stages", ["gpu-pool", "here"])
def test_a_run_that_is_cancelled_stops_its_stage_and_frees_its_slots_within_half_a_minute(
    operations: Operations, config: PipelineConfig, reference: dict[str, str], heavy_stages: str
) -> None:
    long = with_overrides(config, ["training.grpo_1st.steps=5000"])
    run = operations.train(long, heavy_stages=heavy_stages)
    with operations.held_in("grpo_1st") as process:
        pass
    cancelled = time.monotonic()
    operations.cancel(run)
    gone = wait_until(lambda: not is_alive(process), seconds=CANCELLED_SECONDS)
    assert gone, operations.told(run)
    operations.lets_go(seconds=CANCELLED_SECONDS - (time.monotonic() - cancelled))
    assert operations.outcome(run, seconds=60) == "CANCELLED"
    *before, last = [operations.outcome(child["id"], seconds=60) for child in operations.children(run)] or ["CANCELLED"]
    assert (set(before) <= {"COMPLETED"}, last) == (True, "CANCELLED")
    # What it had reached can be resumed.
    (partial,) = operations.store.glob("partial/grpo_1st-*")
    shutil.rmtree(partial)
    operations.completes(operations.train(config, heavy_stages=heavy_stages))
    all_is_well(operations, reference)


@pytest.mark.parametrize(("heavy_stages", "worker"), [("gpu-pool", "gpu-worker"), ("here", "cpu-worker")])
def test_a_run_whose_worker_died_is_cancelled_within_fifteen_seconds(
    operations: Operations, config: PipelineConfig, heavy_stages: str, worker: str
) -> None:
    long = with_overrides(config, ["training.grpo_1st.steps=5000"])
    run = operations.train(long, heavy_stages=heavy_stages)
    with operations.held_in("grpo_1st") as process:
        operations.kill(worker)
    at_work = operations.children(run)[-1]["id"] if heavy_stages == "gpu-pool" else run
    operations.cancel(at_work)
    gone = wait_until(lambda: not is_alive(process), seconds=WITHOUT_WORKER_SECONDS)
    assert gone, operations.told(at_work)
    assert operations.outcome(at_work, seconds=5) == "CANCELLED"
    # A run whose stage was cancelled fails, and lets go of its ticker.
    assert operations.outcome(run, seconds=60) in ("CANCELLED", "FAILED")
    operations.lets_go(seconds=5)


def test_a_night_started_by_hand_on_a_saturday_does_its_work(
    operations: Operations, config: PipelineConfig, reference: dict[str, str]
) -> None:
    today = datetime.now(UTC).replace(hour=18)
    saturday = today - timedelta(days=(today.weekday() - 5) % 7 or 7)
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": saturday.isoformat()}}
    night = {"tickers": ["DEMO"], "exchange": "XNYS", "heavy_stages": "here"}
    found = operations.api(f"/deployments/name/{NIGHT}")
    parameters = {**found["parameters"], "config": config.model_dump(mode="json"), **night}
    wanted = {"parameters": parameters, "state": state}
    run = str(operations.api(f"/deployments/{found['id']}/create_flow_run", wanted)["id"])
    operations.completes(run)
    assert operations.run(run)["state"]["name"] == "Completed"
    assert len(operations.versions()) == 1

    def says_so() -> bool:
        logs = operations.api("/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}})
        return any("1 of 1 tickers are done" in log["message"] for log in logs)

    # The last lines arrive after the state.
    assert wait_until(says_so, seconds=10)
    all_is_well(operations, reference)


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_two_nights_and_a_run_by_hand_at_once_take_turns_and_register_one_version(
    operations: Operations, config: PipelineConfig, reference: dict[str, str]
) -> None:
    night = {"tickers": ["DEMO"], "exchange": None, "heavy_stages": "here"}
    runs = [operations.train(config, NIGHT, **night) for _ in range(2)]
    by_hand = operations.train(config, heavy_stages="here")
    for run in (*runs, by_hand):
        operations.completes(run)
    first, second = sorted((operations.run(run) for run in runs), key=lambda each: each["start_time"])
    assert first["end_time"] <= second["start_time"]
    assert len(operations.versions()) == 1
    all_is_well(operations, reference)


def test_a_night_on_the_gpu_pool_whose_batch_is_killed_trains_it_again(
    operations: Operations, config: PipelineConfig, reference: dict[str, str]
) -> None:
    run = operations.train(config, NIGHT, tickers=["DEMO"], exchange=None, heavy_stages="gpu-pool")
    with operations.held_in("grpo_2nd") as process:
        process.kill()
    operations.completes(run)
    nothing_is_half_registered(operations)
    all_is_well(operations, reference)
