"""Read a CSV file as text, keeping the row numbers that a text editor shows."""

import codecs
import csv
import errno
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from tickerforge.features.errors import FeaturesError

LARGEST_FILE = 256 * 2**20
"""Bytes; a larger file is refused unread. Daily bars of a century take 3 MB, published windows of one 100 MB."""

OTHER_SEPARATORS = (";", "\t", "|")


@dataclass(frozen=True)
class CsvText:
    """The cells of a CSV file, untouched.

    Attributes:
        header: Cells of the first row.
        rows: Cells of every other row that is not empty; each as long as the header.
        lines: 1-based row of each of `rows` in the file.
        blank_rows: Number of empty rows between the first and the last, which are left out.
        byte_order_mark: Whether the file began with one, which is left out.
    """

    header: list[str]
    rows: list[list[str]]
    lines: list[int]
    blank_rows: int = 0
    byte_order_mark: bool = False


def read_text(path: str | Path, *, error: type[FeaturesError]) -> CsvText:
    """Read a comma-separated UTF-8 file: `read_bytes`, then `parse_text`."""
    return parse_text(read_bytes(path, error=error), path=path, error=error)


def read_bytes(path: str | Path, *, error: type[FeaturesError]) -> bytes:
    """Read the content of an ordinary file; a link to one counts as one.

    Args:
        path: The file.
        error: The class of the error to raise.

    Raises:
        FeaturesError: Of the class `error`, if the file is missing, not an ordinary file, unreadable or larger than
            `LARGEST_FILE`.
    """
    try:
        # A pipe or a device must not block the opening, and must not be read without end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(status.st_mode):
                raise error(f"{path}: this is a device or a pipe, not a CSV file; name the file itself")
            if status.st_size > LARGEST_FILE:
                raise error(
                    f"{path}: the file has {status.st_size / 2**20:,.0f} MB, more than {LARGEST_FILE / 2**20:.0f} MB; "
                    "keep only the daily rows of one stock in it"
                )
            return file.read(LARGEST_FILE)
    except FileNotFoundError as fault:
        raise error(f"{path}: there is no such file; check the path") from fault
    except (IsADirectoryError, NotADirectoryError) as fault:
        raise error(f"{path}: this is a folder, not a CSV file; name the file itself") from fault
    except PermissionError as fault:
        raise error(f"{path}: the file cannot be read (permission denied); change its permissions") from fault
    except OSError as fault:
        raise error(f"{path}: the file cannot be read ({fault.strerror}); check the path and the disk") from fault


def parse_text(raw: bytes, *, path: str | Path, error: type[FeaturesError]) -> CsvText:
    """Split the content of a comma-separated UTF-8 file into cells.

    Args:
        raw: The content.
        path: The file's name, for messages.
        error: The class of the error to raise.

    Raises:
        FeaturesError: Of the class `error`, if the content is empty, without data rows, not UTF-8 text, or has a row
            with more or fewer cells than its header; the message names file and row.
    """
    reader = csv.reader(io.StringIO(_decode(raw, path=path, error=error), newline=""))
    header: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    blank = trailing = 0
    first_line = 1
    try:
        for cells in reader:
            line, first_line = first_line, reader.line_num + 1
            if not cells or (len(cells) == 1 and not cells[0].strip()):
                trailing += 1
                continue
            blank, trailing = blank + trailing, 0
            if not header:
                header = [cell.strip() for cell in cells]
                other = next((mark for mark in OTHER_SEPARATORS if len(header) == 1 and mark in header[0]), None)
                if other:
                    raise error(
                        f"{path}, row {line}: the cells are separated by {other!r}; save the file with commas between "
                        "them, and a point in decimal numbers"
                    )
                continue
            if len(cells) != len(header):
                raise error(
                    f"{path}, row {line}: the row has {len(cells)} cells and the header has {len(header)}; "
                    "correct or delete the row"
                )
            rows.append(cells)
            lines.append(line)
    except csv.Error as fault:
        raise error(
            f"{path}, row {first_line}: not readable as CSV ({fault}); save the file as comma-separated text"
        ) from fault
    if not rows:
        raise error(f"{path}: the file has a header and no rows; it needs one row per session")
    return CsvText(header, rows, lines, blank_rows=blank, byte_order_mark=raw.startswith(codecs.BOM_UTF8))


def _decode(raw: bytes, *, path: str | Path, error: type[FeaturesError]) -> str:
    if not raw.strip():
        raise error(f"{path}: the file is empty; it needs a header and one row per session")
    if b"\0" in raw:
        row = raw[: raw.index(b"\0")].count(b"\n") + 1
        raise error(f"{path}, row {row}: the file is binary or UTF-16, not a UTF-8 CSV; save it as CSV in UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        row = raw[: fault.start].count(b"\n") + 1
        raise error(
            f"{path}, row {row}: byte {raw[fault.start]:#04x} is not UTF-8 text; save the file as CSV in UTF-8"
        ) from fault
