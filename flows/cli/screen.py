"""What commands show: tables and sentences for people, built here and printed by the command line."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from tickerforge.evaluation.core.contracts import EvalReport, Verdict
    from tickerforge.features.prices.quality import QualityReport
    from tickerforge.flows.bench.markets import MarketRun
    from tickerforge.flows.cli.doctor import Check
    from tickerforge.flows.night.next_sessions import Forecast
    from tickerforge.flows.night.nightly import Night
    from tickerforge.flows.prices.preprocess import Preprocessed

SHOWN_METRICS = ("skill", "p_value", "scaled_mse", "mse", "mae", "directional_accuracy", "valid_rate")


def comparison(report: "EvalReport", verdict: "Verdict") -> RenderableType:
    """The comparison on the split that decides, and the verdict in words."""
    from tickerforge.evaluation.comparison.contamination import cut_off, decisive, split_name
    from tickerforge.evaluation.core.labels import METRICS
    from tickerforge.evaluation.report.tables import COLUMNS, written_rows
    from tickerforge.evaluation.report.trading import trading_finding

    shown = [place for place, column in enumerate(COLUMNS) if column in SHOWN_METRICS]

    split = decisive(report)
    summary = report.summary(split)
    sessions = f"{summary.first_origin} to {summary.last_target}"
    title = f"{report.ticker}: {split_name(report, split)}, {summary.windows} windows, {sessions}"
    table = Table(title=title, title_justify="left")
    table.add_column("Model")
    for place in shown:
        table.add_column(METRICS[COLUMNS[place]].header, justify="right")
    for row in written_rows(report, split):
        cells = (Text(text, style="green" if best else "") for text, best in (row.cells[place] for place in shown))
        table.add_row(f"{row.label} (chosen)" if row.chosen else row.label, *cells, style="bold" if row.chosen else "")
    mark = Text("promoted" if verdict.promoted else "not promoted", style="green" if verdict.promoted else "yellow")
    lines = [Text(f"  {'+' if reason.passed else '-'} {reason.text}") for reason in verdict.reasons]
    told = [Text(words) for words in (cut_off(report), trading_finding(report)) if words]
    return Group(table, *told, Text("Verdict: ").append_text(mark), Text(verdict.headline), *lines)


def market_tables(runs: "Sequence[MarketRun]") -> RenderableType:
    """For each market its optima, what each stage attained, and what the gate made of it."""
    from tickerforge.flows.bench.markets import summarise

    shown: list[RenderableType] = []
    for market, rows in summarise(runs).items():
        mine = [run for run in runs if run.market == market]
        first, best = mine[0], mine[0].attainable
        table = Table(
            title=f"{market}: persistence 1, process {first.optimum:.3f}, prompt (MSE*, {best.predictor}) "
            f"{best.general:.3f}, on these {first.attained[0].windows} windows {best.asked:.3f}; {len(mine)} seeds",
            title_justify="left",
        )
        for name in list(rows[0])[1:]:
            table.add_column(name, justify="left" if name == "Model" else "right")
        for row in rows:
            table.add_row(*list(row.values())[1:])
        promoted = sum(run.promoted for run in mine)
        seconds = sum(run.seconds for run in mine)
        shown += [table, Text(f"The gate promoted {promoted} of {len(mine)}. Training took {seconds:.0f} s.\n")]
    return Group(*shown)


def night(done: "Night") -> RenderableType:
    """What a night did, one row a ticker."""
    table = Table(title=f"{len(done.tickers)} tickers", title_justify="left")
    for name in done.tickers[0].row() if done.tickers else ():
        table.add_column(name)
    for each in done.tickers:
        table.add_row(*each.row().values())
    return table


def paths(named: Iterable[tuple[str, Path | str]]) -> RenderableType:
    """Where things are, one a line."""
    here = Path.cwd()
    rows = [(name, _from(here, path) if isinstance(path, Path) else path) for name, path in named]
    width = max((len(name) for name, _ in rows), default=0)
    return Group(*(Text(f"{name:<{width}}  {path}", no_wrap=True, overflow="ignore") for name, path in rows))


def _from(folder: Path, path: Path) -> Path:
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def forecast(result: "Forecast") -> RenderableType:
    """The forecast as a table of prices."""
    band = f"{result.interval:.0%} band"
    known = f"after {result.origin}, closed at {result.last_close:,.2f} (adjusted)"
    table = Table(title=f"{result.ticker}: {known}; {result.adapter}", title_justify="left")
    table.add_column("Session")
    table.add_column("Median", justify="right")
    table.add_column(f"{band}, low", justify="right")
    table.add_column(f"{band}, high", justify="right")
    for session in result.sessions:
        prices = (f"{price:,.2f}" for price in (session.median, session.lower, session.upper))
        table.add_row(session.date.isoformat(), *prices)
    return table


def preprocessed(results: Sequence["Preprocessed"]) -> RenderableType:
    """How many windows each stock has and how good its prices are, or what is wrong with it."""
    table = Table()
    table.add_column("Stock")
    for number in ("train", "validation", "test", "missing", "extra", "repairs"):
        table.add_column(number, justify="right")
    table.add_column("Windows", overflow="fold")
    for result in results:
        if result.windows is None:
            table.add_row(result.stock, *[""] * 6, Text(result.error, style="red"))
        else:
            counts = (str(result.windows.meta[split]) for split in ("train", "validation", "test"))
            table.add_row(result.stock, *counts, *_quality(result.quality), str(result.windows.path))
    return table


def _quality(report: "QualityReport | None") -> tuple[str, str, str]:
    """Sessions missing, sessions too many, and things mended; a dash where no calendar was compared."""
    if report is None:
        return "", "", ""
    repairs = str(sum(report.repairs.values()))
    return (str(len(report.missing)), str(len(report.extra)), repairs) if report.exchange else ("-", "-", repairs)


def diagnosis(checks: Sequence["Check"]) -> RenderableType:
    """The diagnosis as a table; a failed check has its cure below it."""
    marks = {True: Text("ok", style="green"), False: Text("FAILED", style="bold red"), None: Text("")}
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column()
    table.add_column(overflow="fold")
    for check in checks:
        text = Text(check.value)
        if check.cure:
            text.append(f"\n→ {check.cure}", style="yellow")
        table.add_row(marks[check.ok], check.name, text)
    return table
