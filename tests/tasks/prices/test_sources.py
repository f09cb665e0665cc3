"""Sources of price files: what they write, what they leave alone, and what they refuse."""

import io
import logging
import zipfile
from datetime import date
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest

from tickerforge.features.config import SyntheticConfig
from tickerforge.features.errors import BarsError, TickerNameError
from tickerforge.features.prices.bars import read_csv
from tickerforge.features.synthetic import market
from tickerforge.tasks.base.errors import MarketDataError, PublishError
from tickerforge.tasks.prices import source_local, source_stocknet
from tickerforge.tasks.prices.folders import list_tickers
from tickerforge.tasks.prices.price_files import as_csv, keep, stored_bars
from web_server import Reply, web_server

BARS = market(SyntheticConfig(sessions=120))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_bars_written_as_a_price_file_are_read_back_to_the_last_bit(tmp_path: Path) -> None:
    filled = keep(tmp_path / "new", "BRK-A", BARS)
    assert (filled.sessions, filled.added, filled.first, filled.last) == (120, 120, date(2015, 1, 2), date(2015, 6, 18))
    pd.testing.assert_frame_equal(read_csv(tmp_path / "new" / "BRK-A.csv", ticker="BRK-A"), BARS)
    assert list_tickers(tmp_path / "new") == ["BRK-A"]


def test_a_longer_history_takes_the_place_of_a_shorter_one_and_equal_ones_stay_untouched(tmp_path: Path) -> None:
    keep(tmp_path, "A", BARS.head(100))
    assert keep(tmp_path, "A", BARS).added == 20
    written = (tmp_path / "A.csv").stat()
    assert keep(tmp_path, "A", BARS).added == 0
    assert (tmp_path / "A.csv").stat().st_mtime_ns == written.st_mtime_ns
    assert (tmp_path / "A.csv").stat().st_ino == written.st_ino


def test_sessions_and_prices_that_are_stored_are_not_lost(tmp_path: Path) -> None:
    keep(tmp_path, "A", BARS)
    before = files(tmp_path)
    with pytest.raises(MarketDataError, match=r"A\.csv holds 20 sessions that the new prices lack, from 2015-05-22 to"):
        keep(tmp_path, "A", BARS.head(100), revised=True)
    other = BARS.copy()
    other.loc[[7, 9], "close"] *= 1.01
    with pytest.raises(MarketDataError, match=r"other prices of 2 sessions, the first on 2015-01-13\. .*move it away"):
        keep(tmp_path, "A", other)
    assert files(tmp_path) == before
    assert keep(tmp_path, "A", other, revised=True).added == 0
    assert files(tmp_path) == {"A.csv": as_csv(other)}


def test_a_faulty_stored_file_is_named_and_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "A.csv").write_text("nonsense\n1\n")
    with pytest.raises(BarsError, match=r"A\.csv"):
        keep(tmp_path, "A", BARS)
    assert files(tmp_path) == {"A.csv": b"nonsense\n1\n"}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "prices").write_text("a file")
    with pytest.raises(PublishError, match="prices"):
        keep(tmp_path / "prices", "A", BARS)
    with pytest.raises(TickerNameError):
        keep(tmp_path, "../A", BARS)


def test_a_write_that_fails_leaves_the_history_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path, "A", BARS.head(100))
    before = files(tmp_path)

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:500])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PublishError, match="disk is full"):
        keep(tmp_path, "A", BARS)
    assert files(tmp_path) == before


def test_a_folder_of_files_is_copied_byte_by_byte_after_it_proved_readable(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    text = as_csv(BARS).decode().splitlines()
    text[50] = f"{text[50][:10]},null,null,null,null,null,null"
    (source / "REX.csv").write_text("\r\n".join(text))
    (source / "BAD.csv").write_text("\n".join([*text[:3], text[3].replace(",", ",-", 1)]))
    filled = source_local.copy_prices(tmp_path / "prices", "REX", source=source)
    assert (filled.sessions, filled.added, filled.note) == (119, 119, "rows without prices, left out: 1")
    with pytest.raises(BarsError, match=r"source/BAD\.csv, row 4, column Open"):
        source_local.copy_prices(tmp_path / "prices", "BAD", source=source)
    assert files(tmp_path / "prices") == {"REX.csv": (source / "REX.csv").read_bytes()}


def test_the_synthetic_market_does_not_replace_real_prices(tmp_path: Path) -> None:
    config = SyntheticConfig(sessions=150)
    source_local.write_synthetic(tmp_path, "DEMO", config=config)
    stored = stored_bars(tmp_path, "DEMO")
    assert stored is not None
    pd.testing.assert_frame_equal(stored, market(config))
    with pytest.raises(MarketDataError, match="holds other prices"):
        source_local.write_synthetic(tmp_path, "DEMO", config=SyntheticConfig(sessions=200, seed=8))


def archive(**files: bytes) -> bytes:
    """An archive as a code host packs a revision: everything below one folder, and much that is no price."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("stocknet-dataset-be24/README.md", "prices and tweets")
        target.writestr("stocknet-dataset-be24/price/preprocessed/AAPL.txt", "2017-09-01\t0.1")
        for name, content in files.items():
            target.writestr(f"stocknet-dataset-be24/price/raw/{name}.csv", content)
    return packed.getvalue()


def test_the_archive_is_downloaded_once_and_its_hash_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    packed = archive(AAPL=as_csv(BARS), REX=as_csv(BARS.head(50)))
    with web_server(lambda path, headers: Reply(packed)) as web:
        folder = source_stocknet.unpacked(tmp_path, url=f"{web.url}/a.zip")
        assert files(folder) == {"AAPL.csv": as_csv(BARS), "REX.csv": as_csv(BARS.head(50))}
        assert (
            f"has the SHA-256 {sha256(packed).hexdigest()}; no published hash is known to compare it with"
            in caplog.text
        )
        assert source_stocknet.unpacked(tmp_path, url=f"{web.url}/a.zip") == folder
        assert len(web.asked) == 1


def test_an_archive_that_changed_since_the_first_download_is_refused(tmp_path: Path) -> None:
    first, second = archive(AAPL=as_csv(BARS)), archive(AAPL=as_csv(BARS.head(50)))
    with web_server(lambda path, headers: Reply(first)) as web:
        url = f"{web.url}/a.zip"
        folder = source_stocknet.unpacked(tmp_path, url=url)
        (folder.parent / "archive.zip").write_bytes(b"damaged")
        web.answer = lambda path, headers: Reply(second)
        with pytest.raises(MarketDataError, match=f"should be {sha256(first).hexdigest()}"):
            source_stocknet.unpacked(tmp_path, url=url)
        accepted = source_stocknet.unpacked(tmp_path, url=url, sha256=sha256(second).hexdigest())
        assert files(accepted) == {"AAPL.csv": as_csv(BARS.head(50))}
        assert source_stocknet.unpacked(tmp_path, url=url) == accepted
        assert len(web.asked) == 3


@pytest.mark.parametrize(
    ("packed", "said"),
    [
        (b"<html>no such page</html>", "cannot be used: File is not a zip file"),
        (archive(), "holds no price/raw/STOCK.csv"),
        (archive(**{"..": b"x"}), "is not a ticker name"),
    ],
)
def test_what_is_no_archive_of_prices_is_refused(tmp_path: Path, packed: bytes, said: str) -> None:
    with (
        web_server(lambda path, headers: Reply(packed)) as web,
        pytest.raises(MarketDataError, match=said),
    ):
        source_stocknet.unpacked(tmp_path / "cache", url=f"{web.url}/a.zip")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
