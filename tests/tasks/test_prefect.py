"""The tasks inside a real Prefect flow."""

import gc
import json
from pathlib import Path

import pytest
from prefect import flow
from prefect.artifacts import Artifact

from hostile import good_lines, text
from tickerforge.features.config import SyntheticConfig
from tickerforge.tasks.base.prefect_artifacts import publish_comparison
from tickerforge.tasks.outputs.evaluate import read_report, read_verdict
from tickerforge.tasks.prices.market_data import FolderSource, SyntheticSource, fetch_bars
from tickerforge.tasks.store.artifacts import ArtifactRef, Store
from trained_pieces import Pieces

# Prefect's clients of a failed run are closed by the garbage collector only.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


def test_a_flow_leaves_a_table_and_a_link_in_the_ui(prefect_server: None, made: Pieces, tmp_path: Path) -> None:
    report, verdict = read_report(made.comparison), read_verdict(made.comparison)

    @flow
    def publishing() -> None:
        publish_comparison(report, verdict, address=(tmp_path / "report.html").as_uri())

    publishing()
    table, link = Artifact.get("comparison-demo"), Artifact.get("report-demo")
    assert table is not None
    assert "Persistence" in str(table.data)
    assert verdict.headline in str(table.description)
    assert link is not None
    assert (tmp_path / "report.html").as_uri() in str(link.data)


def test_prices_from_a_folder_leave_their_quality_as_a_table_in_the_ui(prefect_server: None, tmp_path: Path) -> None:
    lines = good_lines()
    (tmp_path / "ACME.csv").write_text(text(lines[:110] + lines[115:]))

    @flow
    def fetching() -> ArtifactRef:
        return fetch_bars(FolderSource(folder=tmp_path), "ACME", store=Store(tmp_path / "store"))

    fetching()
    table = Artifact.get("quality-acme")
    assert table is not None
    rows = {row["What"]: row["Count"] for row in json.loads(str(table.data))}
    assert rows["sessions"] == "295"
    assert int(rows["missing sessions"]) == 5


def test_a_task_works_in_a_flow_and_a_bad_input_is_not_retried(prefect_server: None, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    @flow
    def fetching() -> ArtifactRef:
        return fetch_bars(SyntheticSource(config=SyntheticConfig(sessions=120)), "DEMO", store=store)

    @flow
    def failing() -> None:
        fetch_bars(FolderSource(folder=tmp_path / "nowhere"), "AAPL", store=store)

    assert fetching().meta["rows"] == 120
    state = failing(return_state=True)
    assert state.is_failed()
    assert "no folder" in str(state.message)
    gc.collect()
