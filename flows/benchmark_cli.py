"""The commands `tickerforge benchmark ...`: proofs that the pipeline learns what there is to learn."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows import options
from flows.terminal import command, prepare, show

app = typer.Typer(help="Hold the pipeline against known answers.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def benchmark() -> None:
    """Hold the pipeline against known answers."""


@app.command(epilog="Example: tickerforge benchmark markets --market mean-reverting-80 --seeds 3")
def markets(
    market: Annotated[
        list[str] | None,
        typer.Option("--market", help="Market, repeatable.", show_default="all", metavar="NAME"),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of market and training.", min=1, max=20)] = 3,
    output: Annotated[Path | None, typer.Option(help="Also write all figures there as JSON.", metavar="FILE")] = None,
    model: options.Model = None,
    recipe: options.Recipe = None,
    set_: options.Assignments = None,
    debug: options.Debug = False,
) -> None:
    """Train on synthetic markets whose best attainable error is known.

    The markets are random-walk, mean-reverting-80, mean-reverting-95, momentum-40 and regime-switch. Each stage's
    error on fresh windows stands beside persistence's (1), the process's optimum and the best attainable from what the
    prompt shows. What was trained before is taken from the store; an interrupted run resumes.
    """
    with command(debug=debug):
        from flows.config import build_config
        from flows.embedded import start_prefect, wait_for_prefect
        from flows.errors import ConfigError
        from flows.known_markets import MARKETS
        from flows.preflight import check_writable
        from flows.screen import market_tables

        if unknown := [name for name in market or () if name not in MARKETS]:
            raise ConfigError(f"--market {unknown[0]}: there are {', '.join(MARKETS)}")
        config = build_config(recipe=recipe, flags={"training.model": model}, assignments=set_ or ())
        if output is not None:
            check_writable(output.parent, option="--output")
        prepare()
        start_prefect()
        from flows.benchmark import benchmark_markets
        from tasks.disk import write_durably

        wait_for_prefect()
        runs = benchmark_markets(config, tuple(market or ()), seeds)
        show(market_tables(runs))
        if output is not None:
            write_durably(output, json.dumps([run.model_dump(mode="json") for run in runs], indent=2))
