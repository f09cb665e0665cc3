"""Random clean bars in random dialects come back bit for bit, and are never read as other prices."""

import bz2
import gzip
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from price_sources import zipped
from tickerforge.features.errors import BarsError
from tickerforge.features.prices.bars import parse_csv
from tickerforge.features.prices.dialects import COLUMN_NAMES

PRICES = ("open", "high", "low", "close", "adj_close")
# A single letter and words of other alphabets need their own files: see `test_dialects`.
NAMES = {column: [name for name in names if len(name) > 1 and name.isascii()] for column, names in COLUMN_NAMES.items()}
DATE_FORMS = {
    "iso": "{:%Y-%m-%d}",
    "slashes": "{:%Y/%m/%d}",
    "compact": "{:%Y%m%d}",
    "american": "{:%m/%d/%Y}",
    "british": "{:%d/%m/%Y}",
    "german": "{:%d.%m.%Y}",
    "short american": "{:%m/%d/%y}",
    "words": "{:%b %d, %Y}",
    "day and month": "{:%d-%b-%Y}",
    "zoned": "{:%Y-%m-%d}T00:00:00-05:00",
    "with time": "{:%Y-%m-%d} 16:00:00",
}


@dataclass(frozen=True)
class Dialect:
    """How a file is written."""

    names: dict[str, str]
    order: tuple[str, ...]
    separator: str
    mark: str
    thousands: str
    currency: str
    date_form: str
    newest_first: bool
    banner: str
    footer: str
    extra: str
    ending: str
    encoding: str
    packing: str


@st.composite
def bars_of(draw: st.DrawFn) -> pd.DataFrame:
    """Bars whose prices have a fixed number of decimals, on business days."""
    rows = draw(st.integers(30, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    decimals = draw(st.integers(2, 4))
    close = np.exp(np.log(draw(st.floats(0.5, 250_000))) + 0.02 * rng.standard_normal(rows).cumsum())
    spread = np.abs(0.01 * rng.standard_normal((2, rows)))
    frame = pd.DataFrame(
        {
            "date": pd.bdate_range(draw(st.dates(date(1990, 1, 1), date(2030, 1, 1))), periods=rows).as_unit("s"),
            "open": close,
            "high": close * (1 + spread[0]),
            "low": close * (1 - spread[1]),
            "close": close,
            "adj_close": close * draw(st.sampled_from([1.0, 0.5])),
            "volume": rng.integers(0, 10 ** draw(st.integers(1, 10)), rows).astype(float),
        }
    )
    frame[list(PRICES)] = frame[list(PRICES)].round(decimals)
    frame["volume"] = frame["volume"].where(frame.index != 0, 1_234_567.0)
    return frame


@st.composite
def dialect_of(draw: st.DrawFn) -> Dialect:
    separator = draw(st.sampled_from([",", ";", "\t", "|"]))
    mark = draw(st.sampled_from([".", ","]))
    return Dialect(
        names={
            column: draw(st.sampled_from([str.lower, str.upper, str.title, lambda name: f"<{name}>"]))(
                draw(st.sampled_from(names))
            )
            for column, names in NAMES.items()
        },
        order=tuple(draw(st.permutations(["date", *PRICES, "volume"]))),
        separator=separator,
        mark=mark,
        thousands=draw(st.sampled_from(["", "'", "\u00a0", "," if mark == "." else "."])),
        currency=draw(st.sampled_from(["", "$", "€"])),
        date_form=draw(st.sampled_from(sorted(DATE_FORMS))),
        newest_first=draw(st.booleans()),
        banner=draw(st.sampled_from(["", "Prices of ACME\n\n", "#source: example\n"])),
        footer=draw(st.sampled_from(["", "Downloaded from example.com\n", '\n"(c) Example, 2026"\n'])),
        extra=draw(st.sampled_from(["", "Change %", "Note"])),
        ending=draw(st.sampled_from(["\n", "\r\n"])),
        encoding=draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])),
        packing=draw(st.sampled_from(["", "gzip", "bzip2", "zip"])),
    )


def written(bars: pd.DataFrame, dialect: Dialect, *, decimals: int) -> bytes:
    def number(value: float, places: int) -> str:
        text = f"{value:,.{places}f}".replace(",", "\0").replace(".", dialect.mark)
        return text.replace("\0", dialect.thousands)

    def cell(column: str, value: object) -> str:
        if column == "date":
            return DATE_FORMS[dialect.date_form].format(value)
        assert isinstance(value, float)
        return number(value, 0) if column == "volume" else dialect.currency + number(value, decimals)

    def line(cells: list[str]) -> str:
        return dialect.separator.join(f'"{each}"' if dialect.separator in each else each for each in cells)

    rows = [line([cell(column, row[column]) for column in dialect.order] + (["0.5%"] if dialect.extra else []))
            for row in bars.to_dict("records")]  # fmt: skip
    header = line([dialect.names[column] for column in dialect.order] + ([dialect.extra] if dialect.extra else []))
    body = "\n".join([header, *(reversed(rows) if dialect.newest_first else rows)]) + "\n"
    raw = (dialect.banner + body + dialect.footer).replace("\n", dialect.ending).encode(dialect.encoding)
    pack = {"gzip": gzip.compress, "bzip2": bz2.compress, "zip": lambda raw: zipped(raw)}
    return pack[dialect.packing](raw) if dialect.packing else raw


def is_clear(bars: pd.DataFrame, dialect: Dialect, *, decimals: int) -> bool:
    """Return whether the file itself proves how its dates and numbers are read."""
    by_number = dialect.date_form in ("american", "british", "german", "short american")
    # 1,234 can be one thousand, and so can 1.234 between semicolons.
    proven = decimals != 3 or (dialect.mark == "." and dialect.separator != ";")
    return proven and (not by_number or bool((bars["date"].dt.day > 12).any()))


@given(bars=bars_of(), dialect=dialect_of())
@settings(max_examples=120, deadline=None)
def test_random_bars_in_a_random_dialect_come_back_bit_for_bit(bars: pd.DataFrame, dialect: Dialect) -> None:
    decimals = max(len(f"{value!r}".partition(".")[2]) for value in bars["close"])
    raw = written(bars, dialect, decimals=decimals)
    try:
        found = parse_csv(raw, path="ACME.csv", ticker="ACME").bars
    except BarsError as error:
        found, refusal = bars, str(error)
    else:
        refusal = ""
    assert not refusal or ("can be" in refusal and not is_clear(bars, dialect, decimals=decimals)), refusal
    pd.testing.assert_frame_equal(found, bars, check_exact=True)
