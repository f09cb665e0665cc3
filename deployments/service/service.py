"""The service on one machine: Prefect, MLflow, a worker per pool, and the deployments, without containers."""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import tickerforge.deployments.service.processes as processes
from tickerforge.deployments.service.addresses import (
    LOOPBACK,
    MLFLOW_PORT,
    PREFECT_PORT,
    Listening,
    check_environment,
    check_port,
    local_address,
    warn_of_others,
)
from tickerforge.deployments.service.database import Databases, databases
from tickerforge.deployments.service.health import health, wait_for_servers, wait_for_workers
from tickerforge.deployments.service.processes import SERVERS, WORKERS
from tickerforge.flows.errors import ConfigError
from tickerforge.flows.server.logs import send_to_prefect
from tickerforge.tasks.base.disk import locked, os_errors_as_store_error
from tickerforge.tasks.base.environment import keep_private, reach_directly, set_embedded_defaults
from tickerforge.tasks.base.paths import HOME_VARIABLE, Workspace
from tickerforge.tasks.base.service import (
    MARK,
    POLL_SECONDS,
    RECORD_FILE,
    Service,
    read_service,
    server_lock,
    service_folder,
    service_login,
    service_processes,
    write_service,
)

if TYPE_CHECKING:
    import psutil

logger = logging.getLogger(__name__)

_RUNS_END_SECONDS = 30
_MANAGER_END_SECONDS = 90
_MANAGER_EXIT_SECONDS = 5
# A socket's path has room for about 100 bytes, and supervisord appends its process id to it for a moment.
_LONGEST_SOCKET = 92
_SOCKET_FILE = "manager.sock"
_NOT_SETTLED = "Prefect does not answer: the next `tickerforge up` closes the runs that were stopped"
_WORKER_SETTINGS = {
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}


def start(
    workspace: Workspace, *, deploy: Callable[[Service], object], renew: bool, working_dir: Path, at: Listening
) -> Service:
    """Start everything that does not run yet, and return when it answers.

    Args:
        workspace: The home that keeps databases, logs and the record of the service.
        deploy: Creates pools and deployments; called when the servers answer.
        renew: Whether to call `deploy` even if the service runs already.
        working_dir: Folder to which runs write results and models.
        at: Address, ports, and whether there is a login.

    Raises:
        ConfigError: If host or ports cannot be used, or the environment names other servers.
        ServiceError: If a server does not start; what this call started is stopped again.
        StoreError: If the home cannot be written.
    """
    folder = service_folder(workspace)
    keep_private(workspace)
    with os_errors_as_store_error(folder, doing="preparing the service"):
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    with locked(folder / "up.lock", waiting_for="tickerforge up or down"):
        service = read_service(workspace)
        if service is not None and service.answers():
            _report_running(service, working_dir=working_dir, at=at)
            check_environment(service)
            return _complete(service, deploy if renew else None)
        # Remains of an earlier service would hold databases and ports.
        _stop(workspace)
        service, where = _plan(workspace, working_dir=working_dir, at=at)
        try:
            with server_lock(workspace, alone=True):
                # A command that waits for this lock then finds the record and a process manager that answers.
                _start_servers(workspace, service, where)
            return _complete(service, deploy, settle=True)
        except BaseException:
            logger.info("the start failed: stopping what was started")
            _stop(workspace)
            raise


def stop(workspace: Workspace) -> bool:
    """Stop everything: first runs, with time to report, then workers, then servers.

    Returns:
        Whether anything was running.

    Raises:
        StoreError: If the home cannot be written.
    """
    if read_service(workspace) is None:
        return _end_leftovers(workspace)
    with locked(service_folder(workspace) / "up.lock", waiting_for="tickerforge up or down"):
        return _stop(workspace)


def _complete(service: Service, deploy: Callable[[Service], object] | None, *, settle: bool = False) -> Service:
    reach_directly(service.address)
    processes.start_missing(service, SERVERS)
    wait_for_servers(service)
    os.environ.update(service.variables())
    if settle:
        # This imports Prefect, which reads its server's address from the environment on import.
        from tickerforge.deployments.service.orphans import settle_orphans

        settle_orphans()
    if deploy is not None:
        logger.info("both servers answer; creating the deployments")
        deploy(service)
    if started := processes.start_missing(service, WORKERS):
        logger.info("starting %s", " and ".join(started))
    wait_for_workers(service)
    return service


def _report_running(service: Service, *, working_dir: Path, at: Listening) -> None:
    logger.info("the service runs already")
    wanted = (at.host and local_address(at.host), at.prefect_port, at.mlflow_port)
    there = (service.address, service.prefect_port, service.mlflow_port)
    if any(asked not in (None, has) for asked, has in zip(wanted, there, strict=True)):
        logger.warning("the service keeps its addresses: to change them, call `tickerforge down` first")
    if at.login != bool(service.login):
        has, option = ("a login", "with --no-login") if service.login else ("no login", "without --no-login")
        logger.warning("the service has %s: to change that, call `tickerforge down`, then `up` %s", has, option)
    if working_dir.resolve() != Path(service.working_dir):
        logger.warning("runs still write to %s: to change that, call `tickerforge down` first", service.working_dir)


def _plan(workspace: Workspace, *, working_dir: Path, at: Listening) -> tuple[Service, Databases]:
    host = at.host or LOOPBACK
    prefect_port, mlflow_port = at.prefect_port or PREFECT_PORT, at.mlflow_port or MLFLOW_PORT
    address = local_address(host)
    if prefect_port == mlflow_port:
        raise ConfigError(f"Prefect and MLflow cannot both listen at port {mlflow_port}: choose two")
    check_port(host, prefect_port, option="--prefect-port", name="Prefect")
    check_port(host, mlflow_port, option="--mlflow-port", name="MLflow")
    where = databases(workspace)
    service = Service(
        prefect_api=f"http://{address}:{prefect_port}/api",
        mlflow=f"http://{address}:{mlflow_port}",
        socket="",
        working_dir=str(working_dir.resolve()),
        database=where.shown,
        host=host,
        login=service_login(workspace) if at.login else "",
    )
    check_environment(service)
    warn_of_others(service)
    return replace(service, socket=str(_socket_path(workspace))), where


def _start_servers(workspace: Workspace, service: Service, where: Databases) -> None:
    write_service(workspace, service)
    set_embedded_defaults(workspace)
    reach_directly(service.address)
    send_to_prefect()
    logger.info("starting Prefect and MLflow; their logs are in %s", service_folder(workspace) / "logs")
    environment = _environment(workspace, service, where)
    processes.start_manager(environment, folder=Path(service.working_dir))


def _environment(workspace: Workspace, service: Service, where: Databases) -> Mapping[str, str]:
    return {
        **os.environ,
        **{name: os.environ.get(name, value) for name, value in _WORKER_SETTINGS.items()},
        **service.variables(),
        HOME_VARIABLE: str(workspace.root),
        MARK: str(service_folder(workspace)),
        "TICKERFORGE_SOCKET": service.socket,
        "PREFECT_SERVER_UI_API_URL": "/api",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": service.prefect_ui,
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": where.prefect,
        # The default keeps leases in memory: a restart would lose them, and their slots would never be freed.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "MLFLOW_BACKEND_STORE_URI": where.mlflow,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": workspace.mlflow_artifacts.as_uri(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONUNBUFFERED": "1",
    }


def _socket_path(workspace: Workspace) -> Path:
    path = service_folder(workspace) / _SOCKET_FILE
    if len(os.fsencode(path)) <= _LONGEST_SOCKET:
        return path
    usual = tempfile.gettempdir()
    parent = usual if len(os.fsencode(usual)) < _LONGEST_SOCKET // 2 else "/tmp"
    return Path(tempfile.mkdtemp(prefix="tickerforge-", dir=parent)) / _SOCKET_FILE


def _forget_socket(workspace: Workspace, path: Path) -> None:
    path.unlink(missing_ok=True)
    if path.parent != service_folder(workspace) and path.parent.is_dir():
        path.parent.rmdir()


def _stop(workspace: Workspace) -> bool:
    service = read_service(workspace)
    if service is not None and service.answers():
        began = datetime.now(UTC)
        stopped_runs = _end_runs(workspace)
        processes.stop_programs(service, WORKERS)
        if stopped_runs:
            _settle(service, since=began)
        with processes.manager(service) as remote:
            remote.shutdown()
        deadline = time.monotonic() + _MANAGER_END_SECONDS
        while service.answers() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        # supervisord closes its socket shortly before it ends.
        _wait_for(list(service_processes(workspace)), seconds=_MANAGER_EXIT_SECONDS)
    ended = _end_leftovers(workspace)
    if service is not None:
        _forget_socket(workspace, Path(service.socket))
    (service_folder(workspace) / RECORD_FILE).unlink(missing_ok=True)
    return ended or service is not None


def _settle(service: Service, *, since: datetime) -> None:
    """Say in Prefect that the runs were stopped; close those whose last report it did not take, as SQLite was locked.

    If Prefect does not answer, the next `up` closes them.
    """
    if "prefect" in health(service):
        # Prefect's client would ask a server that hangs again and again, for many minutes.
        logger.warning(_NOT_SETTLED)
        return
    reach_directly(service.address)
    os.environ.update(service.variables())
    # This imports Prefect, which reads its server's address from the environment on import.
    from tickerforge.deployments.service.orphans import settle_orphans
    from tickerforge.tasks.base.retries import is_transient

    try:
        settle_orphans(stopped_since=since)
    except Exception as error:
        if not is_transient(error):
            raise
        logger.warning(_NOT_SETTLED)


def _end_runs(workspace: Workspace) -> int:
    """Stop the runs and return their number.

    They get time to report it to Prefect; a worker that ended first would kill them immediately.
    """
    runs = [each for name in WORKERS for each in service_processes(workspace, program=name) if processes.is_run(each)]
    if runs:
        logger.info("stopping %d runs", len(runs))
    for run in runs:
        processes.terminate(run)
    _wait_for(runs, seconds=_RUNS_END_SECONDS)
    return len(runs)


def _wait_for(ending: "list[psutil.Process]", *, seconds: float) -> None:
    import psutil

    psutil.wait_procs(ending, timeout=seconds)


def _end_leftovers(workspace: Workspace) -> bool:
    left = list(service_processes(workspace))
    if left:
        logger.info("ending %d processes that the service left behind", len(left))
        processes.end(left)
    return bool(left)
