"""What `tickerforge benchmark stocknet` shows: the standings, and every ticker's errors."""

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tickerforge.evaluation.core.contracts import PERSISTENCE
from tickerforge.evaluation.core.labels import METRICS, model_label

if TYPE_CHECKING:
    from tickerforge.evaluation.bench.standings import Standing, Standings

LABELS = {
    "drift": "Drift, per ticker",
    "common_drift": "Drift, common (shrunk)",
    "ridge": "Ridge, pooled",
    "ets": "ETS",
    "theta": "Theta",
    "arima": "AutoARIMA",
}
HEADERS = ("MSE", "median", "trimmed", "MAE", "median", "trimmed", "MSE / persistence's", "p")


def standings(found: "Standings") -> RenderableType:
    """The table of forecasters, the published figures below them, each ticker's errors, and the notes."""
    return Group(_summary(found), *_remarks(found), Text(), _per_ticker(found))


def label(name: str) -> str:
    """The name a reader sees."""
    return LABELS.get(name, model_label(name))


def _summary(found: "Standings") -> Table:
    table = Table(
        title=f"{found.tickers} tickers, {found.windows} test windows, {found.first_origin} to {found.last_target}; "
        "errors in standard deviations of the train rows, mean, median and 10 % trimmed mean over tickers",
        title_justify="left",
    )
    table.add_column("Forecaster")
    table.add_column("Windows", justify="right")
    for header in HEADERS:
        table.add_column(header, justify="right")
    least = min(each.against_persistence for each in found.standings)
    for each in found.standings:
        style = "green" if each.against_persistence == least else ""
        table.add_row(*_cells(each), style=style)
    table.add_section()
    for figure in found.published:
        cells = (f"{figure.name} ({figure.tickers} tickers)", "", f"{figure.mse:.4f}", "", "", f"{figure.mae:.4f}")
        table.add_row(*cells, *[""] * 4, style="dim")
    return table


def _cells(each: "Standing") -> tuple[str, ...]:
    windows = f"{each.windows}" if each.is_complete else f"{each.windows}*"
    figures = (each.mse, each.mse_median, each.mse_trimmed, each.mae, each.mae_median, each.mae_trimmed)
    chance = "" if each.name == PERSISTENCE else METRICS["p_value"].write(each.p_value)
    name = f"{label(each.name)} (chosen)" if each.is_chosen else label(each.name)
    return (name, windows, *(f"{figure:.4f}" for figure in figures), f"{each.against_persistence:.4f}", chance)


def _remarks(found: "Standings") -> list[Text]:
    lines = [
        "p: chance of such an advantage over persistence if there were none (Diebold-Mariano, one-sided, windows of "
        "one date as one).",
        *(f"{figure.name}: {figure.source}." for figure in found.published),
    ]
    if not all(each.is_complete for each in found.standings):
        lines.append(
            "*: asked for these windows only. Its mean is over other windows than the published ones; compare its MSE "
            "/ persistence's, which is on the same."
        )
    lines += [
        f"{label(each.name)} left {each.unanswered} windows unanswered; they are scored as persistence."
        for each in found.standings
        if each.unanswered
    ]
    lines += [f"{label(each.name)}: p is set to 1, {each.note}." for each in found.standings if each.note]
    return [Text(line) for line in (*lines, *found.notes)]


def _per_ticker(found: "Standings") -> Table:
    table = Table(title="MSE of each ticker", title_justify="left")
    table.add_column("Ticker")
    table.add_column("Windows", justify="right")
    for each in found.standings:
        table.add_column(label(each.name), justify="right")
    for ticker, errors in found.of(PERSISTENCE).tickers.items():
        own = [each.tickers.get(ticker) for each in found.standings]
        least = min(value.mse for value in own if value is not None)
        cells = [Text("" if v is None else f"{v.mse:.4f}", style="green" if v and v.mse == least else "") for v in own]
        table.add_row(ticker, str(errors.windows), *cells)
    return table
