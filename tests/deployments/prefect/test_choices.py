"""What a bare `up` or `deploy` keeps, and what a deployment that is not listed any more leaves."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tickerforge.deployments.prefect.choices import OPTIONS_VARIABLE, Choices, remember, with_former
from tickerforge.deployments.prefect.deploy import deploy


@pytest.fixture
def forgetting(prefect_server: None) -> Iterator[None]:
    """A server that has no former options, before and after."""
    from prefect.variables import Variable

    Variable.unset(OPTIONS_VARIABLE)
    yield
    Variable.unset(OPTIONS_VARIABLE)


def test_options_that_are_not_given_are_as_they_were_last_time(forgetting: None, tmp_path: Path) -> None:
    assert with_former(Choices()) == Choices()
    remember(Choices(data=tmp_path, gpus=2))
    assert with_former(Choices()) == Choices(data=tmp_path, gpus=2)
    assert with_former(Choices(gpus=3, recipe=tmp_path)) == Choices(data=tmp_path, recipe=tmp_path, gpus=3)


def test_former_options_that_cannot_be_read_do_not_count_and_the_log_says_so(
    forgetting: None, caplog: pytest.LogCaptureFixture
) -> None:
    from prefect.variables import Variable

    Variable.set(OPTIONS_VARIABLE, '{"datum": "x"}')
    assert with_former(Choices(gpus=2)) == Choices(gpus=2)
    assert OPTIONS_VARIABLE in caplog.text


def test_paths_mean_the_same_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Choices(data=Path("prices")).absolute().data == tmp_path / "prices"


def test_a_ticker_that_is_not_listed_any_more_loses_its_own_night(prefect_server: None, tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client

    listed, none = tmp_path / "one.toml", tmp_path / "none.toml"
    listed.write_text("[tickers.DEMO]\n")
    none.write_text("")

    def nights() -> list[Any]:
        with get_client(sync_client=True) as client:
            return [each.name for each in client.read_deployments() if each.name.startswith("nightly-")]

    deploy(tickers=listed)
    assert nights() == ["nightly-DEMO"]
    deploy(tickers=none)
    assert nights() == []
