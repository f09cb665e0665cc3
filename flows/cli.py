"""The command line: reads options, calls flows, prints what came of it; the only place that prints."""

import json
import os
import re
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, RenderableType

from flows import options

if TYPE_CHECKING:
    from flows.config import PipelineConfig

app = typer.Typer(
    name="tickerforge",
    help="Train language models to forecast the next ten closes of a stock, and keep those that beat a random walk.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

PIPED_WIDTH = 200
_DEVICES = re.compile(r"-1|[A-Za-z0-9-]+(,[A-Za-z0-9-]+)*")


def main() -> None:
    """Run the command line."""
    app()


@app.command(epilog="Example: tickerforge run --stock AAPL --data prices/ --model tiny")
def run(
    stock: options.Stock = None,
    data: options.Data = None,
    model: options.Model = None,
    max_seq_length: options.MaxSeqLength = None,
    lora_rank: options.LoraRank = None,
    gpu_memory_utilization: options.GpuMemoryUtilization = None,
    cuda_devices: options.CudaDevices = None,
    backend: options.BackendName = None,
    recipe: options.Recipe = None,
    set_: options.Assignments = None,
    seed: options.Seed = None,
    debug: options.Debug = False,
) -> None:
    """Run the whole pipeline for one stock: three training stages, comparison, gate, registry.

    A run that was interrupted resumes where it stopped; what has not changed is not done again.
    """
    with _command(debug=debug):
        config = _config(
            options.flags(
                stock=stock,
                data=data,
                model=model,
                max_seq_length=max_seq_length,
                lora_rank=lora_rank,
                gpu_memory_utilization=gpu_memory_utilization,
                backend=backend,
                seed=seed,
            ),
            recipe=recipe,
            assignments=set_,
        )
        _choose_devices(cuda_devices)
        from flows.embedded import start_prefect, wait_for_prefect
        from flows.preflight import check_run
        from tasks.paths import home

        check_run(config, home=home())
        _prepare()
        start_prefect()
        from flows.pipeline import train_ticker

        wait_for_prefect()
        result = train_ticker(config)
        from flows import screen

        _show(screen.comparison(result.report, result.verdict))
        registered = result.registered
        rows: list[tuple[str, Path | str]] = [("report", result.report_path), ("results", result.results)]
        rows += [(stage, path) for stage, path in result.adapters.items()]
        if registered is not None:
            rows.append(("registered", f"{registered.uri} ({', '.join(registered.aliases)})"))
        _show(screen.paths(rows))


@app.command(epilog="Example: tickerforge preprocess --root-path prices/ --stock AAPL --stock BRK-A --output-dir csv/")
def preprocess(
    root_path: Annotated[Path, typer.Option(help="Folder with one {STOCK}.csv a ticker, in Yahoo's columns.")],
    output_dir: Annotated[
        Path | None,
        typer.Option(help="Also write the published layout there: {STOCK}/{STOCK}_{train,test,full}_{x,y}.csv."),
    ] = None,
    stock: Annotated[
        list[str] | None, typer.Option(help="Ticker, repeatable.", show_default="all of the folder", metavar="TICKER")
    ] = None,
    recipe: options.Recipe = None,
    set_: options.Assignments = None,
    debug: options.Debug = False,
) -> None:
    """Turn price files into windows with indicators and splits, kept in the artifact store."""
    with _command(debug=debug):
        from features.bars import validate_ticker

        stocks = [validate_ticker(name) for name in stock or ()]
        config = _config({}, recipe=recipe, assignments=set_)
        _prepare()
        from flows import screen
        from flows.outcome import BAD_INPUT
        from flows.preprocess import preprocess as preprocess_stocks
        from tasks.paths import Workspace
        from tasks.store import Store

        results = preprocess_stocks(
            root_path,
            stocks,
            features=config.features,
            store=Store(Workspace.current().store),
            output=output_dir,
        )
        _show(screen.preprocessed(results))
        failed = [result for result in results if result.error]
        for result in failed:
            _complain(result.error)
        if failed:
            raise typer.Exit(BAD_INPUT)


@app.command(
    epilog="Example: tickerforge stage sft --stock AAPL --data prices/ --sft-data-path sft.csv --sft-saved-lora lora/"
)
def stage(
    name: Annotated[options.Stage, typer.Argument(metavar="STAGE", help="grpo1, sft-data, sft, grpo2 or compare.")],
    stock: options.Stock = None,
    data: options.Data = None,
    model: options.Model = None,
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
    recipe: options.Recipe = None,
    set_: options.Assignments = None,
    seed: options.Seed = None,
    debug: options.Debug = False,
) -> None:
    """Run one stage alone, from what earlier stages left in the store or from explicit files."""
    with _command(debug=debug):
        config = _config(
            options.flags(
                stock=stock,
                data=data,
                model=model,
                max_seq_length=max_seq_length,
                lora_rank=lora_rank,
                gpu_memory_utilization=gpu_memory_utilization,
                backend=backend,
                seed=seed,
            ),
            recipe=recipe,
            assignments=set_,
        )
        given = {
            "train_x_path": train_x_path,
            "train_y_path": train_y_path,
            "test_x_path": test_x_path,
            "test_y_path": test_y_path,
            "full_x_path": full_x_path,
            "full_y_path": full_y_path,
            "grpo_saved_lora_1st": grpo_saved_lora_1st,
            "sft_saved_lora": sft_saved_lora,
            "grpo_saved_lora_2nd": grpo_saved_lora_2nd,
            "sft_data_path": sft_data_path,
            "results_dir": results_dir,
        }
        _choose_devices(cuda_devices)
        from flows.embedded import start_prefect, wait_for_prefect
        from flows.files import StageFiles
        from flows.preflight import check_stage
        from tasks.paths import home

        files = StageFiles(**given)
        check_stage(name.value, config, files, home=home())
        _prepare()
        start_prefect()
        from flows import screen
        from flows.stages import FLOWS

        wait_for_prefect()
        outcome = FLOWS[name.value](config, files)
        if outcome.report is not None and outcome.verdict is not None:
            _show(screen.comparison(outcome.report, outcome.verdict))
        _show(screen.paths([("results", outcome.results), *(("written", path) for path in outcome.written)]))


@app.command(epilog="Example: tickerforge forecast --stock AAPL --data prices/ --alias challenger")
def forecast(
    stock: options.Stock = None,
    data: options.Data = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Adapter folder, as run and pull write it.", metavar="FOLDER")
    ] = None,
    alias: Annotated[
        str | None,
        typer.Option(help="Registered adapter to use: an alias or a version number.", show_default="champion"),
    ] = None,
    cuda_devices: options.CudaDevices = None,
    backend: options.BackendName = None,
    recipe: options.Recipe = None,
    set_: options.Assignments = None,
    seed: options.Seed = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Forecast the next ten sessions of a stock from its latest prices."""
    with _command(debug=debug):
        from flows.errors import ConfigError

        if adapter is not None and alias is not None:
            raise ConfigError("--adapter and --alias exclude each other: give one of them")
        config = _config(
            options.flags(stock=stock, data=data, backend=backend, seed=seed), recipe=recipe, assignments=set_
        )
        _choose_devices(cuda_devices)
        from tasks.adapters import adapter_folder

        adapter_folder(adapter)
        _prepare()
        from flows import screen
        from flows.forecast import CHAMPION, forecast_stock

        result = forecast_stock(config, adapter=adapter, alias=alias or CHAMPION)
        if as_json:
            typer.echo(result.model_dump_json(indent=2))
        else:
            _show(screen.forecast(result))


@app.command(epilog="Example: tickerforge pull AAPL@challenger adapters/AAPL")
def pull(
    model: Annotated[
        str, typer.Argument(metavar="STOCK[@ALIAS]", help="Stock, with an alias or a version number; champion if none.")
    ],
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="New or empty folder, or one that was pulled before.")],
    debug: options.Debug = False,
) -> None:
    """Fetch a registered adapter as a folder, ready for PEFT and vLLM."""
    with _command(debug=debug):
        from features.bars import validate_ticker

        validate_ticker(model.split("@", 1)[0])
        _prepare()
        from flows import screen
        from tasks.paths import Workspace
        from tasks.registry import pull_adapter
        from tasks.tracking import connect

        folder = pull_adapter(connect(Workspace.current()), model, dest=dest)
        _show(screen.paths([("adapter", folder)]))


@app.command(epilog="Example: tickerforge doctor --json")
def doctor(as_json: options.AsJson = False, debug: options.Debug = False) -> None:
    """Say what is installed and what works here, with a cure for everything that does not."""
    with _command(debug=debug):
        _prepare()
        from flows import screen
        from flows.doctor import diagnose, is_healthy

        checks = list(diagnose())
        healthy = is_healthy(checks)
        if as_json:
            written = {"healthy": healthy, "checks": [check.model_dump() for check in checks]}
            typer.echo(json.dumps(written, indent=2))
        else:
            _show(screen.diagnosis(checks))
        if not healthy:
            raise typer.Exit(1)


def _config(flags: options.Given, *, recipe: Path | None, assignments: list[str] | None) -> "PipelineConfig":
    from flows.config import build_config

    return build_config(recipe=recipe, flags=flags, assignments=assignments or ())


def _choose_devices(cuda_devices: str | None) -> None:
    """Show torch, which is not imported yet, the GPUs that were chosen."""
    from flows.errors import ConfigError

    if cuda_devices is None:
        return
    if not _DEVICES.fullmatch(cuda_devices):
        raise ConfigError(f"--cuda-devices {cuda_devices!r}: give GPU numbers separated by commas, such as 0,1")
    os.environ["CUDA_VISIBLE_DEVICES"] = cuda_devices


def _prepare() -> None:
    """Set the environment that Prefect and MLflow read when they are imported."""
    from tasks.environment import set_embedded_defaults
    from tasks.paths import Workspace

    set_embedded_defaults(Workspace.current())


@contextmanager
def _command(*, debug: bool) -> Iterator[None]:
    """Show log lines while a command runs, and end it with the exit code that its outcome stands for."""
    from flows.logs import show_on_terminal

    show_on_terminal(debug=debug)
    # Without this a SIGTERM would end the process before Prefect has reported the run as stopped.
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except typer.Exit:
        raise
    except BaseException as error:  # noqa: BLE001 - the one border where every failure becomes an exit code
        from flows import outcome

        code = outcome.exit_code(error)
        if code == outcome.INTERRUPTED:
            _complain("stopped; run the same command again to resume", label="")
        elif code == outcome.TERMINATED:
            _complain("terminated; run the same command again to resume", label="")
        else:
            if debug:
                traceback.print_exception(error)
            _complain(outcome.message(error))
        raise typer.Exit(code) from None
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminate(number: int, frame: object) -> None:
    from flows.outcome import Terminated

    raise Terminated


def _show(what: RenderableType) -> None:
    terminal = Console(highlight=False)
    # Tables that are piped keep their width instead of being cut to an imagined terminal.
    console = terminal if terminal.is_terminal else Console(highlight=False, width=PIPED_WIDTH)
    console.print(what)


def _complain(text: str, *, label: str = "error: ") -> None:
    typer.echo(f"{label}{text}", err=True)


if __name__ == "__main__":
    main()
