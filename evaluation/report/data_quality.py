"""What the report says about the prices behind it: sessions, what is missing, what was repaired, what is odd."""

from collections.abc import Sequence

from tickerforge.evaluation.core.labels import listed
from tickerforge.features.prices.quality import QualityReport

HEAD = ("Ticker", "Sessions", "First", "Last", "Missing", "Extra", "Repairs", "Odd")


def quality_heading(reports: Sequence[QualityReport]) -> str:
    """The finding, as a heading."""
    counts = {
        "missing session": sum(len(each.missing) for each in reports),
        "extra session": sum(len(each.extra) for each in reports),
        "repair": sum(_repaired(each) for each in reports),
        "odd row": sum(_odd(each) for each in reports),
    }
    found = [f"{count:,} {name}{'' if count == 1 else 's'}" for name, count in counts.items() if count]
    unknown = sum(not each.exchange for each in reports)
    whose = "" if not unknown else " of some tickers" if unknown < len(reports) else ""
    missing = f"what is missing{whose} not known" if unknown else "none missing"
    if not found:
        found = [missing, "nothing repaired", "nothing odd"]
    elif unknown:
        found = [missing, *found]
    return f"Data quality: {sum(each.rows for each in reports):,} sessions of prices, {listed(found)}"


def quality_rows(reports: Sequence[QualityReport]) -> list[tuple[str, ...]]:
    """The reports as text, a head row first: one ticker's in full, of several a row each; nothing without any."""
    if len(reports) == 1:
        table = reports[0].rows_of_table()
        return [tuple(table[0]), *(tuple(row.values()) for row in table)]
    return [HEAD, *map(_row, reports)] if reports else []


def _row(report: QualityReport) -> tuple[str, ...]:
    compared = report.exchange != ""
    counts = (len(report.missing), len(report.extra)) if compared else ("not compared", "not compared")
    return tuple(
        map(str, (report.ticker, report.rows, report.first, report.last, *counts, _repaired(report), _odd(report)))
    )


def _repaired(report: QualityReport) -> int:
    return sum(report.repairs.values())


def _odd(report: QualityReport) -> int:
    return sum(report.oddities.values())
