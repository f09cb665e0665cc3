"""The undisturbed run with which all cases are compared, and one service per file of cases."""

from collections.abc import Iterator

import pytest

from checks import STEPS, weights
from operations import Operations, lasting
from service_home import wait_until
from tickerforge.flows.settings.config import PipelineConfig, with_overrides
from tiny_pipeline import tiny_config


@pytest.fixture(scope="session")
def config() -> PipelineConfig:
    """The tiny pipeline, with more steps per stage, in which to disturb it."""
    return with_overrides(tiny_config(), [f"{key}={value}" for key, value in STEPS.items()])


@pytest.fixture(scope="session")
def reference(config: PipelineConfig, prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The weights of an undisturbed run."""
    from tickerforge.flows.train.pipeline import train_ticker

    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TICKERFORGE_HOME", str(folder / "home"))
        patch.setenv("MLFLOW_TRACKING_URI", "")
        patch.delenv("MLFLOW_TRACKING_URI")
        train_ticker(config)
    found = weights(folder)
    assert len(found) == 3
    return found


@pytest.fixture(scope="module")
def started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    """The service of this file; a variable SERVICE in the file holds environment variables for it."""
    with lasting(tmp_path_factory.mktemp("chaos"), getattr(request.module, "SERVICE", {})) as made:
        yield made


@pytest.fixture
def operations(started: Operations) -> Operations:
    """The same service, healthy and without remains of earlier cases."""
    assert wait_until(started.is_well), started.logs()[-4000:]
    started.lets_go()
    started.forget()
    return started
