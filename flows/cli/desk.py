"""The command `tickerforge desk`: the page over all tickers, and the table of the latest forecasts."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from tickerforge.flows.cli import options
from tickerforge.flows.cli.terminal import set_environment, show, terminal_session


def desk(
    output_dir: Annotated[
        Path, typer.Option(help="Folder for desk.html, latest.parquet and latest.csv.", metavar="FOLDER")
    ] = Path("forecasts"),
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Write one page over all tickers, and the table of their latest forecasts.

    Each night writes the same files into the folder of its runs. The page is one HTML file that needs no server: sort,
    filter and search it in a browser. With --json, the command prints the rows of the page and writes nothing.
    """
    with terminal_session(debug=debug):
        set_environment()
        from tickerforge.flows.errors import MissingArtifactError
        from tickerforge.tasks.outputs.desk import read_rows, write_desk

        rows = read_rows()
        if not rows:
            raise MissingArtifactError(
                "no forecast has been issued yet: run `tickerforge nightly --data FOLDER`, or the deployments of "
                "`nightly` or `forecast`"
            )
        if as_json:
            listed = ",\n".join(row.model_dump_json() for row in rows)
            typer.echo(f"[{listed}]")
            return
        from tickerforge.flows.cli import screen

        files = write_desk(rows, folder=output_dir, at=datetime.now(UTC))
        show(screen.paths([("desk", files.page), ("forecasts", files.parquet), ("", files.csv)]))
