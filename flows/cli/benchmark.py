"""The commands `tickerforge benchmark ...`: the pipeline beside known answers, and beside what others published."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tickerforge.flows.cli import options
from tickerforge.flows.cli.terminal import command, prepare, show


class Baseline(StrEnum):
    """A baseline that takes minutes."""

    ETS = "ets"
    THETA = "theta"
    ARIMA = "arima"


class LastStage(StrEnum):
    """A stage after which nothing more is trained."""

    GRPO_1ST = "grpo_1st"
    SFT = "sft"
    GRPO_2ND = "grpo_2nd"


Until = Annotated[LastStage, typer.Option(help="The last stage that is trained; the table ends with it.")]


app = typer.Typer(
    help="Hold the pipeline against known answers, and against what others published.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def benchmark() -> None:
    """Hold the pipeline against known answers, and against what others published."""


@app.command(epilog="Example: tickerforge benchmark markets --market mean-reverting-80 --seeds 3")
def markets(
    market: Annotated[
        list[str] | None,
        typer.Option("--market", help="Market, repeatable.", show_default="all", metavar="NAME"),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of market and training.", min=1, max=20)] = 3,
    until: Until = LastStage.GRPO_2ND,
    output: Annotated[Path | None, typer.Option(help="Also write all figures there as JSON.", metavar="FILE")] = None,
    model: options.Model = None,
    recipe: options.Recipe = None,
    set_: options.Assignments = None,
    debug: options.Debug = False,
) -> None:
    """Train on synthetic markets whose best attainable error is known.

    The markets are random-walk, mean-reverting-80, mean-reverting-95, momentum-40 and regime-switch. Each stage's
    error on fresh windows stands beside persistence's (1), the process's optimum and the best attainable from what the
    prompt shows. What was trained before is taken from the store; an interrupted run resumes. Without --recipe
    rejection draws for all train windows, as there are many, and SFT passes over them twice.
    """
    with command(debug=debug):
        from tickerforge.flows.bench.known_markets import MARKETS, benchmark_config
        from tickerforge.flows.cli.preflight import check_writable
        from tickerforge.flows.cli.screen import market_tables
        from tickerforge.flows.errors import ConfigError
        from tickerforge.flows.server.embedded import start_prefect, wait_for_prefect

        if unknown := [name for name in market or () if name not in MARKETS]:
            raise ConfigError(f"--market {unknown[0]}: there are {', '.join(MARKETS)}")
        config = benchmark_config(recipe=recipe, model=model, assignments=set_ or ())
        if output is not None:
            check_writable(output.parent, option="--output")
        prepare()
        start_prefect()
        from tickerforge.flows.bench.markets import benchmark_markets
        from tickerforge.tasks.base.disk import replace_text

        wait_for_prefect()
        runs = benchmark_markets(config, tuple(market or ()), seeds, until.value)
        show(market_tables(runs))
        if output is not None:
            replace_text(output, json.dumps([run.model_dump(mode="json") for run in runs], indent=2))


@app.command(epilog="Example: tickerforge benchmark stocknet --data prices/ --baselines-only --baseline theta")
def stocknet(
    data: Annotated[
        Path, typer.Option(help="Folder with one {STOCK}.csv a ticker, in Yahoo's columns.", metavar="FOLDER")
    ],
    baselines_only: Annotated[
        bool, typer.Option("--baselines-only", help="Train nothing: baselines and --predictions alone.")
    ] = False,
    baseline: Annotated[
        list[Baseline] | None,
        typer.Option(help="A slower baseline too, repeatable; needs the extra classical.", show_default="none"),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Your own forecasts, .csv or .parquet: columns ticker, origin (last session known), h1 to h10 (USD) "
            "and, for several forecasters, model.",
            metavar="FILE",
        ),
    ] = None,
    until: Until = LastStage.GRPO_2ND,
    output: Annotated[Path | None, typer.Option(help="Also write all figures there as JSON.", metavar="FILE")] = None,
    model: options.Model = None,
    recipe: options.Recipe = None,
    set_: options.Assignments = None,
    seed: options.Seed = None,
    debug: options.Debug = False,
) -> None:
    """Score forecasters by the published protocol, on all tickers of a folder.

    Rows split 70/10/20 in time, adjusted close in standard deviations of the train rows, every ten days to the next
    ten; squared error per ticker, then its mean over tickers. Without --baselines-only our stages are trained on all
    tickers together and stand in the table; what was trained before is taken from the store.
    """
    with command(debug=debug):
        from tickerforge.evaluation.baselines.classical import check_classical
        from tickerforge.flows.cli.preflight import check_run, check_writable
        from tickerforge.flows.settings.config import build_config
        from tickerforge.tasks.base.paths import home

        flags = {"stock": "ALL", "data": data, "training.model": model, "seed": seed}
        config = build_config(recipe=recipe, flags=flags, assignments=set_ or ())
        if output is not None:
            check_writable(output.parent, option="--output")
        names = [each.value for each in baseline or ()]
        for name in names:
            check_classical(name)
        prepare()
        if not baselines_only:
            check_run(config, home=home())
            from tickerforge.flows.server.embedded import start_prefect

            start_prefect()
        from tickerforge.evaluation.bench.predictions import read_predictions
        from tickerforge.flows.bench.stocknet import check_protocol, read_protocol, stage_forecasts, stand
        from tickerforge.flows.cli import stocknet_screen
        from tickerforge.tasks.base.disk import replace_text

        check_protocol(config)
        protocol, notes = read_protocol(data)
        own = read_predictions(predictions, protocol) if predictions is not None else []
        stages = None
        if not baselines_only:
            from tickerforge.flows.server.embedded import wait_for_prefect

            wait_for_prefect()
            stages = stage_forecasts(config, until.value)
        found = stand(protocol, baselines=names, predictions=own, stages=stages, notes=notes)
        show(stocknet_screen.standings(found))
        if output is not None:
            replace_text(output, found.model_dump_json(indent=2))
