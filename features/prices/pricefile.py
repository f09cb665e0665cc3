"""A price file, unpacked and decoded: the tickers that it holds, and each one's table."""

import bz2
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING

from tickerforge.features.errors import BarsError, shortened
from tickerforge.features.prices.csvfile import LARGEST_FILE
from tickerforge.features.prices.dialects import ENCODINGS
from tickerforge.features.prices.pricetable import PriceTable
from tickerforge.features.prices.pricetext import PriceText, find_head
from tickerforge.features.prices.tickers import ticker_of_file

if TYPE_CHECKING:
    import pandas as pd

_MOST_LAYERS = 3
_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_PACKED: dict[bytes, Callable[[io.BytesIO], gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
_FOREIGN = {
    b"%PDF": "a PDF document",
    b"\x89PNG": "a picture",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"ARROW1": "a Feather file",
    b"SQLite": "a database",
    b"<": "a web page; the download may have failed",
    b"{": "JSON",
    b"[": "JSON",
    b"\x28\xb5\x2f\xfd": "a file compressed with zstd",
}
_FAULTS = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError, NotImplementedError)


class PriceFile:
    """The content of a price file, which holds one ticker or several.

    Args:
        raw: The content.
        name: Name of the file in messages.

    Raises:
        BarsError: If the content is not a table with dates and prices.
    """

    def __init__(self, raw: bytes, *, name: str) -> None:
        self.name = name
        self.repairs: dict[str, int] = {}
        self._text: PriceText | None = None
        self._frame: pd.DataFrame | None = None
        content = self._unpacked(raw)
        if content.startswith(b"PAR1"):
            from tickerforge.features.prices.priceframe import read_parquet

            self.repairs["compressed"] = 1
            self._frame = read_parquet(content, name=name)
        else:
            self._text = self._decoded(content)

    def tickers(self) -> list[str]:
        """List the tickers that the file names, in its order; none if it holds one table."""
        if self._text is not None:
            return self._text.tickers()
        from tickerforge.features.prices.priceframe import frame_tickers

        assert self._frame is not None
        return frame_tickers(self._frame)

    def table(self, ticker: str) -> PriceTable:
        """Take the cells of one ticker.

        Raises:
            BarsError: If the file holds several tickers, and not this one.
        """
        if self._text is not None:
            table = self._text.table(ticker)
        else:
            from tickerforge.features.prices.priceframe import frame_table

            assert self._frame is not None
            table = frame_table(self._frame, ticker=ticker, name=self.name)
        table.repairs = {**self.repairs, **table.repairs}
        return table

    def fingerprint(self, ticker: str) -> str:
        """Hash what the file holds of one ticker, so that other tickers in it can change."""
        if self._text is not None:
            return sha256(self._text.piece(ticker).encode()).hexdigest()
        table = self.table(ticker)
        digest = sha256()
        for label, column in zip(table.labels, table.columns, strict=True):
            digest.update(f"{label}\0{[str(cell) for cell in column]}".encode())
        return digest.hexdigest()

    def _unpacked(self, content: bytes) -> bytes:
        for _ in range(_MOST_LAYERS):
            try:
                if content.startswith(b"PK\x03\x04"):
                    unpacked = self._only_member(content)
                elif opener := next((each for start, each in _PACKED.items() if content.startswith(start)), None):
                    with opener(io.BytesIO(content)) as file:
                        unpacked = file.read(LARGEST_FILE + 1)
                else:
                    return content
            except _FAULTS as fault:
                raise BarsError(
                    f"{self.name}: the file is compressed and cannot be unpacked ({fault}); download it again"
                ) from fault
            if len(unpacked) > LARGEST_FILE:
                raise BarsError(
                    f"{self.name}: unpacked, the file has more than {LARGEST_FILE / 2**20:.0f} MB; keep only the daily "
                    "rows of one stock in it"
                )
            content = unpacked
            self.repairs["compressed"] = 1
        return content

    def _only_member(self, content: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            names = [each.filename for each in packed.infolist() if not each.is_dir()]
            if "xl/workbook.xml" in names:
                raise BarsError(f"{self.name}: this is an Excel workbook; save the sheet with the prices as CSV")
            tables = [name for name in names if ticker_of_file(name.rpartition("/")[2]) and "__MACOSX" not in name]
            if len(tables) != 1:
                shown = shortened(", ".join(tables or names), at_most=200)
                raise BarsError(
                    f"{self.name}: the archive holds {len(tables)} price files ({shown}) instead of one; unpack it "
                    "into a folder, and name the folder"
                )
            with packed.open(tables[0]) as file:
                return file.read(LARGEST_FILE + 1)

    def _decoded(self, content: bytes) -> PriceText:
        if not content.strip():
            raise BarsError(f"{self.name}: the file is empty; it needs a header and one row per session")
        # UTF-16 has zeros between the letters.
        bare = content[:200].lstrip(b"".join(_BYTE_ORDER_MARKS)).replace(b"\0", b"").lstrip()
        # MetaTrader and Stooq write <DATE> and <TICKER>.
        named = re.match(rb"<\w+>[,;\t|]", bare)
        foreign = None if named else next((what for start, what in _FOREIGN.items() if bare.startswith(start)), None)
        if foreign:
            raise BarsError(f"{self.name}: this is {foreign}, not a table of prices: save the prices as CSV")
        first: BarsError | None = None
        for encoding in _encodings(content):
            try:
                text = content.decode(encoding)
                if "\0" in text:
                    row = text[: text.index("\0")].count("\n") + 1
                    raise BarsError(f"{self.name}, row {row}: the file is binary, not a table; save it as CSV")
                opened = PriceText(text, name=self.name)
            except UnicodeDecodeError as fault:
                row = content[: fault.start].count(b"\n") + 1
                byte = content[fault.start]
                first = first or BarsError(
                    f"{self.name}, row {row}: byte {byte:#04x} is not {encoding} text; save the file as CSV in UTF-8"
                )
            except BarsError as fault:
                first = first or fault
                if encoding == "utf-8":
                    break
            else:
                self.repairs["byte_order_marks"] = int(encoding == "utf-8-sig")
                self.repairs["encodings"] = int(not encoding.startswith("utf-8"))
                return opened
        assert first is not None
        raise first


def _encodings(content: bytes) -> tuple[str, ...]:
    mark = next((name for start, name in _BYTE_ORDER_MARKS.items() if content.startswith(start)), None)
    if mark:
        return (mark,)
    start = content[:200]
    if start.count(0) > len(start) // 3:
        return ("utf-16-le" if start[1:2] == b"\0" else "utf-16-be",)
    return ENCODINGS


def looks_like_prices(start: bytes) -> bool:
    """Return whether the first bytes of a file are the start of a text with prices, or packed."""
    if start.startswith((*_PACKED, b"PK\x03\x04", b"PAR1")):
        return True
    text = start.decode(_encodings(start)[0], errors="replace")
    try:
        find_head(text, name="")
    except BarsError:
        return False
    return True
