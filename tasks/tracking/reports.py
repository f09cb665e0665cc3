"""The report of a comparison in MLflow: the page alone, which holds its pictures."""

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tickerforge.features.stages import COMPARISON
from tickerforge.tasks.base.disk import link_or_copy
from tickerforge.tasks.base.paths import REPORT_FILE
from tickerforge.tasks.store.artifacts import ArtifactRef


def log_report(client: Any, run_id: str, comparison: ArtifactRef) -> None:
    """Log the page of a comparison to a run, so that everyone who can open MLflow can read it; raises MLflow's errors.

    If MLflow's files are a folder of this machine, the page is linked into it, and takes no space again.
    """
    page, place = comparison.path / REPORT_FILE, urlsplit(client.get_run(run_id).info.artifact_uri)
    if place.scheme not in ("", "file"):
        client.log_artifact(run_id, str(page), COMPARISON.results_folder)
        return
    target = Path(unquote(place.path)) / COMPARISON.results_folder / REPORT_FILE
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    link_or_copy(page, target)
