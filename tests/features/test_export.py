"""The published layout: value for value as published, written whole or not at all, read back as windows.

The committed excerpt holds synthetic prices and the rows that plain pandas and TA-Lib make of them. Where the published
preprocessor's own output is present, the same comparison runs with that too.
"""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree

from published_layout import EXCERPT, STOCK, published_rows
from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.features.errors import FeaturesError, InsufficientHistoryError, PublishedLayoutError, TickerNameError
from tickerforge.features.export import (
    PUBLISHED_COLUMNS,
    TABLES,
    published_sigma,
    published_tables,
    read_published,
    write_published,
)
from tickerforge.features.prices.bars import read_csv
from tickerforge.features.prompts import render
from tickerforge.features.synthetic import market
from tickerforge.features.units import to_model_units, to_prices

SHARED = Path(__file__).resolve().parents[3] / "shared"
CONFIG = FeatureConfig()
NOT_HERE = pytest.mark.skipif(
    not (SHARED / "oracle").is_dir(), reason="the published preprocessor's output is not here"
)


def published(ticker: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The bars of a ticker and the rows that are published of them."""
    prices, rows = (EXCERPT, EXCERPT) if ticker == STOCK else (SHARED / "data" / "stocknet", SHARED / "oracle")
    return read_csv(prices / f"{ticker}.csv", ticker=ticker), pd.read_parquet(rows / f"{ticker}.parquet")


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return market(SyntheticConfig(sessions=300))


@pytest.fixture(scope="module")
def tables(bars: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return published_tables(bars, ticker="DEMO", config=CONFIG)


def test_the_excerpt_holds_what_plain_pandas_and_ta_lib_compute() -> None:
    found = published_rows(pd.read_csv(EXCERPT / f"{STOCK}.csv"), stock=STOCK)
    _, expected = published(STOCK)
    assert list(found.columns) == list(expected.columns)
    for column in found.columns:
        if column in ("side", "stock", "split"):
            assert list(found[column]) == list(expected[column])
        else:
            np.testing.assert_allclose(np.stack(found[column]), np.stack(expected[column]), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "ticker", [STOCK, *(pytest.param(each, marks=NOT_HERE) for each in ("AAPL", "BRK-A", "GMRE", "T"))]
)
def test_tables_equal_what_the_published_preprocessor_wrote(ticker: str) -> None:
    bars, oracle = published(ticker)
    tables = published_tables(bars, ticker=ticker, config=CONFIG)
    compared = [name for name in oracle.columns if name not in ("side", "stock", "split")]
    assert set(compared) == set(PUBLISHED_COLUMNS) - {"batch_idx", "stock", "stock_symbol"}
    for side in ("x", "y"):
        for name, split in (("train", "train_val"), ("test", "test")):
            found = tables[f"{name}_{side}"]
            expected = oracle[(oracle["side"] == side) & (oracle["split"] == split)]
            _, rows = cKDTree(np.stack(found["sequence"])).query(np.stack(expected["sequence"]))
            assert sorted(rows) == list(range(len(found))) == list(range(len(expected)))
            for column in compared:
                values = np.array(found[column].iloc[rows].tolist(), dtype=float)
                np.testing.assert_allclose(values, np.stack(expected[column]), rtol=0, atol=1e-9, err_msg=column)


@pytest.mark.parametrize("ticker", [STOCK, pytest.param("GMRE", marks=NOT_HERE)])
def test_the_files_written_hold_what_the_published_preprocessor_wrote(ticker: str, tmp_path: Path) -> None:
    bars, oracle = published(ticker)
    write_published(published_tables(bars, ticker=ticker, config=CONFIG), tmp_path, ticker=ticker)
    for side in ("x", "y"):
        for name, split in (("train", "train_val"), ("test", "test")):
            found = pd.read_csv(tmp_path / f"{ticker}_{name}_{side}.csv")
            expected = oracle[(oracle["side"] == side) & (oracle["split"] == split)]
            cells = {column: found[column].map(json.loads) for column in PUBLISHED_COLUMNS[:-3]}
            _, rows = cKDTree(np.stack(cells["sequence"])).query(np.stack(expected["sequence"]))
            assert sorted(rows) == list(range(len(found)))
            for column, values in cells.items():
                written = np.array(values.iloc[rows].tolist(), dtype=float)
                np.testing.assert_allclose(written, np.stack(expected[column]), rtol=0, atol=1e-9, err_msg=column)


def test_tables_are_in_time_order_and_full_is_train_then_test(
    bars: pd.DataFrame, tables: dict[str, pd.DataFrame]
) -> None:
    assert tuple(tables) == TABLES
    train = bars["adj_close"].to_numpy()[:210]
    z = (bars["adj_close"].to_numpy() - train.mean()) / train.std()
    np.testing.assert_array_equal(np.stack(tables["test_x"]["sequence"])[:, 0], z[230:281])
    np.testing.assert_array_equal(np.stack(tables["test_y"]["sequence"])[:, 0], z[240:291])
    np.testing.assert_array_equal(np.stack(tables["train_x"]["sequence"])[:, 0], [*z[:191], *z[200:221]])
    for side in ("x", "y"):
        assert tuple(tables[f"full_{side}"].columns) == PUBLISHED_COLUMNS
        both = tables[f"train_{side}"]["sequence"].tolist() + tables[f"test_{side}"]["sequence"].tolist()
        assert tables[f"full_{side}"]["sequence"].tolist() == both
    assert tables["full_x"]["batch_idx"].tolist() == [
        *[i // 16 for i in range(191)],
        *[i // 16 for i in range(21)],
        *[i // 16 for i in range(51)],
    ]


def test_context_and_horizon_may_differ(bars: pd.DataFrame) -> None:
    tables = published_tables(bars, ticker="DEMO", config=FeatureConfig(context=15, horizon=12))
    assert {len(cell) for cell in tables["full_x"]["sequence"]} == {15}
    assert {len(cell) for cell in tables["full_y"]["sequence"]} == {12}
    x, y = (np.stack(tables[f"test_{side}"]["sequence"]) for side in "xy")
    np.testing.assert_array_equal(x[12:, -12:], y[:-12])


def test_shapes_and_histories_that_do_not_fit_are_refused(bars: pd.DataFrame) -> None:
    with pytest.raises(FeaturesError, match=r"DEMO: .* at least 10, not 5 and 10"):
        published_tables(bars, ticker="DEMO", config=FeatureConfig(context=5))
    with pytest.raises(InsufficientHistoryError, match="DEMO: 25 sessions leave no train or no test window"):
        published_tables(bars.head(25), ticker="DEMO", config=CONFIG)
    still = bars.assign(**dict.fromkeys(["open", "high", "low", "close", "adj_close"], 10.0))
    with pytest.raises(InsufficientHistoryError, match="DEMO: the prices do not move"):
        published_tables(still, ticker="DEMO", config=CONFIG)
    with pytest.raises(TickerNameError):
        published_tables(bars, ticker="../x", config=CONFIG)


def test_files_have_the_published_names_and_nothing_is_left_beside_them(
    tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    written = write_published(tables, tmp_path / "new" / "DEMO", ticker="DEMO")
    names = [f"DEMO_{part}_{side}.csv" for part in ("train", "test", "full") for side in ("x", "y")]
    assert [path.name for path in written] == names
    assert sorted(os.listdir(tmp_path / "new" / "DEMO")) == sorted(names)
    header, row, *_ = written[0].read_text().splitlines()
    assert header == ",".join(PUBLISHED_COLUMNS)
    assert row.startswith('"[')
    assert row.endswith("DEMO,DEMO")


def test_a_failed_write_leaves_the_earlier_file_and_no_partial_one(
    tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    class Unwritable:
        def __str__(self) -> str:
            raise OSError("no space left on device")

    [path] = write_published({"test_x": tables["test_x"]}, tmp_path, ticker="DEMO")
    before = path.read_bytes()
    broken = tables["test_x"].assign(stock=[Unwritable()] * len(tables["test_x"]))
    with pytest.raises(OSError, match="no space left"):
        write_published({"test_x": broken}, tmp_path, ticker="DEMO")
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == before


@pytest.fixture(scope="module")
def folder(tables: dict[str, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    write_published(tables, folder, ticker="DEMO")
    return folder


def test_published_files_read_back_as_windows_in_standardised_units(
    tables: dict[str, pd.DataFrame], folder: Path
) -> None:
    sigma = published_sigma(folder / "DEMO_train_x.csv")
    windows = read_published(
        folder / "DEMO_test_x.csv", folder / "DEMO_test_y.csv", ticker="DEMO", split="test", sigma=sigma
    )
    z_history, z_target = (np.stack(tables[f"test_{side}"]["sequence"]) for side in "xy")
    history, target = np.stack(windows["history"]), np.stack(windows["target"])
    np.testing.assert_allclose(history - windows["train_mean"].to_numpy()[:, None], z_history, atol=1e-10)
    np.testing.assert_allclose(target - windows["train_mean"].to_numpy()[:, None], z_target, atol=1e-10)
    assert (windows["train_std"] == 1).all()

    one_day = np.diff(np.stack(tables["train_x"]["sequence"]), axis=1).std(ddof=1)
    exact = 10 * (z_target - z_history[:, -1:]) / one_day
    units = to_model_units(target, origin_price=history[:, -1], sigma=windows["sigma"])
    assert np.abs(units - exact).max() < 0.51
    again = to_prices(units, origin_price=history[:, -1], sigma=windows["sigma"])
    assert np.abs(again - target).max() < 0.051 * one_day


def test_windows_read_back_have_ordered_dates_that_differ_between_splits(folder: Path) -> None:
    sigma = published_sigma(folder / "DEMO_train_x.csv")
    frames = {
        split: read_published(
            folder / f"DEMO_{name}_x.csv", folder / f"DEMO_{name}_y.csv", ticker="DEMO", split=split, sigma=sigma
        )
        for name, split in (("train", "train"), ("test", "test"))
    }
    for split, windows in frames.items():
        assert list(windows.columns) == [
            *("ticker", "origin", "split", "history", "target", "target_dates", "sigma", "train_mean", "train_std")
        ]
        assert windows["origin"].dtype == "datetime64[s]"
        assert windows["origin"].is_monotonic_increasing
        assert windows["origin"].is_unique
        assert (windows["split"] == split).all()
        dates = np.stack(windows["target_dates"])
        assert dates.shape == (len(windows), 10)
        assert (dates[:, 0] > windows["origin"].to_numpy()).all()
        assert (np.diff(dates, axis=1) > np.timedelta64(0)).all()
        assert windows["origin"].iloc[1] == dates[0, 0]
    assert not set(frames["train"]["origin"]) & set(frames["test"]["origin"])


@pytest.mark.parametrize("units", ["sigma", "train_standard"])
def test_windows_read_back_render_as_price_prompts(folder: Path, tables: dict[str, pd.DataFrame], units: str) -> None:
    config = FeatureConfig(prompt_style="prices", units=units)
    windows = read_published(
        folder / "DEMO_test_x.csv", folder / "DEMO_test_y.csv", ticker="DEMO", split="test",
        sigma=published_sigma(folder / "DEMO_train_x.csv"),
    )  # fmt: skip
    line = render(windows.iloc[0], config=config)[1]["content"].splitlines()[0].split()
    z = np.array(tables["test_x"]["sequence"].iloc[0])
    if units == "train_standard":
        assert line[1:] == [f"{value:.4f}" for value in z]
    else:
        assert line[-1] == "0"
        assert [np.sign(int(value)) for value in line[1:]] == pytest.approx(np.sign(z - z[-1]), abs=1)


GOOD = "[0.1, 0.2, -0.3]"


def pair(tmp_path: Path, x: str, y: str) -> tuple[Path, Path]:
    paths = tmp_path / "ACME_test_x.csv", tmp_path / "ACME_test_y.csv"
    for path, text in zip(paths, (x, y), strict=True):
        path.write_text(text)
    return paths


def table(*cells: str, header: str = "sequence,stock") -> str:
    return "\n".join([header, *(f'"{cell}",ACME' for cell in cells)]) + "\n"


@pytest.mark.parametrize(
    "cell",
    [
        "", "abc", "0.5", "[]", "{}", "null", "[0.1, nan, 0.2]", "[0.1, NaN, 0.2]", "[0.1, Infinity, 0.2]",
        "[0.1, 1e999, 0.2]", "[0.1, 1e7, 0.2]", "[0.1, 0.2]", "[0.1, 0.2, 0.3, 0.4]", "[0.1, true, 0.2]",
        "[0.1, '0.2', 0.3]", "[0.1, [0.2], 0.3]", "[0.1 0.2 0.3]", "[0.1, 0.2, 0.3", "__import__('os').getcwd()",
        "[" * 5000, f"[0.1, {'9' * 5000}, 0.2]",
    ],
)  # fmt: skip
def test_a_malformed_cell_is_named_with_file_row_and_column(tmp_path: Path, cell: str) -> None:
    x_path, y_path = pair(tmp_path, table(GOOD, cell), table(GOOD, GOOD))
    with pytest.raises(PublishedLayoutError) as caught:
        read_published(x_path, y_path, ticker="ACME", split="test", sigma=1e-6)
    message = str(caught.value)
    assert message.startswith(f"{x_path}, row 3, column sequence: ")
    assert cell[:50] in message.replace("\\'", "'")
    assert len(message) < 400


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    x_path, y_path = pair(tmp_path, table(GOOD, GOOD), table(GOOD))
    with pytest.raises(PublishedLayoutError, match=r"has 2 rows and .* has 1"):
        read_published(x_path, y_path, ticker="ACME", split="test", sigma=1e-6)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "the file is empty"),
        ("sequence,stock\n", "no rows"),
        (table(GOOD, header="values,stock"), "column sequence is missing"),
        ("sequence,stock\n" + GOOD + ",ACME\n", "row 2: the row has 4 cells"),
    ],
)
def test_a_file_of_another_layout_says_so(tmp_path: Path, content: str, part: str) -> None:
    x_path, _ = pair(tmp_path, content, table(GOOD))
    with pytest.raises(PublishedLayoutError, match=part):
        published_sigma(x_path)
    with pytest.raises(PublishedLayoutError, match="there is no such file"):
        published_sigma(tmp_path / "nowhere.csv")


@pytest.mark.parametrize("cells", [["[0.5]", "[0.7]"], ["[0.5, 0.5, 0.5]", "[0.7, 0.7, 0.7]"], ["[0.5, 0.6]"]])
def test_a_train_file_without_movement_gives_no_sigma(tmp_path: Path, cells: list[str]) -> None:
    x_path, _ = pair(tmp_path, table(*cells), "")
    with pytest.raises(PublishedLayoutError, match="the values do not move"):
        published_sigma(x_path)
