"""The commands about registered adapters: `pull`, `registry history` and `registry rollback`."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tickerforge.features.prices.tickers import spelled
from tickerforge.flows.cli import options
from tickerforge.flows.cli.terminal import set_environment, show, terminal_session

if TYPE_CHECKING:
    from tickerforge.tasks.registry.promotion import VersionRecord
    from tickerforge.tasks.tracking.client import Tracking

registry_app = typer.Typer(help="History and rollback of a stock's registered adapters.", no_args_is_help=True)

_SHOWN_DIGITS = 12

_Stock = Annotated[str, typer.Argument(metavar="STOCK", help="Ticker, for example AAPL.")]


def pull(
    model: Annotated[
        str,
        typer.Argument(
            metavar="STOCK[@ALIAS]", help="Ticker, with an alias or a version number; without either the champion."
        ),
    ],
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="New or empty folder, or one from an earlier pull.")],
    debug: options.Debug = False,
) -> None:
    """Fetch a registered adapter, ready for PEFT and vLLM."""
    with terminal_session(debug=debug):
        spelled(model.partition("@")[0])
        tracking = _registry()
        from tickerforge.flows.cli import screen
        from tickerforge.tasks.registry.registration import pull_adapter

        folder = pull_adapter(tracking, model, dest=dest)
        show(screen.paths([("adapter", folder)]))


@registry_app.command("history", epilog="Example: tickerforge registry history AAPL")
def history_command(stock: _Stock, as_json: options.AsJson = False, debug: options.Debug = False) -> None:
    """Show every version of a stock's model, newest first.

    Each row shows the data and code of the version, its skill on the test split, when it was champion, and its report.
    """
    with terminal_session(debug=debug):
        stock = spelled(stock)
        tracking = _registry()
        from tickerforge.tasks.registry.promotion import history

        versions = history(tracking, stock)
        if as_json:
            typer.echo(json.dumps([version.model_dump(mode="json") for version in versions], indent=2))
        else:
            show(_table(stock, versions))


@registry_app.command(
    "rollback", epilog='Example: tickerforge registry rollback AAPL --reason "wrong volume since Monday"'
)
def rollback_command(
    stock: _Stock,
    reason: Annotated[str | None, typer.Option(help="Reason, kept with the version.", metavar="TEXT")] = None,
    debug: options.Debug = False,
) -> None:
    """Make a stock's previous champion its champion again.

    The current champion is marked as rolled back and is not promoted again.
    """
    with terminal_session(debug=debug):
        stock = spelled(stock)
        tracking = _registry()
        from tickerforge.tasks.registry.promotion import rollback

        done = rollback(tracking, stock, at=datetime.now(UTC), reason=reason)
        show(
            Text(
                f"{stock}: version {done.champion} is champion again; version {done.rolled_back} was rolled back "
                f"({done.reason}) and will not be promoted again."
            )
        )


def _registry() -> "Tracking":
    """Connect to MLflow."""
    set_environment()
    from tickerforge.tasks.base.paths import Workspace
    from tickerforge.tasks.tracking.client import connect

    return connect(Workspace.current())


def _table(stock: str, versions: "tuple[VersionRecord, ...]") -> RenderableType:
    table = Table(title=f"tickerforge-{stock}: versions, newest first (UTC)", title_justify="left")
    table.add_column("Version", justify="right")
    for name in ("Registered", "Stage", "Aliases", "Promoted"):
        table.add_column(name)
    table.add_column("Median skill (test)", justify="right")
    for name in ("Data", "Code"):
        table.add_column(name)
    table.add_column("Report", overflow="fold")
    for version in versions:
        table.add_row(
            str(version.version),
            f"{version.created:%Y-%m-%d %H:%M}",
            version.stage,
            ", ".join(version.aliases),
            Text(_promotion(version)),
            "" if version.skill is None else f"{version.skill:+.3f}",
            version.data_sha256[:_SHOWN_DIGITS],
            version.git_revision[:_SHOWN_DIGITS] + ("-dirty" if version.git_revision.endswith("-dirty") else ""),
            version.report,
        )
    return table


def _promotion(version: "VersionRecord") -> str:
    if version.promoted_at is None:
        return "no"
    after = "" if version.former_champion is None else f" after {version.former_champion}"
    text = f"{version.promoted_at:%Y-%m-%d %H:%M}{after}"
    if version.rolled_back_at is not None:
        text += f"\nrolled back {version.rolled_back_at:%Y-%m-%d %H:%M}: {version.rolled_back_reason}"
    return text
