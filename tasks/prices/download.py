"""Files from the web: tried again, resumed after an interruption, and verified before they get their name."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import urlsplit

from tickerforge.tasks.base.disk import file_sha256, fsync_tree, os_errors_as_store_error, rename_durably
from tickerforge.tasks.base.errors import MarketDataError
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.base.retries import RETRIED_STATUS, RETRY_DELAYS_SECONDS

if TYPE_CHECKING:
    from requests import Response, Session

CONNECT_SECONDS, SILENCE_SECONDS = 10.0, 30.0
LONGEST_WAIT_SECONDS = 120.0
# Attempts in a row without progress; an attempt that brings more of the file resets the count.
FRUITLESS_ATTEMPTS = 3
# The content of an interrupted chunk is lost, so chunks are small.
CHUNK_BYTES = 1 << 14
PART_SUFFIX = ".part"


class _Answer(Protocol):
    """The part of a response that decides whether to ask again."""

    @property
    def status_code(self) -> int:
        """Status of the response."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Header fields of the response."""


AnswerT = TypeVar("AnswerT", bound=_Answer)


def answered(ask: Callable[[], AnswerT], *, faults: type[Exception]) -> AnswerT:
    """Ask a server, and ask again after a fault that may pass: no connection, 408, 429 and 5xx.

    `Retry-After` is honoured. If a server asks for more than two minutes, its answer is returned at once.

    Args:
        ask: One request.
        faults: What the client raises if there is no answer; raised again if the last attempt has none.

    Returns:
        The server's answer.
    """
    for pause in RETRY_DELAYS_SECONDS:
        try:
            response = ask()
        except faults as error:
            run_logger(__name__).info("no answer (%s): asking again in %.0f s", type(error).__name__, pause)
        else:
            if response.status_code not in RETRIED_STATUS:
                return response
            wanted = _retry_after(response.headers.get("Retry-After"))
            if wanted > LONGEST_WAIT_SECONDS:
                return response
            pause = max(pause, wanted)
            run_logger(__name__).info("HTTP %d: asking again in %.0f s", response.status_code, pause)
        time.sleep(pause)
    return ask()


def _retry_after(text: str | None) -> float:
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    try:
        return float(Retry().parse_retry_after(text)) if text else 0.0
    except InvalidHeader:
        return 0.0


def download(url: str, target: Path, *, sha256: str | None = None) -> str:
    """Download a file; an interrupted download continues where it stopped, in this call or in a later one.

    Args:
        url: An http or https address.
        target: The file; it appears when it is complete and has the expected hash.
        sha256: The expected hash, hexadecimal.

    Returns:
        The file's SHA-256.

    Raises:
        MarketDataError: If the server does not answer, refuses, keeps closing the connection, or sends another file.
        StoreError: If the file cannot be written.
    """
    part = target.with_name(f".{target.name}{PART_SUFFIX}")
    with os_errors_as_store_error(target.parent, doing=f"downloading {target.name}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part)
        found = file_sha256(part)
        if sha256 is not None and found != sha256.lower():
            part.unlink()
            raise MarketDataError(
                f"{public(url)}: the file's SHA-256 is {found} and should be {sha256}. It was deleted. Try again; "
                "if it happens again, the file has changed: check its origin before you accept the new hash."
            )
        fsync_tree(part)
        rename_durably(part, target)
    return found


def public(url: str) -> str:
    """Strip an address of user, password and query, so that it may be shown."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _fetch(url: str, part: Path) -> None:
    from requests import RequestException, Session

    fruitless = 0
    with Session() as session:
        while True:
            before = _size(part)
            try:
                return _fetch_rest(session, url, part)
            except RequestException as error:
                # Only the class: its text holds the whole address.
                fault = type(error).__name__
            fruitless = 0 if _size(part) > before else fruitless + 1
            if fruitless == FRUITLESS_ATTEMPTS:
                raise MarketDataError(f"{public(url)} breaks off ({fault}) after {_size(part)} bytes: try again later")
            run_logger(__name__).info("broken off after %d bytes (%s): continuing", _size(part), fault)
            time.sleep(RETRY_DELAYS_SECONDS[0])


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _fetch_rest(session: "Session", url: str, part: Path) -> None:
    """Append what the file still lacks; what arrives before a fault stays in it.

    Raises:
        RequestException: If the connection breaks off.
        MarketDataError: If there is none, or the server refuses.
    """
    have = _size(part)
    response = _ask(session, url, have=have)
    if have and response.status_code == 416:
        part.unlink()
        have = 0
        response = _ask(session, url, have=0)
    with response:
        resumed = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status_code != 200 and not resumed:
            raise MarketDataError(f"{public(url)} answers {response.status_code} {response.reason}: {_cure(response)}")
        with part.open("ab" if resumed else "wb") as file:
            for chunk in response.iter_content(CHUNK_BYTES):
                file.write(chunk)


def _ask(session: "Session", url: str, *, have: int) -> "Response":
    from requests import RequestException

    # No compression on the way: offsets must be those of the file.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        return answered(
            lambda: session.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, SILENCE_SECONDS)),
            faults=RequestException,
        )
    except RequestException as error:
        raise MarketDataError(
            f"{public(url)} does not answer ({type(error).__name__}): check the address and the network"
        ) from None


def _cure(response: "Response") -> str:
    if response.status_code == 429:
        wanted = response.headers.get("Retry-After", "not given")
        return f"it wants fewer requests; try again later (Retry-After: {wanted})"
    return "try again later" if response.status_code in RETRIED_STATUS else "check the address"
