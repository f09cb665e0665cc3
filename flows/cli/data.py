"""The commands `tickerforge data`: fill a folder with price files, or bring it up to date."""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tickerforge.flows.cli import options
from tickerforge.flows.cli.terminal import command, complain, prepare, show

if TYPE_CHECKING:
    from rich.table import Table

    from tickerforge.tasks.prices.price_files import Filled

logger = logging.getLogger(__name__)

app = typer.Typer(
    help="Fill a folder with price files, or bring it up to date. No file ever loses a session by it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Folder = Annotated[
    Path, typer.Option("--data", help="Folder with one {STOCK}.csv a ticker, in Yahoo's columns.", metavar="FOLDER")
]
Stocks = Annotated[
    list[str] | None,
    typer.Option("--stock", help="Ticker, repeatable.", show_default="all", metavar="TICKER"),
]


@app.command(epilog="Example: tickerforge data yahoo --stock AAPL --stock MSFT --data prices/")
def yahoo(
    data: Folder,
    stocks: Annotated[
        list[str] | None,
        typer.Option("--stock", help="Ticker, repeatable.", show_default="all of the folder", metavar="TICKER"),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(help="First day of new files; files that begin later are fetched anew.", metavar="YYYY-MM-DD"),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Fetch daily prices from Yahoo Finance.

    Only sessions that are missing are asked for. Where a dividend or a split has changed the adjusted closes since, the
    whole history is fetched anew.
    """
    with command(debug=debug):
        first = _day(start)
        prepare()
        from tickerforge.tasks.prices import source_yahoo
        from tickerforge.tasks.prices.market_data import list_tickers

        now = datetime.now(UTC)
        _fill(stocks or list_tickers(data), lambda stock: source_yahoo.fill(data, stock, now=now, first=first))


@app.command(epilog="Example: tickerforge data stocknet --data prices/")
def stocknet(
    data: Folder,
    stocks: Stocks = None,
    url: Annotated[
        str | None,
        typer.Option(help="The archive elsewhere.", show_default="a fixed revision on GitHub", metavar="URL"),
    ] = None,
    sha256: Annotated[
        str | None,
        typer.Option(help="Hash that the archive must have.", show_default="that of the first download", metavar="HEX"),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Download the StockNet data set's prices.

    88 US stocks, September 2012 to September 2017; the archive is kept in TICKERFORGE_HOME.
    """
    with command(debug=debug):
        prepare()
        from tickerforge.tasks.base.paths import Workspace
        from tickerforge.tasks.prices import source_csv, source_stocknet
        from tickerforge.tasks.prices.market_data import list_tickers

        source = source_stocknet.unpacked(Workspace.current().downloads, url=url or source_stocknet.URL, sha256=sha256)
        _fill(stocks or list_tickers(source), lambda stock: source_csv.fill(data, stock, source=source))


@app.command(epilog="Example: tickerforge data csv downloads/ --data prices/")
def csv(
    source: Annotated[Path, typer.Argument(help="Folder to copy from.", metavar="FROM")],
    data: Folder,
    stocks: Stocks = None,
    debug: options.Debug = False,
) -> None:
    """Check the price files of a folder and copy them.

    A faulty file leaves the others alone.
    """
    with command(debug=debug):
        prepare()
        from tickerforge.tasks.prices import source_csv
        from tickerforge.tasks.prices.market_data import list_tickers

        _fill(stocks or list_tickers(source), lambda stock: source_csv.fill(data, stock, source=source))


@app.command(epilog="Example: tickerforge data synthetic --data prices/ --stock DEMO")
def synthetic(
    data: Folder,
    stock: Annotated[str, typer.Option(help="Name of the file.", metavar="TICKER")] = "DEMO",
    recipe: options.Recipe = None,
    set_: options.Assignments = None,
    debug: options.Debug = False,
) -> None:
    """Write prices of the synthetic market.

    Its settings are those below synthetic: --set synthetic.sessions=500.
    """
    with command(debug=debug):
        from tickerforge.flows.settings.config import build_config

        config = build_config(recipe=recipe, assignments=set_ or ())
        prepare()
        from tickerforge.tasks.prices import source_synthetic

        _fill([stock], lambda name: source_synthetic.fill(data, name, config=config.synthetic))


def _day(text: str | None) -> date | None:
    from tickerforge.flows.errors import ConfigError

    try:
        return date.fromisoformat(text) if text is not None else None
    except ValueError as error:
        raise ConfigError(f"--start {text!r}: write a day as YYYY-MM-DD, for example 2010-01-01") from error


def _fill(stocks: Sequence[str], fill: Callable[[str], "Filled"]) -> None:
    """Fill one file after the other; the faults of one leave the others alone."""
    from tickerforge.features.errors import FeaturesError
    from tickerforge.flows.server.outcome import BAD_INPUT
    from tickerforge.tasks.base.errors import MarketDataError, PublishError

    if not stocks:
        raise MarketDataError("there are no stocks to fill: name them with --stock")
    names = tuple(dict.fromkeys(stocks))
    done, faults = [], []
    for place, stock in enumerate(names, start=1):
        try:
            done.append(fill(stock))
            logger.info("%d of %d: %s ends on %s", place, len(names), stock, done[-1].last)
        except (FeaturesError, MarketDataError, PublishError) as error:
            logger.warning("%d of %d: %s failed", place, len(names), stock)
            faults.append(str(error))
    show(_table(done))
    for fault in faults:
        complain(fault)
    if faults:
        raise typer.Exit(BAD_INPUT)


def _table(done: Sequence["Filled"]) -> "Table":
    from rich.table import Table

    table = Table("stock", "sessions", "new", "first", "last", "", box=None, pad_edge=False)
    for each in done:
        table.add_row(each.stock, str(each.sessions), str(each.added), str(each.first), str(each.last), each.note)
    return table
