"""One more day: what is taken over gives the bytes of a full rebuild, and a past that changed is noticed and said."""

import logging
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.features.prices.bars import read_csv
from tickerforge.features.synthetic import market
from tickerforge.features.windows import build_windows as windows_of
from tickerforge.flows.prices.preprocess import preprocess
from tickerforge.tasks.prices.price_files import as_csv
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from tickerforge.tasks.windows.preprocess import read_windows

SERIES, WINDOW = FeatureConfig(), FeatureConfig(indicator_scope="window")
BARS = market(SyntheticConfig(sessions=420))


def write(folder: Path, bars: pd.DataFrame) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "AAA.csv").write_bytes(as_csv(bars))
    return folder


def made(folder: Path, store: Path, config: FeatureConfig = SERIES) -> tuple[ArtifactRef, ArtifactRef]:
    (result,) = preprocess(folder, ["AAA"], features=config, store=Store(store))
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


def settled(ref: ArtifactRef) -> Path:
    (found,) = ref.path.glob("settled*")
    return found


@pytest.mark.parametrize("config", [SERIES, WINDOW], ids=["series", "window"])
def test_a_day_more_takes_the_settled_sessions_over_and_ends_with_the_bytes_of_a_full_rebuild(
    config: FeatureConfig, tmp_path: Path
) -> None:
    _, before = made(write(tmp_path / "prices", BARS[:-1]), tmp_path / "kept", config)
    longer = made(write(tmp_path / "prices", BARS), tmp_path / "kept", config)
    assert settled(longer[1]).samefile(settled(before))
    rebuilt = made(tmp_path / "prices", tmp_path / "fresh", config)
    assert files(longer) == files(rebuilt)
    assert [ref.sha256 for ref in longer] == [ref.sha256 for ref in rebuilt]
    expected = windows_of(read_csv(tmp_path / "prices" / "AAA.csv", ticker="AAA"), ticker="AAA", config=config)
    pd.testing.assert_frame_equal(read_windows(longer[1]), expected, check_dtype=False)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(250, len(BARS)), min_size=1, max_size=4).map(sorted),
    factor=st.sampled_from([1.0, 0.5, 1.0003]),
    changed=st.integers(1, 240),
    scope=st.sampled_from([SERIES, WINDOW]),
)
def test_whatever_days_come_and_whatever_becomes_of_the_past_the_bytes_are_those_of_a_full_rebuild(
    lengths: list[int], factor: float, changed: int, scope: FeatureConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("days")
    for length in lengths:
        made(write(root / "prices", BARS[:length]), root / "kept", scope)
    last = BARS[: lengths[-1]].copy()
    last.loc[: changed - 1, "adj_close"] *= factor
    longer = made(write(root / "prices", last), root / "kept", scope)
    assert files(longer) == files(made(root / "prices", root / "fresh", scope))


def test_an_adjusted_history_is_said_with_its_factor_and_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, before = made(write(tmp_path / "prices", BARS[:-1]), tmp_path / "kept")
    split = BARS.copy()
    split.loc[:399, "adj_close"] *= 0.5
    write(tmp_path / "prices", split)
    with caplog.at_level(logging.WARNING):
        (result,) = preprocess(tmp_path / "prices", ["AAA"], features=SERIES, store=Store(tmp_path / "kept"))
    first, last = (BARS["date"].iloc[row].date() for row in (0, 399))
    said = f"adjusted history: Adj Close of 400 rows from {first} to {last} changed, by a factor of 0.5"
    assert said in caplog.text
    assert result.quality is not None
    assert said in str(result.quality.history)
    assert any(row["What"] == "adjusted history" for row in result.quality.rows_of_table())
    assert result.windows is not None
    assert not settled(result.windows).samefile(settled(before))
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


@pytest.mark.parametrize("damage", ["settled sessions", "bars"])
def test_what_was_damaged_meanwhile_is_not_taken_over_and_that_is_said(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bars, windows = made(write(tmp_path / "prices", BARS[:-1]), tmp_path / "kept")
    path = settled(windows) if damage == "settled sessions" else next(bars.path.glob("*.parquet"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with caplog.at_level(logging.WARNING):
        longer = made(write(tmp_path / "prices", BARS), tmp_path / "kept")
    assert "anew" in caplog.text
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


def test_days_behind_a_row_without_prices_are_read_like_those_of_a_whole_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "prices", BARS[:-2])
    path = folder / "AAA.csv"
    gap = BARS["date"].iloc[-2].date()
    path.write_bytes(path.read_bytes() + f"{gap},null,null,null,null,null,null\n".encode())
    made(folder, tmp_path / "kept")
    path.write_bytes(path.read_bytes() + as_csv(BARS[-1:]).split(b"\n", 1)[1])
    longer = made(folder, tmp_path / "kept")
    assert longer[0].meta["dates_without_prices"] == date.isoformat(gap)
    assert files(longer) == files(made(folder, tmp_path / "fresh"))
    assert np.isfinite(read_windows(longer[1])["sigma"]).all()
