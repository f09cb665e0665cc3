"""The daily prices of the StockNet data set (Xu and Cohen, 2018): 88 US stocks, September 2012 to September 2017."""

import re
import zipfile
from hashlib import sha256 as sha256_of
from pathlib import Path

from tickerforge.features.atomic import write_atomically
from tickerforge.features.errors import TickerNameError
from tickerforge.features.prices.tickers import validate_ticker
from tickerforge.tasks.base.disk import file_sha256, os_errors_as_store_error
from tickerforge.tasks.base.errors import MarketDataError
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.prices.download import download, public

# The revision that added the prices. No hash of the archive is published, and GitHub does not promise to pack it into
# the same bytes for ever. So the hash of the first download is recorded, and later downloads must match it.
REVISION = "be24fafd37b9b9848e310494d282cb10ab1d580c"
URL = f"https://github.com/yumoxu/stocknet-dataset/archive/{REVISION}.zip"
ARCHIVE_FILE, HASH_FILE, PRICES_FOLDER = "archive.zip", "archive.zip.sha256", "prices"

_MEMBER = re.compile(r"(?:.*/)?price/raw/([^/]+)\.csv")


def unpacked(cache: Path, *, url: str = URL, sha256: str | None = None) -> Path:
    """Download and unpack the price files of the archive; downloaded once, and verified at every use.

    Args:
        cache: Folder of downloads.
        url: The archive, as a zip file with the price files in `price/raw`.
        sha256: Its expected hash; by default the one recorded at the first download, if there was one.

    Returns:
        The folder of the price files.

    Raises:
        MarketDataError: If the archive cannot be downloaded, has another hash, or holds no prices.
        StoreError: If the cache cannot be written.
    """
    place = cache / f"stocknet-{sha256_of(url.encode()).hexdigest()[:12]}"
    archive, record = place / ARCHIVE_FILE, place / HASH_FILE
    with os_errors_as_store_error(place, doing="looking for the StockNet archive"):
        expected = (sha256 or "").lower() or (record.read_text().strip() if record.exists() else None)
        there = archive.exists() and file_sha256(archive) == expected
        if archive.exists() and not there:
            run_logger(__name__).warning("%s does not have the expected hash: downloading it again", archive)
    if not there:
        found = download(url, archive, sha256=expected)
        if expected is None:
            run_logger(__name__).warning(
                "%s has the SHA-256 %s; no published hash is known to compare it with. It is recorded in %s, and later "
                "downloads must match it",
                public(url),
                found,
                record,
            )
        expected = found
    with os_errors_as_store_error(place, doing="unpacking the StockNet archive"):
        folder = _unpack(archive, place / PRICES_FOLDER, url=url)
        write_atomically(record, f"{expected}\n")
    return folder


def _unpack(archive: Path, folder: Path, *, url: str) -> Path:
    folder.mkdir(exist_ok=True)
    found = 0
    try:
        with zipfile.ZipFile(archive) as packed:
            for member in packed.infolist():
                if match := _MEMBER.fullmatch(member.filename):
                    (folder / f"{validate_ticker(match[1])}.csv").write_bytes(packed.read(member))
                    found += 1
    except (zipfile.BadZipFile, TickerNameError) as error:
        archive.unlink()
        raise MarketDataError(
            f"the download from {public(url)} cannot be used: {error}. It was deleted: check the address"
        ) from error
    if not found:
        archive.unlink()
        raise MarketDataError(
            f"the download from {public(url)} holds no price/raw/STOCK.csv and was deleted: check the address"
        )
    return folder
