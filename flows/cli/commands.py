"""The commands of the pipeline; `deployments.cli` adds those of the service and is the entry point."""

import json
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tickerforge.features.config import UpdateSource
from tickerforge.features.stages import StageCommand
from tickerforge.flows.cli import options
from tickerforge.flows.cli.benchmark import benchmark_app
from tickerforge.flows.cli.data import data_app
from tickerforge.flows.cli.desk import desk
from tickerforge.flows.cli.record import record_app
from tickerforge.flows.cli.registry import pull, registry_app
from tickerforge.flows.cli.terminal import complain, set_environment, show, terminal_session
from tickerforge.flows.settings.choices import Retrain

if TYPE_CHECKING:
    from tickerforge.flows.settings.config import PipelineConfig

app = typer.Typer(
    name="tickerforge",
    help="Train language models to forecast the next ten closes of a stock, and keep those that beat a random walk.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command(epilog="Example: tickerforge run --stock AAPL --data prices/ --model tiny")
def run(
    context: typer.Context,
    stock: options.Stock = None,
    data: options.DataFolder = None,
    model: options.Model = None,
    model_wheel: options.ModelWheel = None,
    max_seq_length: options.MaxSeqLength = None,
    lora_rank: options.LoraRank = None,
    gpu_memory_utilization: options.GpuMemoryUtilization = None,
    cuda_devices: options.CudaDevices = None,
    backend: options.BackendName = None,
    test_after: options.TestAfter = None,
    accept_jumps: options.AcceptJumps = False,
    repair_jumps: options.RepairJumps = False,
    recipe: options.Recipe = None,
    set_: options.Assignments = None,
    seed: options.Seed = None,
    debug: options.Debug = False,
) -> None:
    """Run the whole pipeline for one stock.

    The pipeline is three training stages, comparison, gate and registry. --stock ALL trains one adapter for all stocks
    of the data folder together. An interrupted run resumes when you run the same command again; a stage whose inputs
    have not changed is taken from the store.
    """
    with terminal_session(debug=debug):
        config = _config(context)
        _use_devices(config)
        from tickerforge.flows.cli.preflight import check_run
        from tickerforge.flows.server.embedded import start_prefect, wait_for_prefect
        from tickerforge.tasks.base.paths import home

        check_run(config, home=home())
        set_environment()
        start_prefect()
        from tickerforge.flows.server.outcome import BAD_INPUT
        from tickerforge.flows.train.pipeline import train_ticker
        from tickerforge.tasks.tracking.stage_runs import check_tracking

        wait_for_prefect()
        check_tracking()
        result = train_ticker(config)
        if result is None:
            return
        from tickerforge.flows.cli import screen

        show(screen.comparison(result.report, result.verdict))
        registered = result.registered
        rows: list[tuple[str, Path | str]] = [("report", result.report_path), ("results", result.results)]
        rows += [(stage, path) for stage, path in result.adapters.items()]
        if registered is not None:
            rows.append(("registered", f"{registered.uri} ({', '.join(registered.aliases)})"))
        show(screen.paths(rows))
        for reason in result.left_out.values():
            complain(reason, label="left out: ")
        if result.left_out:
            raise typer.Exit(BAD_INPUT)


@app.command(
    "preprocess",
    epilog="Example: tickerforge preprocess --root-path prices/ --stock AAPL --stock BRK-A --output-dir csv/",
)
def preprocess_command(
    context: typer.Context,
    root_path: Annotated[
        Path, typer.Option(help="Folder with one price file per ticker, or one file with all tickers.")
    ],
    output_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the published layout, {STOCK}/{STOCK}_{train,test,full}_{x,y}.csv; implies --layout "
            "published.",
            show_default="published",
        ),
    ] = None,
    layout: Annotated[
        options.Layout,
        typer.Option(help="windows: only artifacts in the store; published: also CSV files in the published layout."),
    ] = "windows",
    report: Annotated[
        bool,
        typer.Option("--report", help="Draw windows, splits, embargo and data quality: results/preprocessing/*.png."),
    ] = False,
    stocks: Annotated[
        list[str] | None,
        typer.Option("--stock", help="Ticker, repeatable, or all.", show_default="all", metavar="TICKER"),
    ] = None,
    accept_jumps: options.AcceptJumps = False,
    repair_jumps: options.RepairJumps = False,
    recipe: options.Recipe = None,
    set_: options.Assignments = None,
    debug: options.Debug = False,
) -> None:
    """Turn price files into windows with indicators and splits.

    The windows go to the artifact store. If one price file is faulty, the command processes the others, reports the
    fault, and ends with exit code 2.
    """
    with terminal_session(debug=debug):
        from tickerforge.features.prices.tickers import spelled

        named = [] if stocks in (["all"], ["ALL"]) else [spelled(name) for name in stocks or ()]
        config = _config(context)
        set_environment()
        from tickerforge.flows.cli import screen
        from tickerforge.flows.prices.preprocess import preprocess
        from tickerforge.flows.server.outcome import BAD_INPUT
        from tickerforge.tasks.store.artifacts import Store

        if output_dir is None and layout == "published":
            output_dir = Path("published")
        results = preprocess(
            root_path,
            named,
            features=config.features,
            store=Store.current(),
            quality=config.quality,
            output=output_dir,
            pictures=Path("results", "preprocessing") if report else None,
        )
        show(screen.preprocessed(results))
        show(screen.paths((each.stock, each.picture) for each in results if each.picture is not None))
        if stale := [result.stale for result in results if result.stale]:
            more = f" ({len(stale):,} of {len(results):,} stocks end where they should not.)" if len(stale) > 1 else ""
            complain(f"{stale[0]}{more}", label="warning: ")
        failed = [result for result in results if result.error]
        for result in failed:
            complain(result.error)
        if failed:
            raise typer.Exit(BAD_INPUT)


@app.command(
    epilog="Example: tickerforge stage sft --stock AAPL --data prices/ --sft-data-path sft.csv --sft-saved-lora lora/"
)
def stage(
    context: typer.Context,
    name: Annotated[StageCommand, typer.Argument(metavar="STAGE", help="Stage to run.")],
    stock: options.Stock = None,
    data: options.DataFolder = None,
    model: options.Model = None,
    model_wheel: options.ModelWheel = None,
    max_seq_length: options.MaxSeqLength = None,
    lora_rank: options.LoraRank = None,
    gpu_memory_utilization: options.GpuMemoryUtilization = None,
    cuda_devices: options.CudaDevices = None,
    backend: options.BackendName = None,
    train_x_path: options.TrainX = None,
    train_y_path: options.TrainY = None,
    test_x_path: options.TestX = None,
    test_y_path: options.TestY = None,
    full_x_path: options.FullX = None,
    full_y_path: options.FullY = None,
    grpo_saved_lora_1st: options.Lora1st = None,
    sft_saved_lora: options.SftLora = None,
    grpo_saved_lora_2nd: options.Lora2nd = None,
    sft_data_path: options.SftData = None,
    results_dir: options.ResultsDir = None,
    rule: options.SelectionRule = None,
    test_after: options.TestAfter = None,
    accept_jumps: options.AcceptJumps = False,
    repair_jumps: options.RepairJumps = False,
    recipe: options.Recipe = None,
    set_: options.Assignments = None,
    seed: options.Seed = None,
    debug: options.Debug = False,
) -> None:
    """Run one stage alone.

    The stage reads what the earlier stages left in the store with the same options, or the files that you name.
    """
    with terminal_session(debug=debug):
        config = _config(context)
        _use_devices(config)
        from tickerforge.flows.cli.preflight import check_stage
        from tickerforge.flows.server.embedded import start_prefect, wait_for_prefect
        from tickerforge.flows.settings.files import StageFiles
        from tickerforge.tasks.base.paths import home

        files = StageFiles.model_validate({name: context.params[name] for name in StageFiles.model_fields})
        check_stage(name, config, files, home=home())
        set_environment()
        start_prefect()
        from tickerforge.flows.cli import screen
        from tickerforge.flows.stages.single import run_stage

        wait_for_prefect()
        outcome = run_stage(name, config, files)
        if outcome.report is not None and outcome.verdict is not None:
            show(screen.comparison(outcome.report, outcome.verdict))
        show(screen.paths([("results", outcome.results), *(("written", path) for path in outcome.written)]))


@app.command("forecast", epilog="Example: tickerforge forecast --stock AAPL --data prices/ --alias challenger")
def forecast_command(
    context: typer.Context,
    stock: options.Stock = None,
    data: options.DataFolder = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Adapter folder, as run and pull write it.", metavar="FOLDER")
    ] = None,
    alias: Annotated[
        str | None,
        typer.Option(
            help="Registered adapter to use: an alias or a version number.",
            show_default="champion, or else the best free forecast",
        ),
    ] = None,
    cuda_devices: options.CudaDevices = None,
    backend: options.BackendName = None,
    accept_jumps: options.AcceptJumps = False,
    repair_jumps: options.RepairJumps = False,
    recipe: options.Recipe = None,
    set_: options.Assignments = None,
    as_of: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            metavar="DATE",
            help="Forecast from the last session up to this day, without any later price, such as 2026-10-30.",
            show_default="the last session with prices",
        ),
    ] = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Forecast the next ten sessions.

    Prints median and 80 % band of the closing price, from the latest prices of the stock, who issued them and why: the
    champion, or else the free forecaster that was best on validation, with the challenger's forecast beside it. An
    adapter brings its own settings: --recipe and --set change only stock, data, synthetic.*, training.backend,
    training.gpu_memory_utilization and training.trust_remote_code.
    """
    with terminal_session(debug=debug):
        from tickerforge.flows.errors import ConfigError

        if adapter is not None and alias is not None:
            raise ConfigError("--adapter and --alias exclude each other: give one of them")
        config = _config(context)
        _use_devices(config)
        from tickerforge.tasks.models.adapters import check_adapter

        check_adapter(adapter)
        set_environment()
        from tickerforge.flows.cli import screen
        from tickerforge.flows.night.next_sessions import CHAMPION, forecast_issued, forecast_stock

        day = as_of.date() if as_of is not None else None
        if adapter is None and alias is None:
            result, problem = forecast_issued(config, as_of=day)
            if problem:
                typer.echo(f"The challenger could not forecast: {problem}", err=True)
        else:
            result = forecast_stock(config, adapter=adapter, alias=alias or CHAMPION, as_of=day)
        if as_json:
            typer.echo(result.model_dump_json(indent=2))
        else:
            show(screen.forecast_table(result))


@app.command("nightly", epilog="Example: tickerforge nightly --data prices/ --update yahoo")
def nightly_command(
    data: options.DataFolder = None,
    stocks: options.Stocks = None,
    update: Annotated[
        UpdateSource | None, typer.Option(help="Source from which to update the prices first.", show_default="none")
    ] = None,
    retrain: Annotated[
        Retrain,
        typer.Option(help="Which changed stocks train: all, those that drift, or those whose training is a week old."),
    ] = "always",
    model: options.Model = None,
    model_wheel: options.ModelWheel = None,
    accept_jumps: options.AcceptJumps = False,
    repair_jumps: options.RepairJumps = False,
    recipe: options.Recipe = None,
    set_: options.Assignments = None,
    debug: options.Debug = False,
) -> None:
    """Retrain, judge, forecast and watch all stocks of a folder.

    Training starts from a stock's champion if there is one. If a stock fails, the night continues with the others,
    reports which stocks failed and why, and ends with exit code 1. What has not changed is taken from the store.
    """
    with terminal_session(debug=debug):
        from tickerforge.flows.cli.preflight import check_working_folder
        from tickerforge.flows.server.embedded import start_prefect, wait_for_prefect
        from tickerforge.flows.settings.config import build_config

        flags = {"data": data, "update": update, "warm_start": "champion"}
        flags |= {"training.model": model, "training.model_wheel": model_wheel}
        flags["quality.jumps"] = options.jump_mode(accept=accept_jumps, repair=repair_jumps)
        config = build_config(recipe=recipe, flags=flags, assignments=set_ or ())
        _use_devices(config)
        check_working_folder()
        set_environment()
        start_prefect()
        from tickerforge.flows.cli import screen
        from tickerforge.flows.night.nightly import nightly

        wait_for_prefect()
        show(screen.night_table(nightly(config, tuple(stocks or ()), retrain=retrain)))


app.command(epilog="Example: tickerforge pull AAPL@challenger adapters/AAPL")(pull)
app.command(epilog="Example: tickerforge desk")(desk)
app.add_typer(registry_app, name="registry")
app.add_typer(benchmark_app, name="benchmark")
app.add_typer(data_app, name="data")
app.add_typer(record_app, name="record")


@app.command(epilog="Example: tickerforge doctor --json")
def doctor(as_json: options.AsJson = False, debug: options.Debug = False) -> None:
    """Check what works on this machine.

    Every failed check comes with its fix. Ends with exit code 1 if a check failed.
    """
    with terminal_session(debug=debug):
        from tickerforge.tasks.base.errors import StoreError

        # If the home cannot be made, a check says so, with the fix.
        with suppress(StoreError):
            set_environment()
        from tickerforge.flows.cli import screen
        from tickerforge.flows.cli.doctor import diagnose, is_healthy

        checks = list(diagnose())
        healthy = is_healthy(checks)
        if as_json:
            written = {"healthy": healthy, "checks": [check.model_dump() for check in checks]}
            typer.echo(json.dumps(written, indent=2))
        else:
            show(screen.diagnosis(checks))
        if not healthy:
            raise typer.Exit(1)


def _config(context: typer.Context) -> "PipelineConfig":
    """Build the configuration that the options of a command describe."""
    from tickerforge.flows.settings.config import build_config

    given = context.params
    flags = {key: given[name] for name, key in options.KEYS.items() if name in given}
    accept, repair = (bool(given.get(f"{mode}_jumps")) for mode in ("accept", "repair"))
    flags["quality.jumps"] = options.jump_mode(accept=accept, repair=repair)
    return build_config(recipe=given["recipe"], flags=flags, assignments=given["set_"] or ())


def _use_devices(config: "PipelineConfig") -> None:
    from tickerforge.flows.settings.config import use_devices

    use_devices(config)
