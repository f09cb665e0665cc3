"""Serves the flow `train-ticker` to a running Prefect server: by hand from its UI, and nightly for given tickers.

Start a server (`prefect server start`), then `python -m deployments.serve --ticker AAPL --data prices/`. Runs happen in
this process's working folder, for as long as it runs.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

    from flows.config import PipelineConfig

NIGHTLY = "30 23 * * 1-5"
EXCHANGE_ZONE = "America/New_York"
API_VARIABLE = "PREFECT_API_URL"


def deployments(
    config: "PipelineConfig", *, tickers: tuple[str, ...] = (), cron: str = NIGHTLY, timezone: str = EXCHANGE_ZONE
) -> "list[RunnerDeployment]":
    """The deployments to serve: `manual`, and `nightly-{TICKER}` for each ticker.

    Args:
        config: What the UI's form starts from, and what the nightly runs use but for the stock.
        tickers: Stocks to train every night.
        cron: When, in the cron notation.
        timezone: The zone that `cron` is meant in.

    Raises:
        ConfigError: If a ticker has no prices.
    """
    from prefect.schedules import Cron

    from deployments.entries import NIGHT_SLUG
    from flows.config import check_source, with_overrides
    from flows.pipeline import train_ticker

    served: list[Any] = [
        train_ticker.to_deployment(
            name="manual",
            parameters={"config": config.model_dump(mode="json")},
            description="Train, compare and register one ticker, now.",
            tags=["tickerforge"],
        )
    ]
    for ticker in tickers:
        nightly = with_overrides(config, [f"stock={ticker}"])
        check_source(nightly)
        served.append(
            train_ticker.to_deployment(
                name=f"nightly-{ticker}",
                parameters={"config": nightly.model_dump(mode="json")},
                schedule=Cron(cron, timezone=timezone, slug=NIGHT_SLUG),
                description=f"Retrain {ticker} every night.",
                tags=["tickerforge", "nightly"],
            )
        )
    return served


def main(
    ticker: Annotated[list[str] | None, typer.Option(help="Stock to train every night; repeatable.")] = None,
    cron: Annotated[str, typer.Option(help="When to train the tickers.")] = NIGHTLY,
    timezone: Annotated[str, typer.Option(help="Zone of --cron.")] = EXCHANGE_ZONE,
    data: Annotated[Path | None, typer.Option(help="Folder with one {STOCK}.csv a ticker.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Settings from a TOML file.")] = None,
) -> None:
    """Serve train-ticker/manual and train-ticker/nightly-TICKER until stopped."""
    from flows.config import build_config
    from flows.errors import ConfigError
    from flows.logs import send_to_prefect
    from tasks.environment import set_embedded_defaults
    from tasks.paths import Workspace

    if not os.environ.get(API_VARIABLE):
        raise typer.BadParameter(
            f"set {API_VARIABLE} to the server's API first, for example http://127.0.0.1:4200/api; "
            "`prefect server start` starts one"
        )
    set_embedded_defaults(Workspace.current())
    send_to_prefect()
    try:
        config = build_config(recipe=recipe, flags={"data": data.resolve() if data else None})
        served = deployments(config, tickers=tuple(ticker or ()), cron=cron, timezone=timezone)
    except (ConfigError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    from prefect import serve

    serve(*served)


if __name__ == "__main__":
    typer.run(main)
