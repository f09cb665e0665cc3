"""Bars: what a price file may look like, and what each fault in one is called."""

import io
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerforge.features.config import SyntheticConfig
from tickerforge.features.errors import BarsError, FeaturesError, TickerNameError
from tickerforge.features.prices.bars import adjust, read_csv, read_csv_with_gaps, validate_frame
from tickerforge.features.prices.schemas import YAHOO_COLUMNS
from tickerforge.features.prices.tickers import validate_ticker
from tickerforge.features.synthetic import market

STOCKNET = Path(__file__).resolve().parents[4] / "shared" / "data" / "stocknet"

HEADER = "Date,Open,High,Low,Close,Adj Close,Volume"
ROWS = [
    "2017-08-28,10.0,11.0,9.0,10.5,9.45,1000",
    "2017-08-29,10.5,11.5,9.5,11.0,9.90,2000",
    "2017-08-30,11.0,12.0,10.0,11.5,10.35,0",
    "2017-08-31,11.5,12.5,10.5,12.0,10.80,4000",
]
COLUMNS = ["date", "open", "high", "low", "close", "adj_close", "volume"]


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "ACME.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def file_of(*rows: str, header: str = HEADER) -> str:
    return "\n".join([header, *rows]) + "\n"


def fault_of(path: Path) -> str:
    with pytest.raises(BarsError) as caught:
        read_csv(path, ticker="ACME")
    message = str(caught.value)
    assert "ACME" in message
    assert str(path) in message
    return message


def test_a_yahoo_file_becomes_typed_bars(tmp_path: Path) -> None:
    bars = read_csv(write(tmp_path, file_of(*ROWS)), ticker="ACME")
    assert list(bars.columns) == COLUMNS
    assert bars["date"].dtype == "datetime64[s]"
    assert (bars.dtypes[1:] == np.float64).all()
    assert bars.iloc[1].tolist() == [pd.Timestamp("2017-08-29"), 10.5, 11.5, 9.5, 11.0, 9.9, 2000.0]


@pytest.mark.parametrize(
    "text",
    [
        file_of(*ROWS, header=HEADER.upper()),
        file_of(*ROWS, header=HEADER.replace("Adj Close", "adj_close")),
        file_of(*ROWS, header=" Date , Open,High,Low,Close,Adj_Close,Volume"),
        file_of(*[f"{row},x" for row in ROWS], header=f"{HEADER},Note"),
        file_of(*[f"{row},,x" for row in ROWS], header=f"{HEADER},,"),
        file_of(*ROWS).replace("\n", "\r\n"),
        file_of(*ROWS).replace("\n", "\r"),
        "\ufeff" + file_of(*ROWS),
        "\n\n" + file_of(*ROWS) + "\n  \n",
        file_of(*[row.replace(",", " 00:00:00-04:00,", 1) for row in ROWS]),
        file_of(*[row.replace(",", "T16:00:00Z,", 1) for row in ROWS]),
        file_of(*[",".join(f'"{cell}"' for cell in row.split(",")) for row in ROWS]),
        file_of(*[row.replace(",", ", ") for row in ROWS]),
        file_of(*[",".join(reversed(row.split(","))) for row in ROWS], header=",".join(reversed(HEADER.split(",")))),
    ],
)
def test_harmless_variations_of_a_file_read_the_same(tmp_path: Path, text: str) -> None:
    expected = read_csv(write(tmp_path, file_of(*ROWS)), ticker="ACME")
    pd.testing.assert_frame_equal(read_csv(write(tmp_path, text), ticker="ACME"), expected)


@pytest.mark.parametrize(
    ("column", "value", "parts"),
    [
        ("Open", "abc", ["'abc'", "is not a number"]),
        ("Close", "1_000", ["'1_000'", "is not a number"]),
        ("Close", "１２", ["is not a number"]),
        ("Close", "$", ["'$'", "is not a number"]),
        ("High", "nan", ["'nan'", "is a missing value", "fill in the number"]),
        ("High", "inf", ["'inf'", "is not a number"]),
        ("High", "1e999", ["inf", "is not a finite number"]),
        ("Low", "null", ["'null'", "is a missing value", "delete the row"]),
        ("Adj Close", "", ["is an empty cell", "delete the row"]),
        ("Adj Close", "-1.5", ["-1.5", "is not a positive price"]),
        ("Close", "0", ["0.0", "is not a positive price"]),
        ("Volume", "-3", ["-3.0", "is a negative volume"]),
        ("Volume", "many", ["is not a number"]),
        ("Date", "30/08/2017", ["'30/08/2017'", "is not a date", "YYYY-MM-DD"]),
        ("Date", "2017-02-30", ["'2017-02-30'", "is not a date"]),
        ("Date", "NaT", ["'NaT'", "is not a date"]),
        ("Date", "", ["is not a date"]),
        ("Date", "2017-08-29", ["2017-08-29", "earlier row already has", "keep one row"]),
        ("Date", "2017-08-01", ["2017-08-01", "earlier than the date of the row before", "sort"]),
        ("High", "1.0", ["1.0", "lower than the low"]),
    ],
)
def test_a_bad_value_is_named_with_row_column_and_cure(
    tmp_path: Path, column: str, value: str, parts: list[str]
) -> None:
    cells = ROWS[2].split(",")
    cells[HEADER.split(",").index(column)] = value
    message = fault_of(write(tmp_path, file_of(*ROWS[:2], ",".join(cells), ROWS[3])))
    for part in ["row 4,", f"column {column}:", ";", *parts]:
        assert part in message


def test_rows_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    bad = ROWS[2].replace("11.0", "oops", 1)
    text = f"\n{HEADER}\n{ROWS[0]}\n\n{ROWS[1]}\n\n{bad}\n"
    assert text.split("\n")[7 - 1] == bad
    assert "row 7," in fault_of(write(tmp_path, text))


def test_the_topmost_broken_row_is_reported_first(tmp_path: Path) -> None:
    early = ROWS[1].replace("11.5", "-1.0")
    late = ROWS[2].replace("2017-08-30", "2017-08-28")
    assert "row 3, column High: -1.0" in fault_of(write(tmp_path, file_of(ROWS[0], early, late)))


@pytest.mark.parametrize("column", HEADER.split(",")[:5])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    keep = [i for i, name in enumerate(HEADER.split(",")) if name != column]
    lines = [",".join(line.split(",")[i] for i in keep) for line in [HEADER, *ROWS]]
    assert f"column {column} is missing" in fault_of(write(tmp_path, "\n".join(lines)))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "the file is empty"),
        (b" \n\n", "the file is empty"),
        (HEADER.encode() + b"\n", "no rows"),
        (file_of(ROWS[0], ROWS[1] + ",9").encode(), "row 3: the row has 8 cells and the header has 7"),
        (file_of(ROWS[0], "2017-08-29,10.5").encode(), "row 3: the row has 2 cells"),
        (b"PK\x03\x04\x00\x00", "compressed and cannot be unpacked"),
        (file_of(ROWS[0]).encode() + b"\x81\0\0\0", "row 3: byte 0x81 is not utf-8 text"),
        (file_of(*ROWS, header=HEADER.replace("Open", "close")).encode(), "appears twice"),
        (file_of(ROWS[0], "2017-08-29," + "1" * 200_000).encode(), "row 3: not readable as CSV"),
    ],
)
def test_a_file_that_is_no_price_table_says_so(tmp_path: Path, content: bytes, part: str) -> None:
    assert part in fault_of(write(tmp_path, content))


def test_a_missing_file_and_a_folder_say_so(tmp_path: Path) -> None:
    assert "there is no such file" in fault_of(tmp_path / "nowhere.csv")
    assert "this is a folder" in fault_of(tmp_path)


@pytest.mark.parametrize("name", ["AAPL", "BRK-A", "BRK.B", "^GSPC", "EURUSD=X", "a_b", "0700.HK", "A" * 32])
def test_ticker_names_in_use_are_allowed(name: str) -> None:
    assert validate_ticker(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../../etc/x",
        "a/b",
        "a\\b",
        ".hidden",
        "..",
        "A" * 33,
        "A" * 300,
        "ÄPFEL",
        "ＡＡＰＬ",
        "A B",
        "A\n",
        "A\0",
        "$X",
    ],
)
def test_unsafe_ticker_names_are_refused_with_the_allowed_form(name: str, tmp_path: Path) -> None:
    with pytest.raises(TickerNameError, match=r"1 to 32 ASCII letters, digits and \. - _ \^ =") as caught:
        validate_ticker(name)
    assert len(str(caught.value)) < 300
    with pytest.raises(FeaturesError):
        read_csv(write(tmp_path, file_of(*ROWS)), ticker=name)


@given(st.lists(st.floats(min_value=1e-3, max_value=1e7), min_size=2, max_size=20))
@settings(max_examples=25, deadline=None)
def test_prices_survive_the_file_to_the_last_bit(tmp_path_factory: pytest.TempPathFactory, prices: list[float]) -> None:
    days = pd.bdate_range("2020-01-01", periods=len(prices))
    rows = [f"{day:%Y-%m-%d},{p!r},{p!r},{p!r},{p!r},{p!r},1" for day, p in zip(days, prices, strict=True)]
    path = write(tmp_path_factory.mktemp("bars"), file_of(*rows))
    assert read_csv(path, ticker="ACME")["adj_close"].tolist() == prices


def bars_frame() -> pd.DataFrame:
    return market(SyntheticConfig(sessions=100))


def csv_of(bars: pd.DataFrame) -> bytes:
    return bars.set_axis(list(YAHOO_COLUMNS), axis=1).to_csv(index=False).encode()


def with_rows_without_prices(content: bytes) -> bytes:
    """A price file with rows as Yahoo writes them for sessions whose prices it has lost."""
    header, first, *rest = content.splitlines()
    return b"\n".join([header, first, b"2000-01-05,null,null,null,null,null,null", b"2000-01-05,,,,,,0", *rest, b""])


def downloaded(bars: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """What `yfinance.download` returns: columns (price, ticker), dates as index."""
    frames = {
        ticker: each.rename(columns=str.title).rename(columns={"Adj_Close": "Adj Close"}).set_index("Date")
        for ticker, each in bars.items()
    }
    return pd.concat(frames, axis=1, names=["Ticker", "Price"]).swaplevel(axis=1)


@pytest.mark.parametrize(
    "variant",
    [
        lambda bars: bars,
        lambda bars: bars.rename(columns=str.title).rename(columns={"Adj_Close": "Adj Close"}),
        lambda bars: bars.set_index(pd.DatetimeIndex(bars["date"], name="Date")).drop(columns="date"),
        lambda bars: bars.assign(date=pd.DatetimeIndex(bars["date"]).tz_localize("America/New_York")),
        lambda bars: bars.assign(date=bars["date"].dt.strftime("%Y-%m-%d")),
        lambda bars: bars.assign(date=bars["date"].dt.date),
        lambda bars: bars.assign(date=bars["date"] + pd.Timedelta(hours=16)),
        lambda bars: bars.astype({"volume": "int64"}),
        lambda bars: bars.astype({"volume": "Int64"}),
        lambda bars: bars.assign(close=[repr(value) for value in bars["close"]]),
        lambda bars: bars.set_index(bars.index[::-1]),
        lambda bars: bars.assign(sector="tech")[["sector", *reversed(bars.columns)]],
        lambda bars: bars.set_index(bars["date"].dt.strftime("%Y-%m-%d")).drop(columns="date"),
        lambda bars: pd.read_csv(io.BytesIO(csv_of(bars)), dtype_backend="pyarrow", engine="pyarrow"),
        lambda bars: pd.read_csv(io.BytesIO(csv_of(bars)), index_col=0),
        lambda bars: pd.read_csv(io.BytesIO(csv_of(bars)), index_col="Date", parse_dates=True),
        lambda bars: pd.read_csv(io.BytesIO(with_rows_without_prices(csv_of(bars)))),
        lambda bars: pd.read_csv(io.BytesIO(with_rows_without_prices(csv_of(bars))), dtype=str, keep_default_na=False),
        lambda bars: downloaded({"REQ": bars}),
        lambda bars: downloaded({"REQ": bars}).reset_index(),
        lambda bars: downloaded({"REQ": bars}).swaplevel(axis=1),
        lambda bars: downloaded({"OTHER": bars.assign(close=1.0), "request": bars}),
    ],
)
def test_frames_of_many_makes_become_the_same_bars(variant: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    bars = bars_frame()
    pd.testing.assert_frame_equal(validate_frame(variant(bars), source="request"), bars)


@pytest.mark.parametrize(
    ("column", "value", "part"),
    [
        ("close", np.nan, "nan is a missing value"),
        ("close", np.inf, "inf is not a finite number"),
        ("adj_close", -1.0, "-1.0 is not a positive price"),
        ("volume", -1.0, "-1.0 is a negative volume"),
        ("high", 1.0, "1.0 is lower than the low"),
        ("date", pd.NaT, "'NaT' is not a date"),
        ("date", pd.Timestamp("2000-01-03"), "'2000-01-03' is earlier than"),
    ],
)
def test_a_bad_value_in_a_frame_is_named_with_its_row(column: str, value: object, part: str) -> None:
    bars = bars_frame()
    bars.loc[4, column] = value
    with pytest.raises(BarsError, match=f"^request, row 5, column {column}: {part}"):
        validate_frame(bars, source="request")


def test_text_and_missing_values_in_object_columns_are_named() -> None:
    bars = bars_frame().astype({"open": object})
    bars.loc[2, "open"] = "n/a"
    with pytest.raises(BarsError, match="row 3, column open: 'n/a' is a missing value"):
        validate_frame(bars, source="request")
    bars.loc[2, "open"] = None
    with pytest.raises(BarsError, match="row 3, column open: '' is an empty cell"):
        validate_frame(bars, source="request")


def test_rows_behind_one_without_prices_keep_their_numbers_in_a_frame() -> None:
    bars = bars_frame().astype({"open": object})
    bars.loc[2, ["open", "high", "low", "close", "adj_close", "volume"]] = np.nan
    bars.loc[6, "open"] = "n/a"
    with pytest.raises(BarsError, match="request, row 7, column open: 'n/a' is a missing value"):
        validate_frame(bars, source="request")
    bars.loc[:, "open":"volume"] = np.nan
    with pytest.raises(BarsError, match="request: no row has prices"):
        validate_frame(bars, source="request")


def test_columns_of_other_tickers_are_refused() -> None:
    bars = bars_frame()
    with pytest.raises(BarsError, match="request: the prices are those of 'A, B'; pass those of request"):
        validate_frame(downloaded({"A": bars, "B": bars}), source="request")
    adjusted = downloaded({"request": bars}).drop(columns="Adj Close", level="Price")
    expected = bars.assign(adj_close=bars["close"])
    pd.testing.assert_frame_equal(validate_frame(adjusted, source="request"), expected)


def test_frames_without_a_column_or_rows_are_refused() -> None:
    bars = bars_frame()
    with pytest.raises(BarsError, match="request: column Close is missing"):
        validate_frame(bars.drop(columns="close"), source="request")
    with pytest.raises(BarsError, match="request: column Date is missing"):
        validate_frame(bars.drop(columns="date"), source="request")
    with pytest.raises(BarsError, match="request: the frame has no rows"):
        validate_frame(bars.head(0), source="request")
    with pytest.raises(BarsError, match="column date: '7' is not a date"):
        validate_frame(bars.assign(date=7), source="request")


def test_adjusting_removes_the_jump_of_a_split() -> None:
    close = np.array([100.0, 102.0, 51.0, 52.0])
    factor = np.array([0.5, 0.5, 1.0, 1.0])
    bars = pd.DataFrame(
        {
            "date": pd.bdate_range("2020-01-01", periods=4).astype("datetime64[s]"),
            "open": close,
            "high": close * 1.02,
            "low": close * 0.98,
            "close": close,
            "adj_close": close * factor,
            "volume": 1.0,
        }
    )
    adjusted = adjust(bars)
    assert list(adjusted.columns) == ["date", "open", "high", "low", "close", "volume"]
    assert adjusted["close"].tolist() == [50.0, 51.0, 51.0, 52.0]
    np.testing.assert_allclose(adjusted["high"] / adjusted["close"], 1.02)
    np.testing.assert_allclose(adjusted["low"] / adjusted["close"], 0.98)


@pytest.mark.parametrize(
    "cells", ["null,null,null,null,null,null", ",,,,,", "null,null,null,null,null,0", ", , null,,,0"]
)
def test_a_row_without_any_price_is_left_out_and_its_date_told(tmp_path: Path, cells: str) -> None:
    path = write(tmp_path, file_of(*ROWS[:2], f"{ROWS[2][:10]},{cells}", ROWS[3]))
    bars, without_prices, _ = read_csv_with_gaps(path, ticker="ACME")
    assert without_prices == (date(2017, 8, 30),)
    pd.testing.assert_frame_equal(bars, read_csv(write(tmp_path, file_of(*ROWS[:2], ROWS[3])), ticker="ACME"))


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ("2017-08-30,null,null,null,null,10.0,0", "row 4, column Open: 'null' is a missing value"),
        ("2017-08-30,null,null,null,null,null,500", "row 4, column Open: 'null' is a missing value"),
        ("someday,null,null,null,null,null,null", "row 4, column Date: 'someday' is not a date"),
    ],
)
def test_a_row_that_lacks_only_some_values_or_its_date_is_an_error(tmp_path: Path, row: str, part: str) -> None:
    assert part in fault_of(write(tmp_path, file_of(*ROWS[:2], row, ROWS[3])))


def test_rows_behind_one_without_prices_keep_their_numbers_and_their_order_is_checked(tmp_path: Path) -> None:
    gap = f"{ROWS[1][:10]},null,null,null,null,null,null"
    bad = ROWS[2].replace("11.0", "oops", 1)
    assert "row 4, column" in fault_of(write(tmp_path, file_of(ROWS[0], gap, bad)))
    twice = fault_of(write(tmp_path, file_of(ROWS[0], gap, ROWS[0])))
    assert "row 4, column Date: '2017-08-28' is a date that an earlier row already has" in twice


def test_a_file_of_nothing_but_rows_without_prices_is_refused(tmp_path: Path) -> None:
    assert "no row has prices" in fault_of(write(tmp_path, file_of("2017-08-28,null,null,null,null,null,null")))


@pytest.mark.skipif(not STOCKNET.is_dir(), reason="the StockNet prices are not here")
def test_real_price_files_read_and_their_rows_without_prices_are_told() -> None:
    gaps = {}
    for path in sorted(STOCKNET.glob("*.csv")):
        bars, without_prices, _ = read_csv_with_gaps(path, ticker=path.stem)
        assert len(bars) > 250
        if without_prices:
            gaps[path.stem] = without_prices
    assert gaps == {name: (date(2016, 6, 29),) for name in ("REX", "SNP")}


def test_features_import_without_the_heavy_libraries() -> None:
    code = (
        "import sys, tickerforge.features.windows, tickerforge.features.export; "
        "heavy = {'pandera', 'torch', 'transformers', 'mlflow', 'prefect', 'matplotlib', 'scipy'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
