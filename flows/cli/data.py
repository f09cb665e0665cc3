"""The commands `tickerforge data`: fill a folder with price files, or update it."""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tickerforge.flows.cli import options
from tickerforge.flows.cli.terminal import complain, set_environment, show, terminal_session

if TYPE_CHECKING:
    from rich.table import Table

    from tickerforge.tasks.prices.price_files import Filled

logger = logging.getLogger(__name__)

data_app = typer.Typer(
    help="Fill a folder with price files, or update it. A file never loses a session.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Folder = Annotated[Path, typer.Option("--data", help="Folder for one {STOCK}.csv per ticker.", metavar="FOLDER")]


@data_app.command(epilog="Example: tickerforge data yahoo --tickers sp500.txt --data prices/")
def yahoo(
    data: _Folder,
    stocks: options.Stocks = None,
    tickers: Annotated[
        Path | None,
        typer.Option(
            help="File with tickers: one per line, or a CSV file with a column Symbol or Ticker.", metavar="FILE"
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(help="First day of new files; a file that begins later is fetched again.", metavar="YYYY-MM-DD"),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Fetch daily prices from Yahoo Finance.

    Several stocks are fetched at once, within Yahoo's limits, and a stock that fails does not stop the others. Only
    missing sessions are requested. If a dividend or a split has changed the adjusted closes since the last update,
    the whole history is fetched again.
    """
    with terminal_session(debug=debug):
        first = _day(start)
        set_environment()
        from tickerforge.tasks.prices import source_yahoo
        from tickerforge.tasks.prices.folders import list_tickers
        from tickerforge.tasks.prices.ticker_list import read_ticker_list

        now = datetime.now(UTC)
        named = [*(stocks or ()), *(read_ticker_list(tickers) if tickers is not None else ())]
        _fill(
            named or list_tickers(data),
            lambda stock: source_yahoo.fill(data, stock, now=now, first=first),
            at_once=source_yahoo.AT_ONCE,
        )


@data_app.command("stocknet", epilog="Example: tickerforge data stocknet --data prices/")
def stocknet_data(
    data: _Folder,
    stocks: options.Stocks = None,
    url: Annotated[
        str | None,
        typer.Option(help="Another address of the archive.", show_default="a fixed revision on GitHub", metavar="URL"),
    ] = None,
    sha256: Annotated[
        str | None,
        typer.Option(help="SHA-256 that the archive must have.", show_default="the first download's", metavar="HEX"),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Download the prices of the StockNet data set.

    These are 88 US stocks from September 2012 to September 2017. The archive is kept in TICKERFORGE_HOME.
    """
    with terminal_session(debug=debug):
        set_environment()
        from tickerforge.tasks.base.paths import Workspace
        from tickerforge.tasks.prices import source_local, source_stocknet
        from tickerforge.tasks.prices.folders import list_tickers

        source = source_stocknet.unpacked(Workspace.current().downloads, url=url or source_stocknet.URL, sha256=sha256)
        _fill(stocks or list_tickers(source), lambda stock: source_local.copy_prices(data, stock, source=source))


@data_app.command("import", epilog="Example: tickerforge data import all_stocks.csv --data prices/")
def import_command(
    source: Annotated[
        Path, typer.Argument(help="Folder of price files, or a file with one or many tickers.", metavar="FROM")
    ],
    data: _Folder,
    stocks: options.Stocks = None,
    debug: options.Debug = False,
) -> None:
    """Read price files of any source, and write one {STOCK}.csv per ticker in Yahoo's columns.

    The table shows what was recognised and repaired. A file that holds other prices is not overwritten. If the prices
    of a ticker are faulty, the command writes the others, reports the fault, and ends with exit code 2.
    """
    with terminal_session(debug=debug):
        set_environment()
        from tickerforge.tasks.prices import source_local
        from tickerforge.tasks.prices.folders import list_tickers

        _fill(stocks or list_tickers(source), lambda stock: source_local.import_prices(data, stock, source=source))


@data_app.command(epilog="Example: tickerforge data synthetic --data prices/ --stock DEMO")
def synthetic(
    data: _Folder,
    stock: Annotated[str, typer.Option(help="Name of the file.", metavar="TICKER")] = "DEMO",
    recipe: options.Recipe = None,
    set_: options.Assignments = None,
    debug: options.Debug = False,
) -> None:
    """Write prices of the synthetic market.

    The settings synthetic.* describe the market, for example --set synthetic.sessions=500.
    """
    with terminal_session(debug=debug):
        from tickerforge.flows.settings.config import build_config

        config = build_config(recipe=recipe, assignments=set_ or ())
        set_environment()
        from tickerforge.tasks.prices import source_local

        _fill([stock], lambda name: source_local.write_synthetic(data, name, config=config.synthetic))


def _day(text: str | None) -> date | None:
    """Parse the day that `--start` gives."""
    from tickerforge.flows.errors import ConfigError

    try:
        return date.fromisoformat(text) if text is not None else None
    except ValueError as error:
        raise ConfigError(f"--start {text!r}: write a day as YYYY-MM-DD, for example 2010-01-01") from error


def _fill(stocks: Sequence[str], fill: Callable[[str], "Filled"], *, at_once: int = 1) -> None:
    """Fill the files, with a progress bar; a fault in one is reported at the end and does not stop the others."""
    from concurrent.futures import ThreadPoolExecutor, as_completed

    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from tickerforge.features.errors import FeaturesError
    from tickerforge.features.prices.tickers import spelled
    from tickerforge.flows.server.outcome import BAD_INPUT
    from tickerforge.tasks.base.errors import MarketDataError, PublishError

    if not stocks:
        raise MarketDataError("there are no stocks to fill: name them with --stock")
    names = tuple(dict.fromkeys(stocks))
    done: dict[str, Filled] = {}
    faults: dict[str, str] = {}
    console = Console(stderr=True)
    # The bar says the same at a terminal.
    shown = {"terminal": not console.is_terminal}
    columns = (
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[last]}"),
    )
    with (
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
        ThreadPoolExecutor(at_once) as pool,
    ):
        bar = progress.add_task("prices", total=len(names), last="")
        running = {pool.submit(lambda name: fill(spelled(name)), name): name for name in names}
        try:
            for place, future in enumerate(as_completed(running), start=1):
                stock = running[future]
                try:
                    done[stock] = future.result()
                    logger.info("%d of %d: %s ends on %s", place, len(names), stock, done[stock].last, extra=shown)
                except (FeaturesError, MarketDataError, PublishError) as error:
                    logger.warning("%d of %d: %s failed", place, len(names), stock, extra=shown)
                    faults[stock] = str(error)
                progress.update(bar, advance=1, last=stock)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    show(_table([done[stock] for stock in names if stock in done]))
    for stock in names:
        if stock in faults:
            complain(faults[stock])
    if faults:
        raise typer.Exit(BAD_INPUT)


def _table(done: Sequence["Filled"]) -> "Table":
    from rich.table import Table

    table = Table("stock", "sessions", "new", "first", "last", "", box=None, pad_edge=False)
    for each in done:
        table.add_row(each.stock, str(each.sessions), str(each.added), str(each.first), str(each.last), each.note)
    return table
