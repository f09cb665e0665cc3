"""The commands `tickerforge benchmark`: the pipeline against known optima, and against published results."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tickerforge.features.stages import LAST_STAGE, AdapterStage
from tickerforge.flows.cli import options
from tickerforge.flows.cli.terminal import set_environment, show, terminal_session

_Until = Annotated[AdapterStage, typer.Option(help="Last stage to train; the table ends with it.")]
_Output = Annotated[Path | None, typer.Option(help="Also write all figures to this JSON file.", metavar="FILE")]

benchmark_app = typer.Typer(
    help="Compare the pipeline with known optima and published results.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@benchmark_app.command(epilog="Example: tickerforge benchmark markets --market mean-reverting-80 --seeds 3")
def markets(
    market: Annotated[
        list[str] | None,
        typer.Option("--market", help="Name of a market, repeatable.", show_default="all", metavar="NAME"),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds, each for market and training.", min=1, max=20)] = 3,
    until: _Until = LAST_STAGE,
    output: _Output = None,
    model: options.Model = None,
    recipe: options.Recipe = None,
    set_: options.Assignments = None,
    debug: options.Debug = False,
) -> None:
    """Train on synthetic markets whose best attainable error is known.

    The markets are random-walk, mean-reverting-80, mean-reverting-95, momentum-40, regime-switch, garch and
    garch-leverage. The table compares each stage's error on fresh windows with persistence (1), with the optimum of the
    process, and with the best forecast that the prompt's content allows. Finished training is taken from the store, and
    an interrupted run resumes. Without --recipe rejection sampling uses all train windows, and SFT passes over them
    twice.
    """
    with terminal_session(debug=debug):
        from tickerforge.flows.bench.market_config import MARKETS, benchmark_config
        from tickerforge.flows.cli.preflight import check_writable
        from tickerforge.flows.cli.screen import market_tables
        from tickerforge.flows.errors import ConfigError
        from tickerforge.flows.server.embedded import start_prefect, wait_for_prefect

        if unknown := [name for name in market or () if name not in MARKETS]:
            raise ConfigError(f"--market {unknown[0]}: there are {', '.join(MARKETS)}")
        config = benchmark_config(recipe=recipe, model=model, assignments=set_ or ())
        if output is not None:
            check_writable(output.parent, option="--output")
        set_environment()
        start_prefect()
        from tickerforge.features.atomic import write_atomically
        from tickerforge.flows.bench.markets import benchmark_markets

        wait_for_prefect()
        runs = benchmark_markets(config, tuple(market or ()), seeds, until)
        show(market_tables(runs))
        if output is not None:
            write_atomically(output, json.dumps([run.model_dump(mode="json") for run in runs], indent=2))


@benchmark_app.command(
    "stocknet", epilog="Example: tickerforge benchmark stocknet --data prices/ --baselines-only --baseline theta"
)
def stocknet_benchmark(
    data: Annotated[
        Path,
        typer.Option(help="Folder with one price file per ticker, or one file with all tickers.", metavar="FOLDER"),
    ],
    baselines_only: Annotated[
        bool, typer.Option("--baselines-only", help="Train nothing; score only baselines and --predictions.")
    ] = False,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="Also a slower baseline, repeatable: garch, ets, theta or arima; the last three need the extra "
            "classical.",
            show_default="none",
            metavar="NAME",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Your own forecasts, .csv or .parquet: columns ticker, origin (last known session), h1 to h10 (USD) "
            "and, for several forecasters, model.",
            metavar="FILE",
        ),
    ] = None,
    until: _Until = LAST_STAGE,
    output: _Output = None,
    model: options.Model = None,
    recipe: options.Recipe = None,
    set_: options.Assignments = None,
    seed: options.Seed = None,
    debug: options.Debug = False,
) -> None:
    """Score forecasters by the published protocol.

    The protocol covers all tickers of a folder. The rows of each ticker are split 70/10/20 in time, and the adjusted
    close is standardised by the train rows. Every ten days predict the next ten. The error is the mean squared error
    per ticker, averaged over tickers. Without --baselines-only the table also shows our stages, trained on all
    tickers together; finished training is taken from the store.
    """
    with terminal_session(debug=debug):
        from tickerforge.evaluation.baselines.rivals import CLASSICAL, check_classical
        from tickerforge.flows.cli.preflight import check_run, check_writable
        from tickerforge.flows.errors import ConfigError
        from tickerforge.flows.settings.config import build_config
        from tickerforge.tasks.base.paths import home

        flags = {"stock": "ALL", "data": data, "training.model": model, "seed": seed}
        config = build_config(recipe=recipe, flags=flags, assignments=set_ or ())
        if output is not None:
            check_writable(output.parent, option="--output")
        for name in baseline or ():
            if name not in CLASSICAL:
                raise ConfigError(f"--baseline {name}: there are {', '.join(CLASSICAL)}")
            check_classical(name)
        set_environment()
        if not baselines_only:
            check_run(config, home=home())
            from tickerforge.flows.server.embedded import start_prefect

            start_prefect()
        from tickerforge.evaluation.bench.predictions import read_predictions
        from tickerforge.features.atomic import write_atomically
        from tickerforge.flows.bench.stocknet import check_protocol, read_protocol, stage_forecasts, stand
        from tickerforge.flows.cli.screen import standings_tables

        check_protocol(config)
        protocol, notes = read_protocol(data)
        own = read_predictions(predictions, protocol) if predictions is not None else []
        stages = None
        if not baselines_only:
            from tickerforge.flows.server.embedded import wait_for_prefect

            wait_for_prefect()
            stages = stage_forecasts(config, until)
        found = stand(protocol, baselines=baseline or (), predictions=own, stages=stages, notes=notes)
        show(standings_tables(found))
        if output is not None:
            write_atomically(output, found.model_dump_json(indent=2))
