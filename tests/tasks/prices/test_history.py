"""A price file that changed: other past prices are reported, faulty new rows refused, and the artifacts complete."""

import logging
from pathlib import Path

import pandas as pd
import pytest

from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.features.synthetic import market
from tickerforge.flows.prices.preprocess import preprocess
from tickerforge.tasks.prices.price_files import as_csv
from tickerforge.tasks.store.artifacts import ArtifactRef, Store

SERIES = FeatureConfig()
BARS = market(SyntheticConfig(sessions=420))


def write(folder: Path, bars: pd.DataFrame) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "AAA.csv").write_bytes(as_csv(bars))
    return folder


def made(folder: Path, store: Path) -> tuple[ArtifactRef, ArtifactRef]:
    (result,) = preprocess(folder, ["AAA"], features=SERIES, store=Store(store))
    assert result.bars is not None
    assert result.windows is not None
    return result.bars, result.windows


def files(refs: tuple[ArtifactRef, ...]) -> dict[str, bytes]:
    return {
        f"{ref.stage}/{path.name}": path.read_bytes()
        for ref in refs
        for path in sorted(ref.path.iterdir())
        if path.name != "manifest.json"
    }


def test_an_adjusted_history_is_said_with_its_factor_and_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made(write(tmp_path / "prices", BARS[:-1]), tmp_path / "kept")
    split = BARS.copy()
    split.loc[:399, "adj_close"] *= 0.9
    write(tmp_path / "prices", split)
    with caplog.at_level(logging.WARNING):
        (result,) = preprocess(tmp_path / "prices", ["AAA"], features=SERIES, store=Store(tmp_path / "kept"))
    first, last = (BARS["date"].iloc[row].date() for row in (0, 399))
    said = f"adjusted history: Adj Close of 400 rows from {first} to {last} changed, by a factor of 0.9"
    assert said in caplog.text
    assert result.quality is not None
    assert said in str(result.quality.history)
    assert any(row["What"] == "adjusted history" for row in result.quality.rows_of_table())
    assert files((result.bars, result.windows)) == files(made(tmp_path / "prices", tmp_path / "fresh"))  # type: ignore[arg-type]


def test_a_rewritten_close_without_a_new_adjustment_is_said_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made(write(tmp_path / "prices", BARS), tmp_path / "kept")
    other = BARS.copy()
    other.loc[10, "volume"] += 1
    with caplog.at_level(logging.WARNING):
        made(write(tmp_path / "prices", other), tmp_path / "kept")
    assert "rewritten history: 1 rows" in caplog.text


def test_a_day_more_is_no_change_of_the_history(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made(write(tmp_path / "prices", BARS[:-1]), tmp_path / "kept")
    with caplog.at_level(logging.WARNING):
        longer = made(write(tmp_path / "prices", BARS), tmp_path / "kept")
    assert "history" not in caplog.text
    assert "history" not in longer[0].meta
    assert files(longer) == files(made(tmp_path / "prices", tmp_path / "fresh"))


def test_former_bars_that_were_damaged_meanwhile_are_not_compared_with_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bars, _ = made(write(tmp_path / "prices", BARS[:-1]), tmp_path / "kept")
    path = next(bars.path.glob("*.parquet"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with caplog.at_level(logging.WARNING):
        longer = made(write(tmp_path / "prices", BARS), tmp_path / "kept")
    assert f"AAA: the former bars, {path}, are damaged" in caplog.text
    assert files(longer) == files(made(tmp_path / "prices", tmp_path / "fresh"))


def test_a_file_that_grew_by_a_faulty_row_is_refused_by_that_row_and_the_stored_days_stay(tmp_path: Path) -> None:
    _, before = made(write(tmp_path / "prices", BARS), tmp_path / "kept")
    path = tmp_path / "prices" / "AAA.csv"
    day = (BARS["date"].iloc[-1] + pd.offsets.BDay(1)).date()
    path.write_bytes(path.read_bytes() + f"{day},1,2,0.5,1,-1,100\n".encode())
    (result,) = preprocess(tmp_path / "prices", ["AAA"], features=SERIES, store=Store(tmp_path / "kept"))
    assert result.windows is None
    assert f"row {len(BARS) + 2}" in str(result.error)
    assert "-1" in str(result.error)
    made(write(tmp_path / "prices", BARS), tmp_path / "kept")
    assert before.path.is_dir()
