"""Downloads from a server on this machine: whole, broken off, slow, refused, and not what was expected."""

import logging
import time
import traceback
from hashlib import sha256
from pathlib import Path

import pytest

from tickerforge.tasks.base.errors import MarketDataError
from tickerforge.tasks.prices import download as module
from tickerforge.tasks.prices.download import download
from web_server import Reply, ranged, web_server

BODY = bytes(range(256)) * 400
HASH = sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_DELAYS_SECONDS", [0.0, 0.0])
    monkeypatch.setattr(module, "SILENCE_SECONDS", 10.0)


def replies(*listed: Reply):
    """One answer after the other; the last one for ever."""
    rest = list(listed)
    return lambda path, headers: rest.pop(0) if len(rest) > 1 else rest[0]


def test_a_file_gets_its_name_once_it_is_whole_and_verified(tmp_path: Path) -> None:
    with web_server(replies(Reply(BODY))) as web:
        assert download(f"{web.url}/a.zip", tmp_path / "new" / "a.zip", sha256=HASH.upper()) == HASH
    assert (tmp_path / "new" / "a.zip").read_bytes() == BODY
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.zip"]


def test_a_body_that_breaks_off_is_resumed_where_it_broke_off(tmp_path: Path) -> None:
    sent = iter([40_000, 50_000, None])
    with web_server(lambda path, headers: ranged(BODY, headers, sent=next(sent))) as web:
        assert download(f"{web.url}/a", tmp_path / "a", sha256=HASH) == HASH
    starts = [int(headers.get("Range", "bytes=0-")[6:-1]) for _, headers in web.asked]
    assert starts[0] == 0
    assert 0 < starts[1] <= 40_000
    assert starts[1] < starts[2] <= 90_000
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_later_call_goes_on_with_what_an_earlier_one_got(tmp_path: Path) -> None:
    with web_server(lambda path, headers: ranged(BODY, headers, sent=0 if "Range" in headers else 60_000)) as web:
        with pytest.raises(MarketDataError, match=r"breaks off \(\w+\) after \d+ bytes: try again later"):
            download(f"{web.url}/a", tmp_path / "a", sha256=HASH)
        assert len(web.asked) == 4
        assert not (tmp_path / "a").exists()
        web.answer = lambda path, headers: ranged(BODY, headers)
        assert download(f"{web.url}/a", tmp_path / "a", sha256=HASH) == HASH
        assert web.asked[-1][1]["Range"] != "bytes=0-"
        assert len(web.asked) == 5
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_server_that_ignores_the_range_is_read_from_the_beginning(tmp_path: Path) -> None:
    with web_server(replies(Reply(BODY, sent=60_000), Reply(BODY))) as web:
        assert download(f"{web.url}/a", tmp_path / "a", sha256=HASH) == HASH
    assert "Range" in web.asked[1][1]


def test_what_is_left_of_a_file_that_was_whole_or_longer_is_fetched_anew(tmp_path: Path) -> None:
    (tmp_path / ".a.part").write_bytes(BODY + b"more")
    with web_server(lambda path, headers: ranged(BODY, headers)) as web:
        assert download(f"{web.url}/a", tmp_path / "a", sha256=HASH) == HASH


def test_a_wrong_hash_leaves_nothing_and_an_earlier_file_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"former")
    with (
        web_server(replies(Reply(BODY + b"!"))) as web,
        pytest.raises(MarketDataError, match=f"and should be {HASH}. It was deleted"),
    ):
        download(f"{web.url}/a", tmp_path / "a", sha256=HASH)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"former"}


def test_a_missing_file_is_not_asked_for_again(tmp_path: Path) -> None:
    with (
        web_server(replies(Reply(status=404))) as web,
        pytest.raises(MarketDataError, match="answers 404 Not Found: check the address"),
    ):
        download(f"{web.url}/a", tmp_path / "a")
    assert len(web.asked) == 1
    assert not list(tmp_path.iterdir())


def test_a_server_that_wants_fewer_requests_gets_them_as_late_as_it_says(tmp_path: Path) -> None:
    busy = Reply(status=429, headers={"Retry-After": "1"})
    with web_server(replies(busy, Reply(status=503), Reply(BODY))) as web:
        began = time.monotonic()
        assert download(f"{web.url}/a", tmp_path / "a", sha256=HASH) == HASH
    assert 1.0 <= time.monotonic() - began < 60
    assert len(web.asked) == 3


@pytest.mark.parametrize(("wanted", "asked"), [("86400", 1), ("0", 3), ("nonsense", 3)])
def test_a_server_that_stays_busy_is_left_alone(tmp_path: Path, wanted: str, asked: int) -> None:
    with (
        web_server(replies(Reply(status=429, headers={"Retry-After": wanted}))) as web,
        pytest.raises(MarketDataError, match=rf"answers 429 .*try again later \(Retry-After: {wanted}\)"),
    ):
        download(f"{web.url}/a", tmp_path / "a")
    assert len(web.asked) == asked


def test_a_server_that_falls_silent_is_asked_for_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.5)
    silent = iter([(50_000, 30.0), (None, 0.0)])

    def answer(path, headers):
        sent, silence = next(silent)
        return ranged(BODY, headers, sent=sent, silence=silence)

    with web_server(answer) as web:
        assert download(f"{web.url}/a", tmp_path / "a", sha256=HASH) == HASH
    assert "Range" in web.asked[1][1]


@pytest.mark.parametrize("reply", [Reply(status=404), Reply(BODY, sent=0), Reply(BODY + b"!")])
def test_no_message_tells_the_password_of_an_address(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, reply: Reply
) -> None:
    caplog.set_level(logging.INFO)
    with web_server(replies(reply)) as web:
        url = f"{web.url}/a?token=s3cret".replace("//", "//me:s3cret@")
        with pytest.raises(MarketDataError, match=r"http://127\.0\.0\.1:\d+/a") as caught:
            download(url, tmp_path / "a", sha256=HASH)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value)) + caplog.text


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MarketDataError, match=r"127\.0\.0\.1:1/a does not answer \(ConnectionError\)"):
        download("http://127.0.0.1:1/a", tmp_path / "a")
