"""A service at this machine's own address behind a proxy that refuses everything: nothing of it asks the proxy."""

import socket
from pathlib import Path

import pytest

from operations import Operations
from refusing_proxy import refusing_proxy
from tickerforge.flows.settings.config import PipelineConfig

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
]


def own_address() -> str:
    """An address of this machine other than loopback; 127.0.0.2 if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: the system only chooses the address that it would use.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.2"
        return str(probe.getsockname()[0])


@pytest.mark.parametrize(("host", "no_proxy"), [("127.0.0.1", ""), ("own", "localhost")])
def test_a_service_and_its_runs_never_ask_the_proxy_for_this_machine(
    host: str, no_proxy: str, config: PipelineConfig, tmp_path: Path
) -> None:
    host = own_address() if host == "own" else host
    with refusing_proxy() as (proxied, asked):
        environment = {**proxied, "NO_PROXY": no_proxy, "no_proxy": no_proxy}
        made = Operations(tmp_path / "home", tmp_path / "work", environment)
        try:
            done = made.up("--host", host)
            assert done.returncode == 0, done.stdout + done.stderr
            assert f"http://{host}:{made.mlflow_port}" in done.stdout
            status = made.call("status")
            assert status.returncode == 0, status.stdout
            with made.logged_in():
                # A worker starts it; the run asks MLflow for a champion, and the free forecaster answers.
                run = made.start(
                    "forecast/3-forecast-all-stocks", config=config.model_dump(mode="json"), tickers=["DEMO"]
                )
                assert made.outcome(run, seconds=120) == "COMPLETED", made.logs()[-4000:]
        finally:
            down = made.call("down")
            for process in made.processes():
                process.kill()
    assert down.returncode == 0
    assert asked == []
