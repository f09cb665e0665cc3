"""What all commands share at the terminal: results, error messages, signals and exit codes."""

import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console, RenderableType

PIPED_WIDTH = 200


@contextmanager
def terminal_session(*, debug: bool) -> Iterator[None]:
    """Show log lines while a command runs, and turn its failure into a message and an exit code."""
    from tickerforge.flows.server.logs import show_on_terminal

    show_on_terminal(debug=debug)
    # Without this a SIGTERM would end the process before Prefect has reported the run as stopped.
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except (typer.Exit, SystemExit):
        # SystemExit: rich raises it when the reader of a pipe is gone, as in `tickerforge … | head`.
        raise
    except BaseException as error:  # noqa: BLE001 - the one place where every failure becomes an exit code
        from tickerforge.flows.server import outcome

        code = outcome.exit_code(error)
        if code == outcome.INTERRUPTED:
            complain("stopped; run the same command again to resume", label="")
        elif code == outcome.TERMINATED:
            complain("terminated; run the same command again to resume", label="")
        else:
            if debug:
                traceback.print_exception(error)
            complain(outcome.message(error))
        raise typer.Exit(code) from None
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminate(number: int, frame: object) -> None:
    from tickerforge.flows.server.outcome import Terminated

    raise Terminated


def set_environment() -> None:
    """Set the environment that Prefect and MLflow read when they are imported."""
    from tickerforge.tasks.base.environment import set_embedded_defaults
    from tickerforge.tasks.base.paths import Workspace

    set_embedded_defaults(Workspace.current())


def show(what: RenderableType) -> None:
    """Print a table or sentences on standard output."""
    terminal = Console(highlight=False)
    # Without a terminal rich would assume a width of 80 columns and wrap the tables.
    console = terminal if terminal.is_terminal else Console(highlight=False, width=PIPED_WIDTH)
    console.print(what)


def complain(text: str, *, label: str = "error: ") -> None:
    """Print a message on standard error."""
    typer.echo(f"{label}{text}", err=True)
