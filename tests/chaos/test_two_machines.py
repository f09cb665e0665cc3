"""A CPU machine and two GPU machines that share no folder, only an object store."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from checks import weights
from machines import DEPLOY, Cluster, Machine, cluster
from service_home import wait_until
from tickerforge.features.synthetic import market
from tickerforge.flows.settings.config import PipelineConfig, with_overrides

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
    # moto's server and boto use what Python 3.12 will drop.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

TRAIN, NIGHT = "train-ticker/1-train-one-stock", "nightly/2-retrain-all-stocks"
HEAVY = {"base_model", "grpo_1st", "sft_data", "sft", "grpo_2nd", "forecasts"}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("machines")) as made:
        yield made


@pytest.fixture(scope="module")
def cpu(servers: Cluster) -> Machine:
    """The machine of `cpu-pool`, from which everything is deployed."""
    machine = servers.machine("cpu")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DEPLOY, str(machine.work)],
        env=machine.variables(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    servers.start(machine, "prefect", "worker", "start", "--pool", "cpu-pool", "--limit", "4", log="cpu")
    return machine


@pytest.fixture(scope="module")
def gpus(servers: Cluster, cpu: Machine) -> list[Machine]:
    """Two machines of `gpu-pool`, which work in temporary folders."""
    pool = servers.api("/work_pools/gpu-pool")
    pool["base_job_template"]["variables"]["properties"]["working_dir"].pop("default", None)
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolUpdate
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: servers.shared["PREFECT_API_URL"]}),
        get_client(sync_client=True) as client,
    ):
        client.update_work_pool("gpu-pool", WorkPoolUpdate(base_job_template=pool["base_job_template"]))
    machines = [servers.machine("gpu1"), servers.machine("gpu2")]
    for machine in machines:
        name = machine.root.name
        servers.start(
            machine, "prefect", "worker", "start", "--pool", "gpu-pool", "--limit", "1", "--name", name, log=name
        )
    return machines


def market_of(config: PipelineConfig, stock: str) -> PipelineConfig:
    """The same for another stock of its own synthetic market."""
    return with_overrides(config, [f"stock={stock}", f"synthetic.ticker={stock}", f"synthetic.seed={len(stock)}"])


def first_request(run: Any) -> tuple[str, str]:
    """Stage and stock that a run of the GPU pool was asked for."""
    request = run["parameters"]["requests"][0]
    return request["stage"], request["config"]["stock"]


def test_a_run_on_two_machines_ends_with_the_very_adapters_of_a_run_on_one(
    servers: Cluster, cpu: Machine, gpus: list[Machine], config: PipelineConfig, reference: dict[str, str]
) -> None:
    run = servers.run(TRAIN, config)
    assert servers.outcome(run) == "COMPLETED", servers.logs()
    assert weights(cpu.work) == reference
    assert len(reference) == 3
    asked = [first_request(each) for each in servers.runs_of("heavy-stage")]
    assert {(stage, "DEMO") for stage in HEAVY} == set(asked)
    assert len(asked) == len(HEAVY)
    made = {path.name for machine in gpus for path in machine.store.iterdir()}
    assert made >= HEAVY
    assert not any((machine.work / "models").exists() for machine in gpus)
    assert not any((machine.store / "bars").exists() for machine in gpus)


def test_a_parent_that_was_killed_and_retried_waits_for_the_stage_that_runs_already(
    servers: Cluster, cpu: Machine, gpus: list[Machine], config: PipelineConfig
) -> None:
    run = servers.run(TRAIN, market_of(config, "KILL"))
    waiting = "grpo_1st of KILL is running on gpu-pool"

    def children() -> list[dict]:
        return [each for each in servers.runs_of("heavy-stage") if first_request(each) == ("grpo_1st", "KILL")]

    def told() -> int:
        return sum(path.read_text().count(waiting) for path in cpu.work.glob("results/KILL_*/pipeline.log"))

    assert wait_until(lambda: children() and children()[0]["state"]["type"] == "RUNNING", seconds=300), servers.logs()
    child = servers.process_of(children()[0]["id"])
    child.send_signal(signal.SIGSTOP)
    try:
        servers.process_of(run).kill()
        assert wait_until(lambda: servers.state(run) == "CRASHED"), servers.logs()
        before = told()
        again = {"type": "SCHEDULED", "name": "AwaitingRetry", "state_details": {}}
        servers.api(f"/flow_runs/{run}/set_state", {"state": again, "force": True})
        assert wait_until(lambda: told() > before, seconds=240), servers.logs()
    finally:
        child.send_signal(signal.SIGCONT)
    assert servers.outcome(run) == "COMPLETED", servers.logs()
    assert [each["state"]["type"] for each in children()] == ["COMPLETED"]
    assert children()[0]["run_count"] == 1


def test_one_heavy_stage_runs_at_a_time_and_a_second_run_of_a_ticker_waits_for_the_first(
    servers: Cluster, cpu: Machine, gpus: list[Machine], config: PipelineConfig
) -> None:
    before = {each["id"] for each in servers.runs_of("heavy-stage")}
    same = market_of(config, "SAME")
    first, second, other = (
        servers.run(TRAIN, same),
        servers.run(TRAIN, with_overrides(same, ["seed=5"])),
        servers.run(TRAIN, market_of(config, "OTHERS")),
    )
    assert [servers.outcome(run) for run in (first, second, other)] == ["COMPLETED"] * 3, servers.logs()
    heavy = [each["id"] for each in servers.runs_of("heavy-stage") if each["id"] not in before]
    spans = sorted(
        (min(start for start, _ in each), max(end for _, end in each)) for each in map(servers.spans, heavy) if each
    )
    assert len(spans) >= 2 * len(HEAVY)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    # Who comes first is the server's choice.
    one, two = sorted(sorted(servers.spans(run)) for run in (first, second))
    assert max(end for _, end in one) <= min(start for start, _ in two)
    assert all(any(machine.store.glob("grpo_1st/*")) for machine in gpus)


def test_a_night_with_a_faulty_ticker_does_the_other_and_ends_red_with_a_table(
    servers: Cluster, cpu: Machine, gpus: list[Machine], config: PipelineConfig
) -> None:
    prices = write_prices(servers.base / "prices", config)
    night = with_overrides(config, [f"data={prices}", "stock=GOOD", "warm_start=champion"])
    run = servers.run(NIGHT, night, tickers=["FAULT", "GOOD"], exchange=None)
    assert servers.outcome(run) == "FAILED", servers.logs()
    told = servers.api(f"/flow_runs/{run}")["state"]["message"]
    assert "1 failed" in told
    assert "FAULT: " in told
    assert "GOOD: " not in told
    (table,) = [each for each in servers.api("/artifacts/filter", {}) if each["key"] == "night"]
    rows = {row["Stock"]: row for row in json.loads(table["data"])}
    assert rows["FAULT"]["Outcome"] == "failed"
    assert "FAULT" in rows["FAULT"]["Why"]
    assert rows["GOOD"]["Outcome"] in ("kept", "promoted")
    assert rows["GOOD"]["Median (band)"]
    assert {path.parent.name for path in cpu.work.glob("models/tiny/GOOD/*/adapter_model.safetensors")} == {
        "grpo_lora_1st",
        "sft_lora",
        "grpo_lora_2nd",
    }


def write_prices(folder: Path, config: PipelineConfig) -> Path:
    folder.mkdir()
    names = ["Date", "Open", "High", "Low", "Close", "Adj Close", "Volume"]
    table = market(config.synthetic).set_axis(names, axis=1)
    table.to_csv(folder / "GOOD.csv", index=False, date_format="%Y-%m-%d")
    table.loc[50, "Close"] = -1.0
    table.to_csv(folder / "FAULT.csv", index=False, date_format="%Y-%m-%d")
    return folder
