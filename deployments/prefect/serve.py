"""Serves the flow `train-ticker` to a running Prefect server: by hand from its UI, and nightly for given tickers.

Start a server (`prefect server start`), then it with `--ticker AAPL --data prices/`. Runs happen in
this process's working folder, for as long as it runs.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

    from tickerforge.flows.settings.config import PipelineConfig

NIGHTLY = "30 23 * * 1-5"
EXCHANGE = "XNYS"
API_VARIABLE = "PREFECT_API_URL"


def deployments(
    config: "PipelineConfig", *, tickers: tuple[str, ...] = (), cron: str = NIGHTLY, exchange: str = EXCHANGE
) -> "list[RunnerDeployment]":
    """The deployments to serve, as `deploy` makes them but with all stages here: `manual`, and `nightly-{TICKER}`.

    Args:
        config: What the UI's form starts from, and what the nightly runs use but for the stock.
        tickers: Stocks to train every night.
        cron: When, in the cron notation and the time zone of the exchange.
        exchange: Calendar of the days on which to train them.

    Raises:
        ConfigError: If a ticker has no prices.
        MarketDataError: If the exchange is unknown, or there is no such data folder.
    """
    from prefect.schedules import Cron

    from tickerforge.deployments.prefect.deploy import prepare
    from tickerforge.deployments.prefect.entries import TRAIN_TICKER, Ticker, Tickers, nightly_entries, read_entries
    from tickerforge.flows.settings.stocks import stocks_of

    listed = Tickers(exchange=exchange, tickers={ticker: Ticker(cron=cron) for ticker in tickers})
    manual = next(entry for entry in read_entries() if entry.entrypoint == TRAIN_TICKER)
    served: list[Any] = []
    for entry in (manual, *nightly_entries(listed)):
        flow, parameters = prepare(entry, config=config, stocks=list(stocks_of(config)))
        made = flow.to_deployment(
            entry.name,
            parameters=parameters | {"heavy_stages": "here"},
            schedules=[Cron(each.cron, timezone=each.timezone, slug=each.slug) for each in entry.schedules],
            description=entry.description,
            tags=list(entry.tags),
        )
        served.append(made)
    return served


def main(
    ticker: Annotated[list[str] | None, typer.Option(help="Stock to train every night; repeatable.")] = None,
    cron: Annotated[str, typer.Option(help="When to train the tickers.")] = NIGHTLY,
    exchange: Annotated[str, typer.Option(help="Calendar of their sessions, in whose zone --cron is.")] = EXCHANGE,
    data: Annotated[Path | None, typer.Option(help="Folder with one {STOCK}.csv a ticker.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Settings from a TOML file.")] = None,
) -> None:
    """Serve train-ticker/manual and train-ticker/nightly-TICKER until stopped."""
    from tickerforge.flows.errors import ConfigError
    from tickerforge.flows.server.logs import send_to_prefect
    from tickerforge.flows.settings.config import build_config
    from tickerforge.tasks.base.environment import set_embedded_defaults
    from tickerforge.tasks.base.errors import MarketDataError
    from tickerforge.tasks.base.paths import Workspace

    if not os.environ.get(API_VARIABLE):
        raise typer.BadParameter(
            f"set {API_VARIABLE} to the server's API first, for example http://127.0.0.1:4200/api; "
            "`prefect server start` starts one"
        )
    set_embedded_defaults(Workspace.current())
    send_to_prefect()
    try:
        config = build_config(recipe=recipe, flags={"data": data.resolve() if data else None})
        served = deployments(config, tickers=tuple(ticker or ()), cron=cron, exchange=exchange)
    except (ConfigError, MarketDataError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    from prefect import serve

    serve(*served)


if __name__ == "__main__":
    typer.run(main)
