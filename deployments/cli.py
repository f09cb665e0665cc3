"""The operating commands, beside those of `flows.cli.main`: `up`, `down`, `status`, `deploy`."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tickerforge.flows.cli import options
from tickerforge.flows.cli.main import app
from tickerforge.flows.cli.terminal import command, show

if TYPE_CHECKING:
    from rich.table import Table

    from tickerforge.deployments.service.processes import Program
    from tickerforge.tasks.base.service import Service

Tickers = Annotated[
    Path | None,
    typer.Option(help="Tickers that get deployments of their own, as a TOML file.", metavar="FILE.toml"),
]


def main() -> None:
    """Run the command line."""
    app()


@app.command(epilog="Example: tickerforge up --data prices/")
def up(
    data: options.Data = None,
    recipe: options.Recipe = None,
    tickers: Tickers = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="Where to listen. Beyond this machine there is no login: whoever reaches it can run code.",
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
    debug: options.Debug = False,
) -> None:
    """Start Prefect, MLflow and the workers.

    On this machine, with all deployments; returns when they answer. Runs leave results and models in the current
    folder. Other commands use the running service by themselves. Databases are SQLite files in TICKERFORGE_HOME, or
    on the PostgreSQL server that TICKERFORGE_DATABASE=postgresql://user:password@host/ names.
    """
    with command(debug=debug):
        from tickerforge.deployments.service.service import Listening, start
        from tickerforge.tasks.base.paths import Workspace

        service = start(
            Workspace.current(),
            deploy=lambda service: _deploy(Path(service.working_dir), data, recipe, tickers),
            renew=any(path is not None for path in (data, recipe, tickers)),
            working_dir=Path.cwd(),
            at=Listening(host=host, prefect_port=prefect_port, mlflow_port=mlflow_port),
        )
        show(_addresses(service))


@app.command(epilog="Example: tickerforge down")
def down(debug: options.Debug = False) -> None:
    """Stop what `tickerforge up` started.

    Runs under way are told to stop; the same run started again resumes.
    """
    with command(debug=debug):
        from tickerforge.deployments.service.service import stop
        from tickerforge.tasks.base.paths import Workspace

        show("stopped" if stop(Workspace.current()) else "nothing was running")


@app.command(epilog="Example: tickerforge status")
def status(debug: options.Debug = False) -> None:
    """Say what runs, since when, and where its log is.

    Ends with exit code 1 if anything of the service does not run or does not answer.
    """
    with command(debug=debug):
        from tickerforge.deployments.service.health import health
        from tickerforge.deployments.service.processes import programs
        from tickerforge.tasks.base.paths import Workspace
        from tickerforge.tasks.base.service import running_service

        service = running_service(Workspace.current())
        if service is None:
            show(f"no service runs in {Workspace.current().root}; `tickerforge up` starts one")
            raise typer.Exit(1)
        faults = health(service)
        found = programs(service)
        show(_table(found, faults))
        show(_addresses(service))
        show(f"logs in    {found[0].log.parent}")
        if faults or not all(program.state == "RUNNING" for program in found):
            raise typer.Exit(1)


@app.command(epilog="Example: tickerforge deploy --data prices/")
def deploy(
    data: options.Data = None,
    recipe: options.Recipe = None,
    tickers: Tickers = None,
    gpus: Annotated[
        int | None,
        typer.Option(
            help="How many heavy stages may run at a time, on all machines together.", min=1, show_default="1"
        ),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Renew pools, limits and deployments.

    On the running service, or on the Prefect server that PREFECT_API_URL names. What was switched off in the UI stays
    off, and options that are not given are as they were last time.
    """
    with command(debug=debug):
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


def _deploy(
    folder: Path, data: Path | None, recipe: Path | None, tickers: Path | None, *, gpus: int | None = None
) -> list[str]:
    from tickerforge.flows.server.embedded import wait_for_prefect

    wait_for_prefect()
    from tickerforge.deployments.prefect.choices import Choices, remember, with_former
    from tickerforge.deployments.prefect.deploy import deploy as deploy_all

    chosen = with_former(Choices(data=data, recipe=recipe, tickers=tickers, gpus=gpus).absolute())
    names = deploy_all(
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


def _addresses(service: "Service") -> str:
    return "\n".join(
        [
            f"Prefect    {service.prefect_ui}",
            f"MLflow     {service.mlflow}",
            f"databases  {service.database}",
            f"runs in    {service.working_dir}",
        ]
    )


if __name__ == "__main__":
    main()
