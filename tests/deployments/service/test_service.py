import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread

import psutil
import pytest

from service_home import PATIENCE_SECONDS, Home, answers, free_port, wait_until, write_namesakes
from tickerforge.deployments.service import health
from tickerforge.deployments.service.processes import stop_programs
from tickerforge.deployments.service.service import Listening, start
from tickerforge.deployments.service.warm import RUN_NAME
from tickerforge.deployments.service.watchdog import Watchdog
from tickerforge.flows.errors import ConfigError
from tickerforge.tasks.base import service as records
from tickerforge.tasks.base.errors import ServiceError
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.base.service import server_lock, service_login

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# So long that no socket could be made there, and with a blank.
LONG_NAME = "a home with quite a long name, such as a temporary folder on a cluster has " + "x" * 60


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    base = tmp_path_factory.mktemp("service")
    made = Home(base / LONG_NAME, base / "work")
    write_namesakes(made.work)
    done = made.up()
    try:
        assert done.returncode == 0, done.stderr + made.logs()
        assert f"http://127.0.0.1:{made.prefect_port}\n" in done.stdout
        assert f"http://127.0.0.1:{made.mlflow_port}\n" in done.stdout
        yield made
    finally:
        made.call("down")


@pytest.fixture
def login(home: Home) -> Iterator[None]:
    with home.logged_in():
        yield


def test_everything_runs_and_status_says_since_when_and_where_the_logs_are(home: Home) -> None:
    assert wait_until(home.is_well), home.logs()
    done = home.call("status")
    assert done.returncode == 0, done.stdout
    for program in ("prefect", "mlflow", "cpu-worker", "gpu-worker"):
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(program)]
        assert " running " in line
        assert " 20" in line
        assert line.rstrip().endswith(f" {program}.log")
    assert "logs in" in done.stdout


def test_only_its_owner_reads_the_record_and_nobody_else_reaches_the_servers(home: Home) -> None:
    folder = home.root / "state" / "service"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "service.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(home.service.socket).parent.stat().st_mode) == 0o700
    found = home.listening()
    assert {f"127.0.0.1:{home.prefect_port}", f"127.0.0.1:{home.mlflow_port}"} <= found
    assert all(address.startswith("127.0.0.1:") for address in found)


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
# The first request needs nobody's consent, and the page may not see its answer; the others ask first.
PAGE = """<script>
const create = "{create}", body = "{{}}", json = {{"Content-Type": "application/json"}};
const tell = (name, request) => request.then(() => name + " sent", () => name + " refused");
const open = new Promise((yes, no) => {{
  const socket = new WebSocket("{events}", ["prefect"]); socket.onopen = yes; socket.onerror = no;
}});
Promise.all([
  tell("plain", fetch(create, {{method: "POST", mode: "no-cors", body, headers: {{"Content-Type": "text/plain"}}}})),
  tell("json", fetch(create, {{method: "POST", body, headers: json}})),
  tell("login", fetch(create, {{method: "POST", body, headers: {{...json, Authorization: "{login}"}}}})),
  tell("socket", open),
]).then(told => fetch("/told", {{method: "POST", body: told.join(", ")}}));
</script>"""


@contextmanager
def page_that_tells(page: str) -> Iterator[tuple[str, Queue[str]]]:
    """Serve a page; yield its address and what it sends back."""
    told: Queue[str] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def do_POST(self) -> None:
            told.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(HTTPStatus.NO_CONTENT)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", told
        finally:
            server.shutdown()
            thread.join()


PREFECT_READ, MLFLOW_READ = "/api/deployments/filter", "/api/2.0/mlflow/experiments/search"


@pytest.mark.parametrize(("server", "path"), [("prefect", PREFECT_READ), ("mlflow", MLFLOW_READ)])
@pytest.mark.parametrize("kind", ["application/json", "text/plain", None])
def test_only_the_owners_own_requests_are_answered(home: Home, server: str, path: str, kind: str | None) -> None:
    port = home.prefect_port if server == "prefect" else home.mlflow_port
    url, sent = f"http://127.0.0.1:{port}{path}", {} if kind is None else {"Content-Type": kind}
    elsewhere = {"Origin": "http://elsewhere.example"}
    assert status_of(url, sent) == 401
    assert status_of(url, sent | {"Authorization": "Basic dGlja2VyZm9yZ2U6d3Jvbmc="}) == 401
    assert status_of(url, sent | elsewhere) == 403
    assert status_of(url, sent | home.headers() | elsewhere) == 403
    assert status_of(url, sent | home.headers() | {"Host": f"elsewhere.example:{port}"}) == 403
    assert status_of(url, {"Content-Type": "application/json"} | home.headers()) == 200


def test_the_login_is_shown_to_its_owner_and_in_no_log_and_no_argument_list(home: Home) -> None:
    login = home.service.login
    password = login.partition(":")[2]
    assert len(password) >= 32
    file = home.root / "state" / "service" / "login"
    assert file.read_text().strip() == login
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert login in home.call("status").stdout
    assert all(password not in log.read_text(errors="replace") for log in (file.parent / "logs").iterdir())
    assert all(password not in " ".join(process.cmdline()) for process in home.processes())


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("curl"), reason="needs root, to become another user, and curl"
)
def test_another_user_of_this_machine_starts_nothing(home: Home) -> None:
    sleeper = home.api("/deployments/name/sleeper/test")["id"]
    before = home.api("/flow_runs/count", {})
    sent = (
        "--data",
        '{"job_variables": {"command": "touch /tmp/not-so"}}',
        "--header",
        "Content-Type: application/json",
    )
    create = f"http://127.0.0.1:{home.prefect_port}/api/deployments/{sleeper}/create_flow_run"
    register = f"{home.service.mlflow}/api/2.0/mlflow/registered-models/create"
    for url in (create, register):
        command = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", *sent, url]
        done = subprocess.run(command, user="nobody", cwd="/", capture_output=True, text=True, check=True)
        assert done.stdout == "401"
    assert home.api("/flow_runs/count", {}) == before


@pytest.mark.parametrize("path", ["events/in", "events/out", "logs/out"])
def test_a_websocket_opens_for_the_owner_only(home: Home, path: str) -> None:
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.sync.client import connect
    from websockets.typing import Origin, Subprotocol

    url, prefect = f"ws://127.0.0.1:{home.prefect_port}/api/{path}", [Subprotocol("prefect")]

    def answer(token: str | None) -> str:
        with connect(url, subprotocols=prefect, proxy=None) as socket:
            socket.send(json.dumps({"type": "auth", "token": token}))
            return str(json.loads(socket.recv(timeout=30))["type"])

    assert answer(home.service.login) == "auth_success"
    for token in (None, "tickerforge:wrong"):
        with pytest.raises(ConnectionClosed):
            answer(token)
    with pytest.raises(InvalidStatus):
        connect(url, proxy=None)
    with pytest.raises(InvalidStatus):
        connect(url, subprotocols=prefect, origin=Origin("http://elsewhere.example"), proxy=None)


@pytest.mark.skipif(not BROWSER, reason="needs chromium")
def test_a_page_in_a_real_browser_starts_nothing(home: Home, tmp_path: Path) -> None:
    sleeper = home.api("/deployments/name/sleeper/test")["id"]
    before = home.api("/flow_runs/count", {})
    # Even with the login, as if the browser had it.
    page = PAGE.format(
        create=f"http://127.0.0.1:{home.prefect_port}/api/deployments/{sleeper}/create_flow_run",
        events=f"ws://127.0.0.1:{home.prefect_port}/api/events/in",
        login=home.headers()["Authorization"],
    )
    with page_that_tells(page) as (address, told):
        options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}")
        # It stays open until it is stopped, so that a slow machine has the time it needs.
        command = [str(BROWSER), *options, "--remote-debugging-port=0", address]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
            try:
                assert told.get(timeout=PATIENCE_SECONDS) == "plain sent, json refused, login refused, socket refused"
            finally:
                browser.terminate()
    assert home.api("/flow_runs/count", {}) == before


def status_of(url: str, headers: dict[str, str]) -> int:
    """Return the status of a `POST` without filter; one without headers of its own is what a form of a page sends."""
    body = b'{"max_results": 1}' if "2.0" in url else b"{}"
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_commands_in_the_same_home_use_the_service_unless_told_otherwise(home: Home) -> None:
    code = (
        "import os; from tickerforge.tasks.base.environment import set_embedded_defaults\n"
        "from tickerforge.tasks.base.paths import Workspace\n"
        "set_embedded_defaults(Workspace.current())\n"
        "print(os.environ['PREFECT_API_URL'], os.environ['MLFLOW_TRACKING_URI'])"
    )

    def found(**environment: str) -> str:
        env = {**home.variables(), **environment}
        return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout

    prefect, mlflow = f"http://127.0.0.1:{home.prefect_port}/api", f"http://127.0.0.1:{home.mlflow_port}"
    assert found().split() == [prefect, mlflow]
    assert found(PREFECT_API_URL="http://other/api").split() == ["http://other/api", mlflow]


def test_a_model_that_was_registered_without_the_service_is_pulled_through_it_and_the_reverse(
    home: Home, login: None, tmp_path: Path
) -> None:
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    embedded, served = f"sqlite:///{home.workspace.mlflow_db}", home.service.mlflow
    (tmp_path / "adapter.txt").write_text("weights")
    for number, (writer, reader) in enumerate(((embedded, served), (served, embedded))):
        client = MlflowClient(writer)
        artifacts = home.workspace.mlflow_artifacts.as_uri() if writer == embedded else None
        experiment = client.create_experiment(f"experiment {number}", artifact_location=artifacts)
        run = client.create_run(experiment).info
        client.log_artifact(run.run_id, str(tmp_path / "adapter.txt"))
        client.create_registered_model(f"model-{number}")
        client.create_model_version(f"model-{number}", source=run.artifact_uri, run_id=run.run_id)
        folder = tmp_path / str(number)
        place = MlflowClient(reader).get_model_version_download_uri(f"model-{number}", "1")
        download_artifacts(place, dst_path=str(folder))
        assert [path.read_text() for path in folder.rglob("adapter.txt")] == ["weights"]


def test_commands_and_flow_runs_ignore_files_of_the_working_folder_that_are_named_like_our_packages(home: Home) -> None:
    done = home.call("doctor")
    assert done.returncode == 0, done.stdout
    filled = home.call("data", "synthetic", "--data", "prices")
    assert filled.returncode == 0, filled.stderr
    done = home.call("preprocess", "--root-path", "prices")
    assert done.returncode == 0, done.stderr
    run = home.start("forecast/test")
    assert wait_until(lambda: home.api(f"/flow_runs/{run}")["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED"))
    assert home.api(f"/flow_runs/{run}")["state"]["type"] == "COMPLETED", home.logs()


def test_a_second_up_starts_what_is_stopped_and_leaves_the_rest_alone(home: Home) -> None:
    stop_programs(home.service, ["cpu-worker"])
    assert home.call("status").returncode == 1
    before = home.pid("prefect")
    done = home.up()
    assert done.returncode == 0, done.stderr
    assert "runs already" in done.stderr
    assert home.pid("prefect") == before
    assert wait_until(home.is_well)


def test_a_server_that_hangs_and_a_worker_that_is_killed_come_back(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    # So that a server that is only slow does not count as one that hangs.
    monkeypatch.setattr(health, "_HEALTH_SECONDS", 15.0)
    assert wait_until(home.is_well), home.logs()
    ended = {name: home.pid(name) for name in ("mlflow", "gpu-worker")}
    watchdog = Watchdog(home.service, looks=2)
    assert watchdog.look() == []
    home.kill("gpu-worker")
    psutil.Process(ended["mlflow"]).suspend()
    assert watchdog.look() == []
    assert watchdog.look() == ["mlflow"]
    assert wait_until(lambda: all(home.pid(name) not in (0, pid) for name, pid in ended.items()))
    assert wait_until(home.is_well), home.logs()
    # A child of the killed server may have answered until now: its successor ends it first.
    assert wait_until(lambda: answers(f"{home.service.mlflow}/health")), home.logs()


def test_a_run_is_a_fork_of_a_process_that_has_imported_everything_and_ends_with_its_client(home: Home) -> None:
    run = home.start_sleeper("-")
    started = home.work / "sleeper.started"
    process = psutil.Process(int(started.read_text().split(",")[0].removeprefix("pid ")))
    assert process.name() == RUN_NAME
    parent = process.parent()
    assert parent is not None
    assert "tickerforge.deployments.service.warm" in parent.cmdline()
    (client,) = [
        each
        for each in home.processes()
        if "prefect.engine" in each.cmdline() and each.environ().get("PREFECT__FLOW_RUN_ID") == run
    ]
    client.kill()
    assert wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    assert parent.is_running()
    assert wait_until(lambda: home.api(f"/flow_runs/{run}")["state_type"] == "CRASHED")
    started.unlink()


def test_down_tells_runs_to_stop_and_leaves_no_process_and_no_port(home: Home) -> None:
    run = home.start_sleeper("-")
    place, login = Path(home.service.socket), home.service.login
    done = home.call("down")
    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(home.workspace.prefect_db)) as database:
        assert database.execute("SELECT state_type FROM flow_run WHERE id = ?", [run]).fetchone() == ("CRASHED",)
        latest = "SELECT s.message FROM flow_run r JOIN flow_run_state s ON s.id = r.state_id WHERE r.id = ?"
        assert "stopped by `tickerforge down`; press Retry" in database.execute(latest, [run]).fetchone()[0]
    assert (home.work / "sleeper.stopped").read_text() == "TerminationSignal"
    assert service_login(home.workspace) == login
    assert home.processes() == []
    assert not answers(f"http://127.0.0.1:{home.mlflow_port}/health")
    assert not place.parent.exists()
    assert not (home.root / "state" / "service" / "service.json").exists()
    again = home.call("down")
    assert (again.returncode, again.stdout.strip()) == (0, "nothing was running")
    assert home.call("status").returncode == 1


@pytest.mark.slow
@pytest.mark.chaos
def test_a_server_that_cannot_start_is_reported_with_its_log_and_nothing_is_left(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", tmp_path)
    home.workspace.mlflow_db.parent.mkdir(parents=True)
    home.workspace.mlflow_db.write_text("no database")
    done = home.up()
    assert done.returncode == 1
    assert "mlflow ended right after its start" in done.stderr
    assert "file is not a database" in done.stderr
    assert home.processes() == []
    assert not (home.root / "state" / "service" / "service.json").exists()


def attempt(home: Path, **at: object) -> None:
    start(
        Workspace(home),
        deploy=lambda service: None,
        renew=False,
        working_dir=home,
        at=Listening(**at),  # type: ignore[arg-type]
    )


def test_a_port_that_is_taken_is_named_with_the_option_that_chooses_another(tmp_path: Path) -> None:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(ConfigError, match=r"MLflow cannot listen at .*--mlflow-port"):
            attempt(tmp_path, prefect_port=free_port(), mlflow_port=listener.getsockname()[1])


@pytest.mark.parametrize(
    ("at", "told"),
    [
        ({"host": "everywhere"}, "is not an address"),
        ({"host": "192.0.2.7"}, "give --host an IPv4 address of this machine"),
        ({"prefect_port": 4999, "mlflow_port": 4999}, "choose two"),
    ],
)
def test_places_where_nobody_can_listen_are_refused(tmp_path: Path, at: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        attempt(tmp_path, **at)


def test_an_environment_that_names_another_server_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI is set to another server"):
        attempt(tmp_path, prefect_port=0, mlflow_port=1)


def test_the_service_does_not_share_a_database_with_a_command_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "RELEASE_SECONDS", 0)
    workspace = Workspace(tmp_path)
    with (
        server_lock(workspace, alone=False),
        pytest.raises(ServiceError, match="wait until it has ended"),
        server_lock(workspace, alone=True),
    ):
        pass
