"""The command `tickerforge record verify`: was the record of issued forecasts changed afterwards."""

from typing import Annotated

import typer

from tickerforge.flows.cli import options
from tickerforge.flows.cli.terminal import complain, set_environment, show, terminal_session

record_app = typer.Typer(help="The record of issued forecasts and of what happened.", no_args_is_help=True)

_SHOWN_FAULTS = 20


@record_app.command("verify", epilog="Example: tickerforge record verify --head 12:3f9c0a5b…")
def verify_command(
    head: Annotated[
        str,
        typer.Option(
            help="End of the record that you kept earlier, as this command, the desk page and the night show it.",
            show_default="none",
            metavar="NUMBER:SHA256",
        ),
    ] = "",
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Check that no issued forecast and no outcome was changed, removed or added afterwards.

    Each block of the record has the hashes of its forecasts and outcomes, and the hash of the block before it. With
    --head, the command also finds a record that was replaced as a whole. Ends with exit code 1 if something is wrong.
    """
    with terminal_session(debug=debug):
        set_environment()
        from tickerforge.tasks.outputs.live import check_record

        found = check_record(head)
        if as_json:
            typer.echo(found.model_dump_json(indent=2))
        else:
            late = f", {found.late} of them recorded when their first price was known" if found.late else ""
            show(f"forecasts  {found.forecasts:,}{late}")
            show(f"outcomes   {found.outcomes:,}")
            show(f"blocks     {found.blocks:,}")
            show(f"end        {found.head or 'nothing is recorded yet'}")
        for fault in found.faults[:_SHOWN_FAULTS]:
            complain(fault)
        if more := found.faults[_SHOWN_FAULTS:]:
            complain(f"and {len(more):,} more: use --json to see them all", label="")
        if found.faults:
            raise typer.Exit(1)
        if not as_json:
            show("the record is unchanged")
