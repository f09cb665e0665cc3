"""A price table before its cells are read: labels, columns of cells, and where each column of bars is."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from numpy.typing import NDArray

from tickerforge.features.errors import BarsError, shortened
from tickerforge.features.prices.dialects import canonical
from tickerforge.features.prices.schemas import BAR_COLUMNS, YAHOO_COLUMNS
from tickerforge.features.prices.tickers import matching_ticker

_RANGE = ("open", "high", "low")
_NO_PRICE = re.compile(
    r"%|change|return|yield|rate of|volume|turnover|shares|open[ _]?interest"
    r"|market[ _]?cap(?:itali[sz]ation)?(?![^\W_])"
    r"|(?<![^\W_])(?:p[/_ ]?[ebs][ _]?)?ratio(?![^\W_])|(?<![^\W_])p/e(?![^\W_])"
    # Names of funds and tickers hold these words too, so that they must be the whole label.
    r"|^\s*(?:(?:cash|stock)[ _]?)?(?:dividends?|splits?|rsi)(?:[ _]?\d+)?\s*(?:\(.*\))?\s*$",
    re.IGNORECASE,
)
_TICKER_LABEL = re.compile(r"\^?[A-Z0-9][A-Z0-9.=&-]*")


@dataclass
class PriceTable:
    """The cells of one ticker.

    Attributes:
        labels: The header's own names.
        columns: One sequence of texts, or one array of numbers or instants, per label.
        rows: The row of each entry, as an editor counts.
        places: Position of each column of bars, and of `clock` (time of day), among the labels.
        separator: The mark between the cells; empty if there was none.
        faults: Rows that cannot be split into cells: row, what is wrong, and what to do about it.
        repairs: How often each of `dialects.REPAIRS` was made so far.
    """

    labels: list[str]
    columns: list[Sequence[str] | NDArray]
    rows: Sequence[int]
    places: dict[str, int]
    separator: str = ""
    faults: list[tuple[int, str, str]] = field(default_factory=list)
    repairs: dict[str, int] = field(default_factory=dict)


def single(places: Mapping[str, Sequence[int]], labels: Sequence[str], *, name: str) -> dict[str, int]:
    """Return the only position of each column.

    Raises:
        BarsError: If two columns have the same name.
    """
    for column, found in places.items():
        if len(found) > 1 and column != "symbol":
            raise BarsError(
                f"{name}: column {shortened(labels[found[1]])} appears twice in the header; keep one of them"
            )
    return {column: found[0] for column, found in places.items()}


def check_columns(places: Mapping[str, Sequence[int]], labels: Sequence[str], *, name: str) -> dict[str, int]:
    """Return the only position of each column, if none is missing.

    A table without ranges is one of closes alone, and needs no more than a date and a close.

    Raises:
        BarsError: If two columns have the same name, or one is missing.
    """
    found = single(places, labels, name=name)
    adjusted = "adj_close" in found and all(canonical(labels[found[each]]).startswith("adj") for each in _RANGE
                                            if each in found)  # fmt: skip
    ranges = _RANGE if found.keys() & set(_RANGE) or not found.keys() & {"close", "adj_close"} else ()
    for column in ("date", *ranges, "close"):
        if column not in found and not (column == "close" and adjusted):
            raise missing_column(column, labels, name=name)
    return found


def name_closes(labels: Sequence[str], places: dict[str, list[int]]) -> list[str]:
    """Find the closes of a table that names no price: its only column beside the date, or one column per ticker.

    Args:
        labels: The header's own names.
        places: The result of `dialects.locate`, with a date; the close is added to it, if there is one.

    Returns:
        The ticker of each column, and "" for the date; empty if the table has none or one.
    """
    if places.keys() & {"open", "high", "low", "close", "adj_close", "symbol"}:
        return []
    known = {place for found in places.values() for place in found}
    others = [place for place, label in enumerate(labels) if place not in known and label.strip()]
    if len(others) == 1 and not _NO_PRICE.search(labels[others[0]]):
        places["close"] = others
    elif len(others) > 1 and places["date"] == [0] and all(_TICKER_LABEL.fullmatch(labels[place]) for place in others):
        places["close"] = others
        return [label if place in others else "" for place, label in enumerate(labels)]
    return []


def missing_column(column: str, labels: Sequence[str], *, name: str) -> BarsError:
    """Make the error for a table without a column."""
    yahoo = dict(zip(BAR_COLUMNS, YAHOO_COLUMNS, strict=True))[column]
    example = "Date,Open,High,Low,Close,Adj Close,Volume"
    return BarsError(
        f"{name}: column {yahoo} is missing; the header reads {shortened(', '.join(labels), at_most=200)} and must "
        f"name date, open, high, low and close, or date and close alone, for example {example}"
    )


def find_ticker(ticker: str, names: Sequence[str], *, name: str) -> str:
    """Find a ticker among those that a table holds.

    Raises:
        BarsError: If it is not there; offers the nearest.
    """
    found = matching_ticker(ticker, names)
    if found is not None:
        return found
    near = nearest(ticker, names)
    hint = f"did you mean {near}?" if near else f"pass those of {ticker}"
    raise BarsError(f"{name}: the prices are those of {shortened(', '.join(names))}; {hint}")


def nearest(ticker: str, names: Iterable[str]) -> str:
    """Return the names that look most like a ticker, as `AAPL or AAP`; empty if none does."""
    capitals = {each.upper(): each for each in names}
    return " or ".join(capitals[each] for each in difflib.get_close_matches(ticker.upper(), capitals, n=3, cutoff=0.6))
