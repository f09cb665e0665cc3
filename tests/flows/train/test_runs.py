from pathlib import Path

import pandas as pd
import pytest

from mlflow_server import free_port
from tickerforge.flows.cli.preflight import check_run
from tickerforge.flows.settings.config import with_overrides
from tickerforge.flows.train.runs import answers_to_draw, new_run_folder, recorded_run
from tickerforge.tasks.base.errors import TrackingError
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.store.artifacts import ArtifactRef
from tickerforge.tasks.tracking.stage_runs import client_of, connect
from tiny_pipeline import tiny_config
from trained_pieces import CONFIG, Pieces

WINDOWS = ArtifactRef(stage="windows", key="k", path=Path("windows"), sha256="0" * 64)


def test_a_command_is_refused_at_once_where_its_mlflow_server_does_not_answer(
    working_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:hidden@127.0.0.1:{free_port()}")
    with pytest.raises(TrackingError, match=r"cannot be used.*Start the server") as caught:
        check_run(tiny_config(), home=working_folder)
    assert "hidden" not in str(caught.value)
    assert not list(working_folder.iterdir())


def test_a_run_goes_on_without_mlflow_and_says_so(working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    folder = new_run_folder("DEMO")
    with recorded_run(tiny_config(), folder=folder) as run:
        run.start_tracking("train", windows=WINDOWS)
    log = folder.log.read_text()
    assert "MLflow did not get the start of the run" in log
    assert "MLflow was still down at the end of the run and lacks 2 parts of it" in log


def test_a_run_is_closed_in_mlflow_as_what_it_turned_out_to_be(working_folder: Path) -> None:
    for error in (ValueError("broken"), KeyboardInterrupt(), None):
        try:
            with recorded_run(tiny_config(), folder=new_run_folder("DEMO")) as run:
                run.start_tracking("train", windows=WINDOWS)
                if error is not None:
                    raise error
        except (ValueError, KeyboardInterrupt):
            pass
    tracking = connect(Workspace.current())
    runs = client_of(tracking).search_runs([tracking.experiment_id], order_by=["attributes.start_time ASC"])
    assert [run.info.status for run in runs] == ["FAILED", "KILLED", "FINISHED"]
    assert not list((Workspace.current().locks / "runs").iterdir())


def test_the_answers_to_draw_are_those_that_the_stages_draw(made: Pieces) -> None:
    told = answers_to_draw(CONFIG, windows=made.windows)
    for stage, artifact in (("grpo_1st", made.grpo_1st), ("sft_data", made.sft_data)):
        assert told[stage] == len(pd.read_parquet(artifact.path / "answers.parquet"))
    assert told["comparison"] == 4 * made.forecasts[0].meta["windows"] * CONFIG.training.sampling.samples
    assert "sft_data" not in answers_to_draw(
        with_overrides(CONFIG, ["training.rejection.rule=truth"]), windows=made.windows
    )
    pool = with_overrides(CONFIG, ["stock=ALL", "evaluation.max_windows=null"])
    large = made.windows.model_copy(update={"meta": {"train": 9000, "validation": 3000, "test": 5000}})
    assert answers_to_draw(pool, windows=large)["comparison"] == 4 * 2000 * CONFIG.training.sampling.samples
