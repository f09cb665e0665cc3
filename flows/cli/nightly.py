"""The command `tickerforge nightly`: the night's work, now."""

from enum import StrEnum
from typing import Annotated

import typer

from tickerforge.flows.cli import options
from tickerforge.flows.cli.terminal import command, prepare, show


class Update(StrEnum):
    """A source of new prices."""

    NONE = "none"
    YAHOO = "yahoo"


def nightly(
    data: options.Data = None,
    stocks: Annotated[
        list[str] | None, typer.Option("--stock", help="Ticker, repeatable.", show_default="all", metavar="TICKER")
    ] = None,
    update: Annotated[
        Update | None, typer.Option(help="Where to bring the prices up to date from first.", show_default="none")
    ] = None,
    model: options.Model = None,
    recipe: options.Recipe = None,
    set_: options.Assignments = None,
    debug: options.Debug = False,
) -> None:
    """Retrain, judge, forecast and watch all stocks of a folder, one after the other.

    Training starts from a stock's champion where it has one. A faulty stock leaves the others alone; the night then
    ends with exit code 1 and says which failed and why. What is done already is not done again.
    """
    with command(debug=debug):
        from tickerforge.flows.server.embedded import start_prefect, wait_for_prefect
        from tickerforge.flows.settings.config import build_config

        flags = {"data": data, "update": update, "training.model": model, "warm_start": "champion"}
        config = build_config(recipe=recipe, flags=flags, assignments=set_ or ())
        prepare()
        start_prefect()
        from tickerforge.flows.cli import screen
        from tickerforge.flows.night.nightly import nightly as run_night

        wait_for_prefect()
        show(screen.night(run_night(config, tuple(stocks or ()))))
