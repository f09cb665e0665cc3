from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tickerforge.flows.server import slots


@pytest.fixture
def let_go(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """A server that is there while a slot is taken; what is put into the list it raises while the slot is let go."""
    faults: list[Exception] = []

    @contextmanager
    def concurrency(name: str, **options: Any) -> Iterator[None]:
        assert options["strict"]
        yield
        if faults:
            raise faults.pop()

    monkeypatch.setattr("prefect.concurrency.sync.concurrency", concurrency)
    monkeypatch.setattr(slots, "is_shared", lambda: True)
    monkeypatch.setattr(slots, "_make_limit", lambda name: None)
    return faults


def test_finished_work_stays_finished_where_prefect_is_away_when_the_slot_is_let_go(
    let_go: list[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    let_go.append(httpx.ConnectError("All connection attempts failed"))
    with slots.gpu_slot():
        pass
    assert "will be free in 60 s" in caplog.text


def test_what_went_wrong_with_the_work_is_told_even_where_prefect_is_away(let_go: list[Exception]) -> None:
    let_go.append(httpx.ConnectError("All connection attempts failed"))
    with pytest.raises(ValueError, match="the work"), slots.gpu_slot():
        raise ValueError("the work")


def test_a_slot_that_cannot_be_let_go_for_another_reason_is_told(let_go: list[Exception]) -> None:
    let_go.append(LookupError("no such limit"))
    with pytest.raises(LookupError, match="no such limit"), slots.gpu_slot():
        pass
