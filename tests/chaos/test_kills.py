"""kill -9 and SIGTERM in the middle of each stage: of runs, of stages on the pool, of workers, of servers."""

import signal

import psutil
import pytest

from checks import all_is_well
from operations import STAGES, TRAINED, Operations
from tickerforge.flows.settings.config import PipelineConfig

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
]


def started_again(operations: Operations, config: PipelineConfig, **parameters: str) -> None:
    """Start the same run again, as its user or the next night would."""
    operations.completes(operations.train(config, **parameters))


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_is_killed_is_seen_as_crashed_and_goes_on_from_there_when_started_again(
    operations: Operations, config: PipelineConfig, reference: dict[str, str], stage: str
) -> None:
    run = operations.train(config, heavy_stages="here")
    with operations.held_in(stage) as process:
        process.kill()
    assert operations.outcome(run, seconds=60) == "CRASHED"
    started_again(operations, config, heavy_stages="here")
    all_is_well(operations, reference)


def test_a_run_that_is_killed_while_it_registers_leaves_no_half_version(
    operations: Operations, config: PipelineConfig, reference: dict[str, str]
) -> None:
    run = operations.train(config, heavy_stages="here")
    with operations.held_while_registering(run) as process:
        process.kill()
    assert operations.outcome(run, seconds=60) == "CRASHED"
    assert operations.versions() == []
    started_again(operations, config, heavy_stages="here")
    assert len(operations.versions()) == 1
    all_is_well(operations, reference)


@pytest.mark.parametrize("stage", TRAINED)
def test_a_stage_that_is_killed_on_the_gpu_pool_is_started_again_by_its_run(
    operations: Operations, config: PipelineConfig, reference: dict[str, str], stage: str
) -> None:
    run = operations.train(config)
    with operations.held_in(stage) as process:
        process.kill()
    operations.completes(run)
    all_is_well(operations, reference)


def test_a_run_that_is_killed_while_the_gpu_pool_works_for_it_loses_none_of_that_work(
    operations: Operations, config: PipelineConfig, reference: dict[str, str]
) -> None:
    run = operations.train(config)
    with operations.held_in("grpo_1st"):
        operations.process_of(run).kill()
    assert operations.outcome(run, seconds=60) == "CRASHED"
    started_again(operations, config)
    all_is_well(operations, reference)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("victim", ["prefect", "mlflow", "cpu-worker"])
def test_a_run_outlives_a_killed_server_or_worker(
    operations: Operations, config: PipelineConfig, reference: dict[str, str], stage: str, victim: str
) -> None:
    run = operations.train(config, heavy_stages="here")
    with operations.held_in(stage):
        operations.kill(victim)
    operations.completes(run)
    all_is_well(operations, reference)


@pytest.mark.parametrize("victim", ["prefect", "mlflow", "cpu-worker"])
def test_a_registration_outlives_a_killed_server_or_worker(
    operations: Operations, config: PipelineConfig, reference: dict[str, str], victim: str
) -> None:
    run = operations.train(config, heavy_stages="here")
    with operations.held_while_registering(run):
        operations.kill(victim)
    operations.completes(run)
    assert len(operations.versions()) == 1
    all_is_well(operations, reference)


@pytest.mark.parametrize("victim", ["prefect", "mlflow", "cpu-worker", "gpu-worker"])
def test_a_run_on_the_gpu_pool_outlives_a_killed_server_or_worker(
    operations: Operations, config: PipelineConfig, reference: dict[str, str], victim: str
) -> None:
    run = operations.train(config)
    with operations.held_in("grpo_1st"):
        operations.kill(victim)
    operations.completes(run)
    all_is_well(operations, reference)


@pytest.mark.parametrize("victim", ["cpu-worker", "gpu-worker"])
def test_after_sigterm_to_a_worker_the_same_run_ends_well_by_itself_or_started_again(
    operations: Operations, config: PipelineConfig, reference: dict[str, str], victim: str
) -> None:
    run = operations.train(config)
    with operations.held_in("grpo_1st"):
        psutil.Process(operations.pid(victim)).send_signal(signal.SIGTERM)
    # Where the worker took its run along, silence tells after three minutes.
    if operations.outcome(run) != "COMPLETED":
        assert victim == "cpu-worker", operations.told(run)
        started_again(operations, config)
    all_is_well(operations, reference)


def test_the_whole_machine_dies_and_the_service_is_started_again(
    operations: Operations, config: PipelineConfig, reference: dict[str, str]
) -> None:
    operations.train(config)
    with operations.held_in("sft"):
        for process in operations.processes():
            process.kill()
    assert operations.up().returncode == 0
    started_again(operations, config)
    all_is_well(operations, reference)
