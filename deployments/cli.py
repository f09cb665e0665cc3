"""The command `tickerforge`: the entry point, with the commands of the service; `flows.cli.commands` has the others."""

import os
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tickerforge.flows.cli import options
from tickerforge.flows.cli.commands import app
from tickerforge.flows.cli.terminal import complain, set_environment, show, terminal_session

if TYPE_CHECKING:
    from rich.table import Table

    from tickerforge.deployments.service.processes import Program
    from tickerforge.tasks.base.service import Service

_TickersFile = Annotated[
    Path | None,
    typer.Option("--tickers", help="TOML file of tickers with their own deployments.", metavar="FILE.toml"),
]


def main() -> None:
    """Run the command line."""
    if sys.getfilesystemencoding() == "ascii":
        # LC_ALL=C with PYTHONUTF8=0: paths and files with other letters could be neither shown nor read.
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONUTF8": "1"})
    app()


@app.command(epilog="Example: tickerforge up --data prices/")
def up(
    data: options.DataFolder = None,
    recipe: options.Recipe = None,
    tickers: _TickersFile = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="Address to listen at. Everyone who can reach it and has the login can run code.",
            show_default="127.0.0.1",
            metavar="ADDRESS",
        ),
    ] = None,
    prefect_port: Annotated[
        int | None,
        typer.Option(help="Port of Prefect.", min=1, max=65535, show_default="4200", metavar="PORT"),
    ] = None,
    mlflow_port: Annotated[
        int | None,
        typer.Option(help="Port of MLflow.", min=1, max=65535, show_default="5000", metavar="PORT"),
    ] = None,
    no_login: Annotated[
        bool,
        typer.Option("--no-login", help="Let every user of this machine use both servers, and so run code as you."),
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Start Prefect, MLflow and the workers on this machine.

    The command also creates all deployments, and returns when everything answers. Runs write results and models to
    the current folder. Other commands use the running service. The databases are SQLite files in TICKERFORGE_HOME, or
    on the PostgreSQL server in TICKERFORGE_DATABASE=postgresql://user:password@host/.
    """
    with terminal_session(debug=debug):
        from tickerforge.deployments.service.service import Listening, start
        from tickerforge.tasks.base.paths import Workspace

        service = start(
            Workspace.current(),
            deploy=lambda service: _deploy(Path(service.working_dir), data, recipe, tickers),
            renew=any(path is not None for path in (data, recipe, tickers)),
            working_dir=Path.cwd(),
            at=Listening(host=host, prefect_port=prefect_port, mlflow_port=mlflow_port, login=not no_login),
        )
        show(_addresses(service))


@app.command(epilog="Example: tickerforge down")
def down(debug: options.Debug = False) -> None:
    """Stop what `tickerforge up` started.

    Active runs stop first; a run that you start again resumes.
    """
    with terminal_session(debug=debug):
        from tickerforge.deployments.service.service import stop
        from tickerforge.tasks.base.paths import Workspace

        show("stopped" if stop(Workspace.current()) else "nothing was running")


@app.command(epilog="Example: tickerforge status")
def status(
    env: Annotated[
        bool,
        typer.Option("--env", help="Print only the lines that let `prefect` and `mlflow` in a shell use the service."),
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Show what runs, since when, where its log is, and the login of both pages.

    Ends with exit code 1 if a part of the service does not run or does not answer. `eval "$(tickerforge status --env)"`
    lets the commands `prefect` and `mlflow` in this shell use the service.
    """
    with terminal_session(debug=debug):
        from tickerforge.deployments.service.health import health
        from tickerforge.deployments.service.processes import programs
        from tickerforge.tasks.base.paths import Workspace
        from tickerforge.tasks.base.service import running_service

        service = running_service(Workspace.current())
        if service is None:
            # Not to stdout, whose lines a shell executes with --env.
            complain(f"no service runs in {Workspace.current().root}: start one with `tickerforge up`", label="")
            raise typer.Exit(1)
        if env:
            for name, value in service.variables().items():
                typer.echo(f"export {name}={shlex.quote(value)}")
            return
        faults = health(service)
        found = programs(service)
        show(_table(found, faults))
        show(_addresses(service))
        show(f"logs in    {found[0].log.parent}")
        if faults or not all(program.state == "RUNNING" for program in found):
            raise typer.Exit(1)


@app.command("deploy", epilog="Example: tickerforge deploy --data prices/ --gpus 2")
def deploy_command(
    data: options.DataFolder = None,
    recipe: options.Recipe = None,
    tickers: _TickersFile = None,
    gpus: Annotated[
        int | None,
        typer.Option(help="Most heavy stages at a time, on all machines together.", min=1, show_default="1"),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Update work pools, limits and deployments.

    The command uses the running service, or the Prefect server at PREFECT_API_URL. Schedules that you switched off in
    the UI stay off. An option that you leave out keeps its value from the last time.
    """
    with terminal_session(debug=debug):
        import os

        from tickerforge.flows.errors import ConfigError
        from tickerforge.tasks.base.environment import set_embedded_defaults
        from tickerforge.tasks.base.paths import Workspace
        from tickerforge.tasks.base.service import running_service

        workspace = Workspace.current()
        set_embedded_defaults(workspace)
        if not os.environ.get("PREFECT_API_URL"):
            raise ConfigError("no Prefect server to deploy to: start one with `tickerforge up`, or set PREFECT_API_URL")
        service = running_service(workspace)
        folder = Path(service.working_dir) if service else Path.cwd()
        for name in _deploy(folder, data, recipe, tickers, gpus=gpus):
            show(name)


@app.command("serve", epilog="Example: tickerforge serve --data prices/")
def serve_command(
    data: options.DataFolder = None,
    recipe: options.Recipe = None,
    set_: options.Assignments = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at. Everyone who can reach it needs the login.", metavar="ADDRESS")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.", min=1, max=65535, metavar="PORT")] = 8000,
    no_login: Annotated[
        bool, typer.Option("--no-login", help="Answer every program that can reach the address.")
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Serve forecasts as JSON, and the desk as a page.

    GET /forecast/AAPL makes a forecast of the next sessions, as `tickerforge forecast` does, and does not record it.
    GET /forecasts has the latest issued forecasts of all tickers, / the desk, and /openapi.json describes all of it.
    The login is that of `tickerforge up`.
    """
    with terminal_session(debug=debug):
        from tickerforge.deployments.service.addresses import check_port, known_names, local_address
        from tickerforge.flows.settings.config import build_config
        from tickerforge.tasks.base.gate import Gate
        from tickerforge.tasks.base.paths import Workspace
        from tickerforge.tasks.base.service import service_login

        config = build_config(recipe=recipe, flags={"data": data}, assignments=set_ or ())
        address = f"http://{local_address(host)}:{port}"
        check_port(host, port, option="--port", name="tickerforge serve")
        set_environment()
        import uvicorn

        from tickerforge.deployments.service.forecasts import forecasts_app

        login = None if no_login else service_login(Workspace.current())
        gate = Gate(forecasts_app(config), hosts=known_names(host), login=login)
        user, _, password = (login or "").partition(":")
        show(f"serving at {address}, {f'user {user}, password {password}' if login else 'without a login'}")
        uvicorn.run(gate, host=host, port=port, log_level="warning")


@app.command("prune", epilog="Example: tickerforge prune --keep-nights 30 --dry-run")
def prune_command(
    keep_nights: Annotated[int, typer.Option(help="Number of the latest nights to keep.", min=1, metavar="NIGHTS")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    debug: options.Debug = False,
) -> None:
    """Remove what only earlier nights need: runs, results, artifacts, old versions and logs.

    Champions, challengers, the version to which a rollback returns, issued forecasts and everything that an active run
    uses stay. The command also works while the service runs. If it is interrupted, run it again.
    """
    with terminal_session(debug=debug):
        set_environment()
        from tickerforge.deployments.service.database import DATABASE_VARIABLE, databases
        from tickerforge.flows.cli.prune import prune
        from tickerforge.flows.errors import ConfigError
        from tickerforge.tasks.base.paths import Workspace
        from tickerforge.tasks.base.service import running_service

        workspace = Workspace.current()
        found, service = databases(workspace), running_service(workspace)
        if service is not None and service.database != found.shown:
            raise ConfigError(
                f"the service uses {service.database}, and this command {found.shown}: set {DATABASE_VARIABLE} as for "
                "`tickerforge up`"
            )
        prune(workspace, prefect=found.prefect, mlflow=found.mlflow, keep_nights=keep_nights, dry_run=dry_run, yes=yes)


def _deploy(
    folder: Path, data: Path | None, recipe: Path | None, tickers: Path | None, *, gpus: int | None = None
) -> list[str]:
    from tickerforge.flows.server.embedded import wait_for_prefect

    wait_for_prefect()
    from tickerforge.deployments.prefect.choices import Choices, remember, with_former
    from tickerforge.deployments.prefect.deploy import deploy

    chosen = with_former(Choices(data=data, recipe=recipe, tickers=tickers, gpus=gpus).absolute())
    names = deploy(
        working_dir=folder,
        data=chosen.data,
        recipe=chosen.recipe,
        tickers=chosen.tickers,
        gpus=chosen.gpus or 1,
    )
    remember(chosen)
    return names


def _table(found: "list[Program]", faults: dict[str, str]) -> "Table":
    from rich.table import Table

    table = Table("", "state", "since", "process", "log", box=None, pad_edge=False)
    for program in found:
        state = program.state.lower()
        if program.name in faults and program.runs:
            state += f", does not answer ({faults[program.name]})"
        since = datetime.fromtimestamp(program.started).astimezone() if program.runs else None
        table.add_row(
            program.name,
            state,
            f"{since:%Y-%m-%d %H:%M:%S %Z}" if since else "",
            str(program.pid) if program.pid else "",
            program.log.name,
        )
    return table


def _login(service: "Service") -> str:
    if not service.login:
        return "none: every user of this machine can use both"
    user, _, password = service.login.partition(":")
    return f"user {user}, password {password}; in one line, for Prefect's page: {service.login}"


def _addresses(service: "Service") -> str:
    return "\n".join(
        [
            f"Prefect    {service.prefect_ui}",
            f"MLflow     {service.mlflow}",
            f"login      {_login(service)}",
            f"databases  {service.database}",
            f"runs in    {service.working_dir}",
        ]
    )


if __name__ == "__main__":
    main()
