"""The ledger of records: a chain of blocks, each with the hashes of new records and of the block before it."""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime

from pydantic import AwareDatetime

from tickerforge.features.config import FrozenModel
from tickerforge.tasks.base.errors import StoreError
from tickerforge.tasks.store.records import create_record, list_records, parse_record, record_bytes

_LEDGER = "ledger"
_ATTEMPTS = 100


class Block(FrozenModel):
    """Records that were written by `written_at`; `entries` has the SHA-256 of each by its name, `{kind}/{name}`.

    `previous` is the SHA-256 of the block before, empty for the first one.
    """

    number: int
    previous: str
    written_at: AwareDatetime
    entries: dict[str, str]


class Head(FrozenModel):
    """The latest block: its number and its SHA-256, which stands for everything that was recorded up to it."""

    number: int
    sha256: str

    def __str__(self) -> str:
        """Return the form that people keep: `12:3f9c…`."""
        return f"{self.number}:{self.sha256}"


class Checked(FrozenModel):
    """The result of a check: the blocks, the instant at which each record was sealed, and what is wrong."""

    head: Head | None
    blocks: int
    sealed: dict[str, AwareDatetime]
    faults: tuple[str, ...]


def seal(names: Iterable[str], *, kinds: Sequence[str], at: datetime, since: datetime) -> Head | None:
    """Append a block with the records that no block has yet.

    The first block of a ledger has all records of `kinds` that exist.

    Args:
        names: Records `{kind}/{name}` that were written now, or found to exist.
        kinds: The kinds of records that the ledger is about.
        at: Now.
        since: No record of `names` is older; blocks before it are not searched.

    Returns:
        The latest block; `None` if nothing was ever sealed.

    Raises:
        StoreError: If a record or a block cannot be read or written.
    """
    wanted = list(dict.fromkeys(names))
    for _ in range(_ATTEMPTS):
        numbers = list_records(_LEDGER)
        if not numbers:
            existing = (f"{kind}/{name}" for kind in kinds for name in list_records(kind))
            wanted = list(dict.fromkeys([*wanted, *existing]))
        last = _read(numbers[-1]) if numbers else None
        head = Head(number=last[0].number, sha256=last[1]) if last else None
        new = _without_sealed(wanted, numbers, latest=last[0], since=since) if last else wanted
        if not new:
            return head
        block = Block(
            number=head.number + 1 if head else 1,
            previous=head.sha256 if head else "",
            # Clocks of machines differ a little; the chain has one order.
            written_at=max(at, last[0].written_at) if last else at,
            entries={name: _digest(name) for name in new},
        )
        name = f"{block.number:08d}"
        # Another run may have appended meanwhile: then its block is the one before.
        if create_record(_LEDGER, name, block):
            return Head(number=block.number, sha256=_read(name)[1])
    raise StoreError(f"the ledger of records could not be appended to in {_ATTEMPTS} attempts: run the command again")


def head() -> Head | None:
    """Return the latest block; `None` if nothing was ever sealed.

    Raises:
        StoreError: If it cannot be read.
    """
    numbers = list_records(_LEDGER)
    if not numbers:
        return None
    block, digest = _read(numbers[-1])
    return Head(number=block.number, sha256=digest)


def check(*, kinds: Sequence[str], known: str = "") -> Checked:
    """Compare all records with the ledger.

    Args:
        kinds: The kinds of records that the ledger is about.
        known: A head that somebody kept, `NUMBER:SHA256` or the hash alone; without it, a ledger that was rewritten as
            a whole looks like the original.

    Raises:
        StoreError: If a record or a block cannot be read.
    """
    faults: list[str] = []
    sealed: dict[str, datetime] = {}
    digests: list[str] = []
    entries: dict[str, str] = {}
    before: Block | None = None
    for place, number in enumerate(list_records(_LEDGER), start=1):
        what = f"block {number}"
        try:
            block, digest = _read(number)
        except StoreError as error:
            faults.append(f"{what}: {error}")
            digests.append("")
            continue
        if block.number != place or int(number) != place:
            faults.append(f"{what}: block {place} should be here; blocks are missing or were renamed")
        if block.previous != (digests[-1] if digests else ""):
            faults.append(f"{what}: the block before it is not the one that it was appended to")
        if before is not None and block.written_at < before.written_at:
            faults.append(f"{what}: it is dated {block.written_at}, before the block before it ({before.written_at})")
        for name, content in block.entries.items():
            if entries.setdefault(name, content) != content:
                faults.append(f"{name}: {what} has another hash than an earlier block")
            sealed.setdefault(name, block.written_at)
        digests.append(digest)
        before = block
    for name, expected in entries.items():
        there = record_bytes(name)
        if there is None:
            faults.append(f"{name}: the record is missing")
        elif hashlib.sha256(there).hexdigest() != expected:
            faults.append(f"{name}: the record was changed after it was sealed at {sealed[name]}")
    existing = {f"{kind}/{name}" for kind in kinds for name in list_records(kind)}
    faults += [
        f"{name}: the record is in no block; somebody added it, or the run that wrote it was killed"
        for name in sorted(existing - entries.keys())
    ]
    digest = known.rpartition(":")[2].strip().lower()
    if digest and digest not in digests:
        faults.append(f"no block has the hash {known}: the ledger that had it was replaced or shortened")
    return Checked(
        head=Head(number=len(digests), sha256=digests[-1]) if digests else None,
        blocks=len(digests),
        sealed=sealed,
        faults=tuple(faults),
    )


def _without_sealed(names: list[str], numbers: Sequence[str], *, latest: Block, since: datetime) -> list[str]:
    left = dict.fromkeys(names)
    for number in reversed(numbers):
        if not left:
            break
        block = latest if number == numbers[-1] else _read(number)[0]
        if block.written_at < since:
            break
        for name in block.entries:
            left.pop(name, None)
    return list(left)


def _read(number: str) -> tuple[Block, str]:
    name = f"{_LEDGER}/{number}"
    content = record_bytes(name)
    if content is None:
        raise StoreError(f"block {number} of the ledger of records is gone: restore it from a backup")
    return parse_record(name, content, Block), hashlib.sha256(content).hexdigest()


def _digest(name: str) -> str:
    content = record_bytes(name)
    if content is None:
        raise StoreError(f"the record {name} is gone while it was sealed: run the command again")
    return hashlib.sha256(content).hexdigest()
