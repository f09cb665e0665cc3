"""Malformed price files: how each is made, and how it must end."""

import gzip
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import NamedTuple

from price_sources import zipped
from tickerforge.features.config import SyntheticConfig
from tickerforge.features.synthetic import market

HEADER = "Date,Open,High,Low,Close,Adj Close,Volume"
SESSIONS = 300


class Hostile(NamedTuple):
    """A case: `ends` is the repair or oddity it is counted as, or parts of the error that refuses it."""

    name: str
    make: Callable[[list[str]], str | bytes]
    ends: str | tuple[str, ...]


def good_lines() -> list[str]:
    """The lines of a price file without fault, header first, on business days."""
    bars = market(SyntheticConfig(sessions=SESSIONS))
    rows = zip(*(bars[name] for name in ("date", "open", "high", "low", "close", "adj_close", "volume")), strict=True)
    return [HEADER, *(f"{day:%Y-%m-%d}," + ",".join(f"{value:.6f}" for value in values) for day, *values in rows)]


def text(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def with_cell(
    column: str, value: str, *, row: int = 50, then: tuple[str, str] | None = None
) -> Callable[[list[str]], str]:
    """One cell of the file's `row`, as an editor counts, replaced, and perhaps another one."""

    def make(lines: list[str]) -> str:
        cells = lines[row - 1].split(",")
        for name, cell in [(column, value), *([then] if then else [])]:
            cells[HEADER.split(",").index(name)] = cell
        return text([*lines[: row - 1], ",".join(cells), *lines[row:]])

    return make


def each_row(change: Callable[[str], str]) -> Callable[[list[str]], str]:
    return lambda lines: text([lines[0], *map(change, lines[1:])])


def with_row(change: Callable[[list[str], str], list[str]], *, row: int = 50) -> Callable[[list[str]], str]:
    return lambda lines: text([*lines[: row - 1], *change(lines, lines[row - 1]), *lines[row:]])


def all_prices(price: float) -> Callable[[list[str]], str]:
    """Prices of another size with the movement kept."""

    def change(line: str) -> str:
        day, *prices, volume = line.split(",")
        return ",".join([day, *(f"{float(each) / 100 * price:.9e}" for each in prices), volume])

    return each_row(change)


def constant(line: str) -> str:
    return f"{line[:10]},5,5,5,5,5,100"


def day_later(line: str) -> str:
    """The last row again, later on the same day, with another close."""
    day, open_, high, low, close, *_ = line.split(",")
    return f"{day} 16:00,{open_},{high},{low},{close}1,{close}1,77"


def halted(before: str, line: str) -> str:
    """A session without trade as some sources write it: no range, and the close of the row before."""
    close = before.split(",")[4]
    return f"{line[:10]},0,0,0,{close},{close},0"


def halved(line: str) -> str:
    day, *prices, volume = line.split(",")
    return ",".join([day, *(repr(float(price) / 2) for price in prices), volume])


def decimal_commas(line: str) -> str:
    return ";".join(cell.replace(".", ",") for cell in line.split(","))


ROW_50 = ("ACME.csv, row 50, column ",)
HOSTILE = [
    Hostile("utf-8 with a byte order mark", lambda lines: "\ufeff" + text(lines), "byte_order_marks"),
    Hostile("utf-16", lambda lines: text(lines).encode("utf-16"), "encodings"),
    Hostile(
        "latin-1 in a column of its own",
        lambda lines: text([f"{lines[0]},Note", *(f"{each},Börse" for each in lines[1:])]).encode("latin-1"),
        "encodings",
    ),
    Hostile("a binary file", lambda lines: b"\x89PNG\r\n\x1a\n\x00\x00", ("a picture", "save the prices as CSV")),
    Hostile("other bytes", lambda lines: b"\x7fELF\x02\x01\n\x00\x00", ("row 2", "binary", "save it as CSV")),
    Hostile("half an archive", lambda lines: b"PK\x03\x04\x14\x00\x00\x00", ("cannot be unpacked", "again")),
    Hostile("half a compressed file", lambda lines: gzip.compress(text(lines).encode())[:900], ("cannot be unpacked",)),
    Hostile("a compressed file", lambda lines: gzip.compress(text(lines).encode()), "compressed"),
    Hostile("a workbook", lambda lines: zipped("", "xl/workbook.xml"), ("Excel workbook", "save the sheet")),
    Hostile("a web page", lambda lines: "<html>\n<body>429 Too Many Requests</body>\n", ("a web page",)),
    Hostile("json", lambda lines: '{"chart": {"result": null}}\n{}\n', ("JSON", "save the prices as CSV")),
    Hostile("nothing", lambda lines: "", ("the file is empty", "needs a header")),
    Hostile("only blanks", lambda lines: " \n\n \n", ("the file is empty",)),
    Hostile("a header and no rows", lambda lines: lines[0], ("has a header and no rows", "needs one row per session")),
    Hostile("rows and no header", lambda lines: text(lines[1:]), ("column Date is missing",)),
    Hostile("one row", lambda lines: text(lines[:2]), ("ACME: 1 sessions", "use a longer price history")),
    Hostile("too few rows", lambda lines: text(lines[:80]), ("ACME: 79 sessions", "are needed")),
    Hostile("semicolons", lambda lines: text(lines).replace(",", ";"), "separators"),
    Hostile("tabs", lambda lines: text(lines).replace(",", "\t"), "separators"),
    Hostile(
        "decimal commas with semicolons",
        lambda lines: text([lines[0].replace(",", ";"), *map(decimal_commas, lines[1:])]),
        "number_forms",
    ),
    Hostile("decimal commas with commas", with_cell("Open", "99,5"), ("row 50", "8 cells", "correct or delete")),
    Hostile("decimal comma in quotes", with_cell("Open", '"99,5"'), (*ROW_50, "Open", "'99,5'", "plain number")),
    Hostile("thousands separators", with_cell("Volume", '"1,234,567"'), "number_forms"),
    Hostile("thousands with apostrophes", with_cell("Volume", "1'234'567"), "number_forms"),
    Hostile("currency signs", with_cell("Close", "$98.5"), "number_forms"),
    Hostile("two currencies", with_cell("Close", "$98.5", then=("Open", "€98.4")), ("several currencies ($, €)",)),
    Hostile("other digits", with_cell("Close", "１０１"), (*ROW_50, "Close", "is not a number")),
    Hostile("underscores in numbers", with_cell("Close", "1_01"), (*ROW_50, "Close", "'1_01'")),
    Hostile("hexadecimal", with_cell("Close", "0x65"), (*ROW_50, "Close", "'0x65'")),
    Hostile("a formula", with_cell("Close", "=A1"), (*ROW_50, "Close", "'=A1'")),
    Hostile("mixed date formats", with_cell("Date", "03/13/2015"), (*ROW_50, "Date", "YYYY-MM-DD")),
    Hostile("dates of the day first", each_row(lambda each: f"31.12.2015{each[10:]}"), ("each date 300 times",)),
    Hostile("a day that is none", with_cell("Date", "2015-02-30"), (*ROW_50, "Date", "'2015-02-30' is not a date")),
    Hostile("dates as numbers", with_cell("Date", "42076"), (*ROW_50, "Date", "is not a date")),
    Hostile("a date in another era", with_cell("Date", "0015-03-12"), (*ROW_50, "Date", "from 1800 to 2199")),
    Hostile("time zones", each_row(lambda each: f"{each[:10]} 00:00:00-05:00{each[10:]}"), "times_of_day"),
    Hostile("times in UTC", each_row(lambda each: f"{each[:10]}T21:00:00Z{each[10:]}"), "times_of_day"),
    Hostile("a row twice", with_row(lambda lines, row: [row, row]), "repeated_rows"),
    Hostile(
        "two rows of one date", with_cell("Date", "2015-03-11", row=51), ("row 51, column Date", "keep one row")
    ),
    Hostile(
        "newest first", lambda lines: text([lines[0], *reversed(lines[1:])]), "newest_first"
    ),
    Hostile("rows of no price", with_row(lambda lines, row: [f"{row[:10]},null,null,null,null,null,0"]),
            "rows_without_prices"),
    Hostile("a hole of a year", lambda lines: text(lines[:20] + lines[-250:][60:]), ("quality.max_missing",)),
    Hostile("a hole of a week", lambda lines: text(lines[:100] + lines[105:]), "missing"),
    Hostile("a price of zero", with_cell("Close", "0"), (*ROW_50, "Close", "0.0 is not a positive price")),
    Hostile("a negative price", with_cell("Adj Close", "-3"), (*ROW_50, "Adj Close", "-3.0", "delete the row")),
    Hostile("nan", with_cell("Low", "nan"), (*ROW_50, "Low", "'nan' is a missing value")),
    Hostile("inf", with_cell("High", "inf"), (*ROW_50, "High", "'inf' is not a number")),
    Hostile("a number too large", with_cell("High", "1e400"), (*ROW_50, "High", "inf is not a finite number")),
    Hostile("high below low", with_cell("High", "1"), (*ROW_50, "High", "lower than the low")),
    Hostile("close above high", with_cell("Close", "130"), "prices_outside_range"),
    Hostile("open at twice the high", with_cell("Open", "200"), (*ROW_50, "Open", "200.0 is far outside low and high")),
    Hostile("prices of 1e12", all_prices(1e12), "extreme_prices"),
    Hostile("prices of 1e-8", all_prices(1e-8), "extreme_prices"),
    Hostile("prices below 1e-9", all_prices(1e-10), ("row 2, column Open", "not a plausible price", "another unit")),
    Hostile("prices beyond all bounds", all_prices(1e300), ("row 2, column Open", "not a plausible price")),
    Hostile("prices that never move", each_row(constant), ("ACME: the prices do not move", "check the data")),
    Hostile("a price a hundred times too large for a day", with_cell("Adj Close", "10000"),
            ("the adjusted close jumps", "2015-03-11: times 101", "back at once", "--accept-jumps")),
    Hostile("no column of volume", lambda lines: text([each.rpartition(",")[0] for each in lines]),
            "no_volume"),
    Hostile("an empty volume", with_cell("Volume", ""), "missing_volumes"),
    Hostile("a negative volume", with_cell("Volume", "-1"), (*ROW_50, "Volume", "negative volume")),
    Hostile("volumes of zero", each_row(lambda each: f"{each.rpartition(',')[0]},0"), "sessions_without_volume"),
    Hostile("a column twice", lambda lines: text([lines[0].replace("Open", "Close"), *lines[1:]]), ("appears twice",)),
    Hostile("further columns", each_row(lambda each: f"{each},x"), ("row 2", "8 cells", "row 21", "280 more faulty")),
    Hostile("further columns with a name",
            lambda lines: text([f"{lines[0]},Sector", *(f"{each},x" for each in lines[1:])]), "other_columns"),
    Hostile("blank rows", with_row(lambda lines, row: ["", row, "  "]), "blank_rows"),
    Hostile("a banner", lambda lines: "Prices of ACME\n\n" + text(lines), "banner_rows"),
    Hostile("a note at the end", lambda lines: text(lines) + "Downloaded from example.com\n", "footer_rows"),
    Hostile("the header again", with_row(lambda lines, row: [lines[0], row]), "header_rows"),
    Hostile("no header, but a known order",
            lambda lines: text([",".join([*each.split(",")[:5], each.split(",")[6]]) for each in lines[1:]]),
            "no_header"),
    Hostile("dates in words", each_row(lambda each: f'"{date.fromisoformat(each[:10]):%b %d, %Y}"{each[10:]}'),
            "date_forms"),
    Hostile("other names", lambda lines: text([lines[0].replace("Volume", "Vol."), *lines[1:]]), "renamed_columns"),
    Hostile("no adjusted close", lambda lines: text([lines[0].replace("Adj Close", "Note"), *lines[1:]]),
            "no_adjusted_close"),
    Hostile("adjusted prices alone",
            lambda lines: text(["Date,adjOpen,adjHigh,adjLow,Note,adjClose,Volume", *lines[1:]]), "adjusted_only"),
    Hostile("a split", lambda lines: text([*lines[:150], *map(halved, lines[150:])]), ("split of 2 for 1",)),
    Hostile("another ticker in a column",
            lambda lines: text([f"{lines[0]},Symbol", *(f"{each},MSFT" for each in lines[1:])]), "other_symbols"),
    Hostile("the last day twice",
            lambda lines: text([*lines[:-1], lines[-1].replace(",", " 10:30,", 1), day_later(lines[-1])]),
            "earlier_rows"),
    Hostile("a halt", with_row(lambda lines, row: [halted(lines[48], row)]), "halts"),
    Hostile("a halt at another price", with_row(lambda lines, row: [halted(lines[30], row)]),
            (*ROW_50, "Open", "0.0 is not a positive price")),
    Hostile("closes alone", lambda lines: text([",".join(line.split(",")[::4]) for line in lines]), "close_only"),
    Hostile("a dividend between the rows", with_row(lambda lines, row: [row, f"{row[:10]},0.24 Dividend"]),
            "event_rows"),
    Hostile("rows of a bond too",
            lambda lines: text([f"{lines[0]},Series", *(f"{row},{own}" for row in lines[1:] for own in ("EQ", "N1"))]),
            "other_series"),
    Hostile("cells as formulas", each_row(lambda row: f'="{row[:10]}"{row[10:]}'), "wrapped_cells"),
    Hostile("a row cut off", lambda lines: text(lines)[:-30], ("row 301", "correct or delete the row")),
    Hostile("a quote that never ends", with_cell("Open", '"99'), ("row 50", "correct or delete the row")),
    Hostile("a cell of a million digits", with_cell("Open", "1" * 1_000_000), ("row 50", "not readable as CSV")),
    Hostile("a nul byte", with_cell("Open", "9\0"), ("row 50", "binary")),
    Hostile("control characters", with_cell("Open", "9\x1b[31m"), (*ROW_50, "'9\\x1b[31m'")),
]  # fmt: skip


def unusual_places(folder: Path) -> dict[str, str]:
    """Make things named like price files that are none; what the error says of each."""
    good = text(good_lines())
    (folder / "FOLDER.csv").mkdir()
    (folder / "BROKEN.csv").symlink_to(folder / "nowhere.csv")
    (folder / "LOOP.csv").symlink_to(folder / "LOOP.csv")
    with (folder / "HUGE.csv").open("wb") as file:
        file.write(good.encode())
        file.truncate(10 * 2**30)
    for name in ("spaced name", "ÄPFEL", "name\nof two lines", ".hidden", "N" * 200, "日本"):
        (folder / f"{name}.csv").write_text(good)
    return {
        "FOLDER": "is a folder or a broken link",
        "BROKEN": "is a folder or a broken link",
        "LOOP": "is a folder or a broken link",
        "HUGE": "keep only the daily rows of one stock in it",
        "spaced name": "is not a ticker name",
        "ÄPFEL": "is not a ticker name",
        "name\nof two lines": "is not a ticker name",
        ".hidden": "is not a ticker name",
        "N" * 200: "is not a ticker name",
        "日本": "is not a ticker name",
        "a/b": "is not a ticker name",
        "../ACME": "is not a ticker name",
        "N" * 300: "is not a ticker name",
    }
