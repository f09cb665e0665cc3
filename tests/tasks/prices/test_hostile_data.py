"""Whatever a price file holds ends in a counted repair or in an error that names it, and damages nothing stored."""

import logging
import os
import random
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hostile import HOSTILE, Hostile, good_lines, text, unusual_places
from tickerforge.features.config import FeatureConfig
from tickerforge.features.errors import BarsError, FeaturesError
from tickerforge.features.prices.bars import parse_csv, read_csv
from tickerforge.features.prices.dialects import REPAIRS
from tickerforge.features.prices.plaincsv import plain_columns
from tickerforge.features.prices.quality import ODDITIES
from tickerforge.flows.prices.preprocess import Preprocessed, preprocess
from tickerforge.tasks.base.disk import tree_hashes
from tickerforge.tasks.store.artifacts import Store

CONFIG = FeatureConfig()
LINES = good_lines()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store in which the windows of the same ticker from a good file are already."""
    folder = tmp_path_factory.mktemp("stored")
    (folder / "ACME.csv").write_text(text(LINES))
    store = Store(folder / "store")
    assert not preprocess(folder, ["ACME"], features=CONFIG, store=store)[0].error
    return store


def finished(store: Store) -> dict[str, str]:
    return {name: digest for name, digest in tree_hashes(store.root).items() if not name.startswith("locks/")}


def outcome(folder: Path, content: str | bytes, store: Store) -> Preprocessed:
    (folder / "ACME.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    [result] = preprocess(folder, ["ACME"], features=CONFIG, store=store)
    return result


def test_the_table_is_as_long_as_promised_and_knows_every_repair_and_oddity() -> None:
    assert len(HOSTILE) >= 40
    assert len({case.name for case in HOSTILE}) == len(HOSTILE)
    counted = {case.ends for case in HOSTILE if isinstance(case.ends, str)}
    assert counted >= (set(REPAIRS) - {"repaired_jumps", "running_session"}) | (set(ODDITIES) - {"standstill"})


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case.name)
def test_a_malformed_file_is_mended_and_counted_or_refused_by_name(case: Hostile, store: Store, tmp_path: Path) -> None:
    before = finished(store)
    result = outcome(tmp_path, case.make(LINES), store)
    after = finished(store)
    if isinstance(case.ends, str):
        assert result.error == ""
        assert result.quality is not None
        counts = {**result.quality.repairs, **result.quality.oddities, "missing": len(result.quality.missing)}
        assert counts[case.ends] > 0
        assert before.items() <= after.items()
    else:
        assert result.windows is None
        assert result.error.startswith("ACME: ")
        for part in case.ends:
            assert part in result.error
        assert len(result.error) < 2500
        assert before.items() <= after.items()
        assert not [name for name in after.keys() - before.keys() if name.startswith(("windows/", "partial/"))]


def test_what_is_no_price_file_is_refused_by_name_and_the_good_one_beside_it_is_used(
    tmp_path: Path, store: Store
) -> None:
    folder = tmp_path / "prices"
    folder.mkdir()
    expected = unusual_places(folder)
    (folder / "LINKED.csv").symlink_to("GOOD.csv")
    (folder / "GOOD.csv").write_text(text(LINES))
    before = finished(store)
    results = {each.stock: each.error for each in preprocess(folder, [*expected, "GOOD", "LINKED"], features=CONFIG,
                                                            store=store)}  # fmt: skip
    assert (results.pop("GOOD"), results.pop("LINKED")) == ("", "")
    for name, part in expected.items():
        assert part in results[name], name
        assert len(results[name]) < 600
    assert before.items() <= finished(store).items()


def test_a_pipe_named_like_a_price_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ACME.csv")
    with pytest.raises(BarsError, match=r"ACME\.csv: this is a device or a pipe"):
        read_csv(tmp_path / "ACME.csv", ticker="ACME")


def test_a_file_name_that_is_no_text_is_refused_in_characters_that_can_be_shown(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / os.fsdecode(b"\xff\xfe.csv")).write_text(text(LINES))
    (tmp_path / "GOOD.csv").write_text(text(LINES))
    with caplog.at_level(logging.INFO):
        odd, good = sorted(preprocess(tmp_path, [], features=CONFIG, store=store), key=lambda each: not each.error)
    assert good.error == ""
    assert "is not a ticker name" in odd.error
    assert "is not a ticker name" in caplog.text
    for told in (odd.stock, odd.error, caplog.text):
        assert r"\udcff" in told or r"\xff" in told
        told.encode()


FRAGMENTS = st.sampled_from(
    [
        *(
            "",
            ",",
            ";",
            "\t",
            "\n",
            "\r\n",
            "\r",
            "\0",
            '"',
            "'",
            "-",
            ".",
            "e",
            "+",
            " ",
            "\ufeff",
            "\u2028",
            "\x1b",
            "１",
        ),
        *("nan", "inf", "null", "0", "-1", "1e400", "1e-320", "9" * 40, "1.", ".5", "1e5", "Date", "Close"),
        *("2015-02-30", "0000-00-00", "9999-12-31", "2015-03-12", "T21:00Z"),
    ]
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good file with some places replaced, moved, doubled or cut."""
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 4))):
        row = draw(st.integers(0, len(lines) - 1))
        cells = lines[row].split(",")
        place = draw(st.integers(0, len(cells) - 1))
        match draw(st.sampled_from(["cell", "insert", "drop", "double", "swap", "scale", "character"])):
            case "cell":
                cells[place] = draw(FRAGMENTS | st.text(max_size=8) | st.floats().map(repr))
            case "insert":
                cells.insert(place, draw(FRAGMENTS))
            case "drop":
                del cells[place]
            case "double":
                lines.insert(row, lines[row])
            case "swap":
                other = draw(st.integers(0, len(lines) - 1))
                lines[row], lines[other] = lines[other], lines[row]
                continue
            case "scale":
                cells[place] += draw(st.sampled_from(["0", "e3", "e-3", "e20"]))
            case "character":
                cells[place] = cells[place][:1] + draw(st.characters(codec="utf-8")) + cells[place][1:]
        lines[row] = ",".join(cells)
    content = text(lines).encode()
    cut = draw(st.none() | st.integers(0, len(content)))
    content = content[:cut]
    noise = draw(st.binary(max_size=3))
    at = draw(st.integers(0, len(content)))
    return content[:at] + noise + content[at:]


NAMED = re.compile(r"ACME(: \S*ACME\.csv(, row \d+)?(, column [^:]+)?: |: ).*[;:].*", re.DOTALL)


# An unclosed quote makes one cell of the rest of the file.
UNCLOSED_QUOTE = text([LINES[0], f'{LINES[1].rpartition(",")[0]},"', *LINES[2:]]).encode()


@example(content=UNCLOSED_QUOTE)
@given(content=damaged() | st.binary(max_size=300))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_to_a_file_ends_otherwise_than_in_good_bars_or_a_named_fault(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "ACME.csv"
    try:
        found = parse_csv(content, path=path, ticker="ACME")
    except FeaturesError as error:
        fault: FeaturesError | None = error
    else:
        fault = None
    if fault is not None:
        assert NAMED.fullmatch(str(fault)), str(fault)
        assert len(str(fault)) < 3000
        return
    bars = found.bars
    assert bars["date"].is_monotonic_increasing
    assert bars["date"].is_unique
    assert (bars[["open", "high", "low", "close", "adj_close"]].to_numpy() > 0).all()
    assert set(found.repairs) <= set(REPAIRS)


@given(content=damaged())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_to_a_file_damages_what_is_stored_or_stops_preprocessing(
    content: bytes, tmp_path: Path, store: Store
) -> None:
    before = finished(store)
    result = outcome(tmp_path, content, store)
    assert (result.windows is None) == bool(result.error)
    if result.error:
        assert "ACME" in result.error
    assert before.items() <= finished(store).items()


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_the_quick_way_and_the_thorough_one_read_the_same_to_the_last_bit(seed: int) -> None:
    rng = random.Random(seed)
    rows = []
    for line in LINES[1:40]:
        price = 10 ** rng.uniform(-8, 14)
        written = [rng.choice(["{!r}", "{:.6f}", "{:.25f}", "{:.17g}", "{:e}"]).format(price * k) for k in (1, 1, 1)]
        rows.append(f"{line[:10]},{written[0]},{price * 1.01!r},{price * 0.99!r},{written[1]},{written[2]},7")
    plain = "\n".join([LINES[0], *rows]).encode()
    quick = plain_columns(plain)
    assert quick is not None
    try:
        thorough = parse_csv(plain.replace(b"Adj Close", b"adj_close", 1), path="x", ticker="ACME").bars
    except BarsError:
        return
    pd.testing.assert_frame_equal(pd.DataFrame(quick), thorough, check_exact=True)


@given(content=damaged())
@settings(max_examples=60, deadline=None)
def test_a_damaged_file_is_read_the_quick_way_only_if_the_thorough_one_reads_it_alike(content: bytes) -> None:
    head, newline, body = content.partition(b"\n")
    try:
        usual = parse_csv(content, path="x", ticker="ACME")
    except BarsError as fault:
        usual = str(fault)
    # Another spelling of the header leads past the quick way.
    try:
        thorough = parse_csv(head.replace(b"Adj Close", b"adj close") + newline + body, path="x", ticker="ACME")
    except BarsError as fault:
        thorough = str(fault)
    if isinstance(usual, str) or isinstance(thorough, str):
        assert str(usual).lower() == str(thorough).lower()
    else:
        pd.testing.assert_frame_equal(usual.bars, thorough.bars, check_exact=True)
        assert usual.repairs == thorough.repairs
