"""The tables and sentences that commands print."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tickerforge.evaluation.core.contracts import PERSISTENCE
from tickerforge.evaluation.core.labels import METRICS, Metric, model_label
from tickerforge.features.price_text import price_text
from tickerforge.features.prices.dialects import in_brief

if TYPE_CHECKING:
    from tickerforge.evaluation.bench.standings import Standing, Standings
    from tickerforge.evaluation.core.contracts import EvalReport, Verdict
    from tickerforge.features.prices.quality import QualityReport
    from tickerforge.flows.bench.markets import MarketRun
    from tickerforge.flows.cli.doctor import Check
    from tickerforge.flows.night.next_sessions import Forecast
    from tickerforge.flows.night.nightly import Night
    from tickerforge.flows.prices.preprocess import Preprocessed

_SHOWN_METRICS = ("crps_skill", "crps_p", "crps", "coverage", "skill", "p_value", "mse", "mae", "valid_rate")
_LABELS = {
    "drift": "Drift, per ticker",
    "common_drift": "Drift, common (shrunk)",
    "ridge": "Ridge, pooled",
    "garch": "GJR-GARCH-t",
    "ets": "ETS",
    "theta": "Theta",
    "arima": "AutoARIMA",
}
_PROVISIONAL = (
    "Provisional: a weekday, as the holidays of the exchange are not known for that day. Update the library "
    "exchange-calendars, or name the exchange, such as --set quality.exchange=XETR."
)
_RATIO = Metric("", "", "", "", decimals=2, signed=True)
_HEADERS = ("MSE", "median", "trimmed", "MAE", "median", "trimmed", "MSE / persistence's", "p")


def comparison(report: "EvalReport", verdict: "Verdict") -> RenderableType:
    """Show the comparison on the split that decides, and the verdict in words."""
    from tickerforge.evaluation.comparison.contamination import cut_off, decisive, split_name
    from tickerforge.evaluation.report.tables import METRIC_COLUMNS, written_rows
    from tickerforge.evaluation.report.wording import trading_finding

    shown = [place for place, column in enumerate(METRIC_COLUMNS) if column in _SHOWN_METRICS]
    split = decisive(report)
    summary = report.summary(split)
    sessions = f"{summary.first_origin} to {summary.last_target}"
    title = f"{report.ticker}: {split_name(report, split)}, {summary.windows} windows, {sessions}"
    table = Table(title=title, title_justify="left")
    table.add_column("Model")
    for place in shown:
        table.add_column(METRICS[METRIC_COLUMNS[place]].header, justify="right")
    for row in written_rows(report, split):
        cells = (Text(text, style="green" if best else "") for text, best in (row.cells[place] for place in shown))
        table.add_row(f"{row.label} (chosen)" if row.chosen else row.label, *cells, style="bold" if row.chosen else "")
    mark = Text("promoted" if verdict.promoted else "not promoted", style="green" if verdict.promoted else "yellow")
    lines = [Text(f"  {'+' if reason.passed else '-'} {reason.text}") for reason in verdict.reasons]
    remarks = [Text(words) for words in (cut_off(report), trading_finding(report)) if words]
    return Group(table, *remarks, Text("Verdict: ").append_text(mark), Text(verdict.headline), *lines)


def market_tables(runs: "Sequence[MarketRun]") -> RenderableType:
    """Show for each market its optima, what each stage attained, and how often the gate promoted."""
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


def standings_tables(found: "Standings") -> RenderableType:
    """Show the table of forecasters with the published figures below, the notes, and each ticker's errors."""
    per_ticker = (_errors_per_ticker(found), _volatility_per_ticker(found))
    return Group(_standings(found), _distributions(found), *_remarks(found), Text(), *per_ticker)


def _label(name: str) -> str:
    return _LABELS.get(name, model_label(name))


def _standings(found: "Standings") -> Table:
    table = Table(
        title=f"{found.tickers} tickers, {found.windows} test windows, {found.first_origin} to {found.last_target}; "
        "errors in standard deviations of the train rows, mean, median and 10 % trimmed mean over tickers",
        title_justify="left",
    )
    table.add_column("Forecaster")
    table.add_column("Windows", justify="right")
    for header in _HEADERS:
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
    name = f"{_label(each.name)} (chosen)" if each.is_chosen else _label(each.name)
    return (name, windows, *(f"{figure:.4f}" for figure in figures), f"{each.against_persistence:.4f}", chance)


def _distributions(found: "Standings") -> Table:
    table = Table(title="Distributions, and rankings of the tickers of each date", title_justify="left")
    table.add_column("Forecaster")
    headers = ("Members", "CRPS / persistence's MAE", "CRPS skill", "p", "QLIKE", "In 80 %")
    for header in (*headers, "Rank IC", "t", "ICIR", "IC", "Decile spread"):
        table.add_column(header, justify="right")
    for each in found.standings:
        figures = (
            (each.members or None, METRICS["members"]),
            (each.crps, METRICS["mse"]),
            (each.crps_skill, METRICS["crps_skill"]),
            (each.crps_p, METRICS["p_value"]),
            (each.qlike, METRICS["qlike"]),
            (each.inside, METRICS["coverage"]),
            (each.rank_ic, METRICS["rank_ic"]),
            (each.rank_ic_t, _RATIO),
            (each.icir, _RATIO),
            (each.ic, METRICS["rank_ic"]),
            (each.spread, METRICS["crps_skill"]),
        )
        if any(value is not None for value, _ in figures):
            table.add_row(_label(each.name), *(metric.write(value) for value, metric in figures))
    return table


def _remarks(found: "Standings") -> list[Text]:
    lines = [
        "p: probability of such an advantage over persistence by chance alone (Diebold-Mariano, one-sided, windows of "
        "one date counted as one).",
        "CRPS: log moves in daily σ, mean over windows; its skill and p compare it with the random walk. QLIKE: "
        "variance of the ten sessions, by ranges. Rank IC, IC: correlation of expected and actual move over the "
        "tickers of a date, mean over dates; t by Newey-West; ICIR: mean over standard deviation. Decile spread: "
        "ten-session return of the best tenth of tickers minus the worst, after costs (10 basis points per trade).",
        *(f"{figure.name}: {figure.source}." for figure in found.published),
    ]
    if not all(each.is_complete for each in found.standings):
        lines.append(
            "*: forecasts these windows only. Its mean MSE covers other windows than the published figures: compare "
            "MSE / persistence's, which covers the same windows."
        )
    lines += [
        f"{_label(each.name)} has no forecast for {each.unanswered} windows; they are scored as persistence and, "
        "as distributions, as the random walk."
        for each in found.standings
        if each.unanswered
    ]
    lines += [f"{_label(each.name)}: p is set to 1, {each.note}." for each in found.standings if each.note]
    return [Text(line) for line in (*lines, *found.notes)]


def _errors_per_ticker(found: "Standings") -> Table:
    table = Table(title="MSE per ticker", title_justify="left")
    table.add_column("Ticker")
    table.add_column("Windows", justify="right")
    for each in found.standings:
        table.add_column(_label(each.name), justify="right")
    for ticker, errors in found.of(PERSISTENCE).tickers.items():
        own = [each.tickers.get(ticker) for each in found.standings]
        least = min(value.mse for value in own if value is not None)
        cells = [Text("" if v is None else f"{v.mse:.4f}", style="green" if v and v.mse == least else "") for v in own]
        table.add_row(ticker, str(errors.windows), *cells)
    return table


def _volatility_per_ticker(found: "Standings") -> Table:
    expecting = [each for each in found.standings if each.volatility]
    table = Table(title="Volatility per ticker, yearly: what followed, and what was expected", title_justify="left")
    table.add_column("Ticker")
    for header in ("Realised", *(_label(each.name) for each in expecting)):
        table.add_column(header, justify="right")
    for ticker, first in expecting[0].volatility.items() if expecting else ():
        figures = (each.volatility.get(ticker) for each in expecting)
        cells = (f"{each.expected:.1%}" if each else "" for each in figures)
        table.add_row(ticker, f"{first.realised:.1%}", *cells)
    return table


def night_table(done: "Night") -> RenderableType:
    """Show what a night did, one row per ticker."""
    table = Table(title=f"{len(done.tickers)} tickers", title_justify="left")
    for name in done.tickers[0].row() if done.tickers else ():
        table.add_column(name)
    for each in done.tickers:
        table.add_row(*each.row().values())
    return table


def paths(named: Iterable[tuple[str, Path | str]]) -> RenderableType:
    """List names with their paths, one per line."""
    here = Path.cwd()
    rows = [(name, _from(here, path) if isinstance(path, Path) else path) for name, path in named]
    width = max((len(name) for name, _ in rows), default=0)
    return Group(*(Text(f"{name:<{width}}  {path}", no_wrap=True, overflow="ignore") for name, path in rows))


def _from(folder: Path, path: Path) -> Path:
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def forecast_table(result: "Forecast") -> RenderableType:
    """Show a forecast as a table of prices, who issued it and why, and the challenger's beside it."""
    shown = [_sessions(result)]
    shown += [Text(f"Issued by {result.adapter}: {result.why}.")] if result.why else []
    shown += _sentences(result.warnings)
    if any(session.provisional for session in result.sessions):
        shown.append(Text(_PROVISIONAL))
    if (beside := result.challenger) is not None:
        shown += [Text("\nFor comparison, not issued:"), _sessions(beside)]
        shown += _sentences([f"{beside.why}."] if beside.why else [])
        shown += _sentences([each for each in beside.warnings if each not in result.warnings])
    return Group(*shown)


def _sentences(texts: Sequence[str]) -> list[Text]:
    return [Text(text[0].upper() + text[1:]) for text in texts]


def _sessions(result: "Forecast") -> RenderableType:
    band = f"{result.interval:.0%} band"
    written = partial(price_text, like=result.last_close)
    known = f"after {result.origin}, closed at {written(result.last_close, currency=result.currency)} (adjusted)"
    table = Table(title=f"{result.ticker}: {known}; {result.adapter}", title_justify="left")
    table.add_column("Session")
    table.add_column("Median", justify="right")
    table.add_column(f"{band}, low", justify="right")
    table.add_column(f"{band}, high", justify="right")
    for session in result.sessions:
        bounds = ("no band" if price is None else written(price) for price in (session.lower, session.upper))
        table.add_row(session.day, written(session.median), *bounds)
    return table


def preprocessed(results: Sequence["Preprocessed"]) -> RenderableType:
    """Show per stock its number of windows and the quality of its prices, or its error."""
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
    """Write the numbers of missing and extra sessions, and the repairs; a dash if no calendar was compared."""
    if report is None:
        return "", "", ""
    repairs = in_brief(report.repairs)
    return (str(len(report.missing)), str(len(report.extra)), repairs) if report.exchange else ("-", "-", repairs)


def diagnosis(checks: Sequence["Check"]) -> RenderableType:
    """Show the diagnosis as a table; below a failed check stands its fix."""
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
