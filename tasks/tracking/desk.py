"""The desk's page in MLflow: one run, whose file each night replaces."""

from datetime import datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tickerforge.tasks.base.disk import link_or_copy
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.tracking.client import as_tracking_error, client_of, connect
from tickerforge.tasks.tracking.runs import milliseconds, open_run
from tickerforge.tasks.tracking.stage_runs import DESCRIPTION_TAG, PipelineRun

_RUN, _TAG = "desk", "tickerforge_desk"


def log_desk(page: Path, *, at: datetime) -> str:
    """Log the page to MLflow's run `desk`, in place of the former one.

    Args:
        page: The page.
        at: Now.

    Returns:
        The address of the page on the tracking server; empty for the embedded database.

    Raises:
        TrackingError: If MLflow does not answer.
    """
    tracking = connect(Workspace.current())
    client = client_of(tracking)
    with as_tracking_error(tracking.uri):
        run_id = open_run(client, tracking.experiment_id, _RUN, found_by={_TAG: "page"}, tags={}, started=at)
        run = PipelineRun(tracking, run_id)
        place = urlsplit(client.get_run(run_id).info.artifact_uri)
        if place.scheme in ("", "file"):
            target = Path(unquote(place.path)) / page.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            link_or_copy(page, target)
        else:
            client.log_artifact(run_id, str(page))
        client.set_tag(
            run_id, DESCRIPTION_TAG, f"[All tickers]({run.page}/artifacts/{page.name}), {at:%Y-%m-%d %H:%M} UTC"
        )
        # `prune` keeps a run as long as its end is recent.
        client.set_terminated(run_id, end_time=milliseconds(at))
    return run.web_address(page.name)
