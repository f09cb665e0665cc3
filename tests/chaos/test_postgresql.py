"""kill -9 of PostgreSQL, which holds the databases of both servers, in the middle of each stage."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from checks import all_is_well
from operations import STAGES, Operations, lasting
from postgres_server import postgres_server
from service_home import wait_until
from tickerforge.deployments.service.database import DATABASE_VARIABLE
from tickerforge.flows.settings.config import PipelineConfig

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
]


class Database:
    """A PostgreSQL server that can be killed, and started again as it was."""

    def __init__(self, place: str) -> None:
        self.port = int(place.rpartition(":")[2])
        main = self._main()
        assert main is not None
        self.command, self.folder = main.cmdline(), main.cwd()
        self.log = Path(self.folder).with_name("log")
        self.started: list[subprocess.Popen[bytes]] = []

    def _main(self) -> psutil.Process | None:
        listening = [each for each in psutil.net_connections("tcp4") if each.status == psutil.CONN_LISTEN]
        pids = [each.pid for each in listening if each.laddr.port == self.port and each.pid]
        return psutil.Process(pids[0]) if pids else None

    def _processes(self) -> list[psutil.Process]:
        """The server and its backends: all work in its data folder, also one that was forked a moment ago."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == self.folder:
                    found.append(process)
        return found

    def kill(self) -> None:
        assert self._main() is not None

        def gone() -> bool:
            left = self._processes()
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            return not left

        assert wait_until(gone)
        # Unless it is reaped, the next one takes it for alive.
        for process in self.started:
            process.wait()

    def start(self) -> None:
        nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
        for _ in range(20):
            with self.log.open("ab") as log:
                done = subprocess.Popen([*nobody, *self.command], cwd=self.folder, stdout=log, stderr=log)
            self.started.append(done)
            if wait_until(lambda done=done: self._main() or done.poll() is not None) and done.poll() is None:
                return
            # What is left of the killed one still holds its memory.
            time.sleep(1)
        raise AssertionError(f"PostgreSQL does not start again:\n{self.log.read_text()[-4000:]}")


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with postgres_server("secret") as place:
        made = Database(place)
        yield made
    for process in made.started:
        process.wait()


@pytest.fixture(scope="module")
def started(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    setting = {DATABASE_VARIABLE: f"postgresql://owner:secret@127.0.0.1:{database.port}/"}
    with lasting(tmp_path_factory.mktemp("chaos"), setting) as made:
        yield made


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_outlives_a_killed_database(
    operations: Operations, database: Database, config: PipelineConfig, reference: dict[str, str], stage: str
) -> None:
    run = operations.train(config, heavy_stages="here")
    with operations.held_in(stage):
        database.kill()
    database.start()
    operations.completes(run)
    all_is_well(operations, reference)


@pytest.mark.parametrize("stage", ["grpo_1st", "sft"])
def test_a_run_on_the_gpu_pool_outlives_a_database_that_is_away_for_half_a_minute(
    operations: Operations, database: Database, config: PipelineConfig, reference: dict[str, str], stage: str
) -> None:
    run = operations.train(config)
    with operations.held_in(stage):
        database.kill()
    time.sleep(30)
    database.start()
    operations.completes(run)
    all_is_well(operations, reference)
