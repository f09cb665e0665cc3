"""Read a CSV file as text, keeping the row numbers that a text editor shows."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from features.errors import FeaturesError


@dataclass(frozen=True)
class CsvText:
    """The cells of a CSV file, untouched.

    Attributes:
        header: Cells of the first row.
        rows: Cells of every other row that is not blank; each as long as the header.
        lines: 1-based row of each of `rows` in the file.
    """

    header: list[str]
    rows: list[list[str]]
    lines: list[int]


def read_text(path: str | Path, *, error: type[FeaturesError]) -> CsvText:
    """Read a comma-separated UTF-8 file.

    Args:
        path: The file.
        error: The class of the error to raise.

    Raises:
        FeaturesError: Of the class `error`, where the file is missing, a folder, empty, without data rows, not UTF-8
            text, or has a row with more or fewer cells than its header; the message names file and row.
    """
    path = Path(path)
    content = _decode(path, error=error)
    reader = csv.reader(io.StringIO(content, newline=""))
    header: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    first_line = 1
    try:
        for cells in reader:
            line, first_line = first_line, reader.line_num + 1
            if not cells or (len(cells) == 1 and not cells[0].strip()):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                continue
            if len(cells) != len(header):
                raise error(
                    f"{path}, row {line}: the row has {len(cells)} cells and the header has {len(header)}; "
                    "mend or delete the row"
                )
            rows.append(cells)
            lines.append(line)
    except csv.Error as fault:
        raise error(
            f"{path}, row {first_line}: not readable as CSV ({fault}); save the file as comma-separated text"
        ) from fault
    if not rows:
        raise error(f"{path}: the file has a header and no rows; it needs one row a session")
    return CsvText(header, rows, lines)


def _decode(path: Path, *, error: type[FeaturesError]) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError as fault:
        raise error(f"{path}: there is no such file; check the path") from fault
    except (IsADirectoryError, NotADirectoryError) as fault:
        raise error(f"{path}: this is a folder, not a CSV file; name the file itself") from fault
    except PermissionError as fault:
        raise error(f"{path}: the file may not be read (permission denied); change its permissions") from fault
    if not raw.strip():
        raise error(f"{path}: the file is empty; it needs a header and one row a session")
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
