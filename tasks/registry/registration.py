"""The registry: adapters as MLflow models with the aliases challenger and champion, and their download."""

import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from prefect import task

from tickerforge.evaluation.core.contracts import SCORED_SPLITS
from tickerforge.features.config import FrozenModel
from tickerforge.features.stages import COMPARISON
from tickerforge.tasks.base.disk import check_replaceable, locked, replace_folder
from tickerforge.tasks.base.errors import NotRegistered
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.base.paths import CARD_FILE
from tickerforge.tasks.base.retries import TASK_OPTIONS
from tickerforge.tasks.models.adapters import AdapterCard
from tickerforge.tasks.outputs.evaluate import named_scores, read_report, read_verdict
from tickerforge.tasks.registry.packaging import log_adapter, unpack
from tickerforge.tasks.registry.promotion import is_rolled_back, promote
from tickerforge.tasks.registry.versions import (
    CHALLENGER,
    CHAMPION,
    RegisteredAdapter,
    all_versions,
    find_version,
    model_name,
)
from tickerforge.tasks.store.artifacts import ArtifactRef
from tickerforge.tasks.tracking.client import Tracking, as_tracking_error, client_of
from tickerforge.tasks.tracking.runs import LONGEST_TAG
from tickerforge.tasks.tracking.stage_runs import PipelineRun, start_nested_run
from tickerforge.tasks.windows.preprocess import read_bars

REPORT_FILE = "report.html"
MADE = ("adapter_key", "data_sha256")
TAGGED_METRICS = ("mse", "mae", "scaled_mse", "skill", "valid_rate")


class RegisteredModel(FrozenModel):
    """A registered version with its aliases; `reused` says that it was registered before with the same content."""

    adapter: RegisteredAdapter
    aliases: tuple[str, ...]
    reused: bool = False

    @property
    def name(self) -> str:
        """Name of the model in the registry."""
        return self.adapter.name

    @property
    def version(self) -> str:
        """Version as MLflow writes it."""
        return str(self.adapter.version)

    @property
    def uri(self) -> str:
        """Address that `mlflow.pyfunc.load_model` takes."""
        return self.adapter.uri


@task(name="register-adapter", **TASK_OPTIONS)
def register_adapter(
    run: PipelineRun,
    adapter: ArtifactRef,
    *,
    card: AdapterCard,
    bars: ArtifactRef,
    comparison: ArtifactRef,
    at: datetime,
    report_path: Path | None = None,
) -> RegisteredModel:
    """Register the chosen adapter: always as `challenger`, as `champion` only if the verdict promotes it.

    The version is created last and together with its tags, so that an interrupted registration leaves no half version.
    An adapter that was registered before with the same data and comparison is not registered again. Nor is the current
    champion if the verdict promotes it again. An adapter that was rolled back is not promoted again.

    Args:
        run: The pipeline's parent run; the model is logged in a nested run of it.
        adapter: Artifact of the chosen stage.
        card: How the adapter must be asked.
        bars: Artifact of `fetch_bars`; its latest sessions are the input example.
        comparison: Artifact of `compare_models`: verdict and scores become tags; the parent run keeps the report.
        at: The instant of a promotion.
        report_path: The report on this machine.

    Raises:
        TrackingError: If MLflow does not answer.
    """
    verdict = read_verdict(comparison)
    name = model_name(card.ticker)
    tags = _tags(run, adapter, card=card, bars=bars, comparison=comparison, report_path=report_path)
    client = client_of(run.tracking)
    with as_tracking_error(run.tracking.uri):
        known = _same_version(run.tracking, name, tags, promoted=verdict.promoted)
        version = known or _create_version(run, name, adapter, card=card, bars=bars, comparison=comparison, tags=tags)
        registered = RegisteredAdapter(ticker=card.ticker, version=int(version))
        client.set_registered_model_alias(name, CHALLENGER, version)
        aliases: tuple[str, ...] = (CHALLENGER,)
        made = {tag: tags[tag] for tag in MADE}
        if verdict.promoted and not is_rolled_back(run.tracking, name, made=made):
            promote(run.tracking, registered, at=at)
            aliases = (CHALLENGER, CHAMPION)
    run_logger(__name__).info("%s version %s is %s", name, version, " and ".join(aliases))
    return RegisteredModel(adapter=registered, aliases=aliases, reused=known is not None)


def pull_adapter(tracking: Tracking, spec: str, *, dest: Path) -> Path:
    """Download a registered adapter as a folder for PEFT, with card, README and, for tiny, its base model.

    Args:
        tracking: From `tasks.tracking.stage_runs.connect`.
        spec: `AAPL`, `AAPL@challenger` or `AAPL@3`.
        dest: New or empty folder, or one that was pulled before, which is replaced in one step.

    Returns:
        The folder.

    Raises:
        NotRegistered: If nothing is registered under that name and alias; names the aliases that exist.
        PublishError: If `dest` holds something else or cannot be written.
    """
    check_replaceable(dest, marker=CARD_FILE)
    return _download(tracking, RegisteredAdapter.parse(spec, tracking=tracking), dest)


def fetch_registered(tracking: Tracking, adapter: RegisteredAdapter, *, cache: Path) -> Path:
    """Return the registered adapter's folder as `pull_adapter` writes it, downloaded once per version below `cache`.

    Raises:
        NotRegistered: If the registry has no such version.
        TrackingError: If MLflow does not answer.
        StoreError: If the cache cannot be written.
    """
    version = find_version(tracking, adapter.name, alias=str(adapter.version))
    # A registry that was set up again counts its versions from 1 again.
    folder = cache / adapter.name / f"{adapter.version}-{version.creation_timestamp}"
    with locked(cache / f".{adapter.name}.lock", waiting_for=f"fetching {adapter}"):
        return folder if (folder / CARD_FILE).is_file() else _download(tracking, adapter, folder)


def _download(tracking: Tracking, adapter: RegisteredAdapter, dest: Path) -> Path:
    import mlflow

    uri = adapter.uri
    final = dest.resolve()

    def fill(fresh: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="tickerforge-") as temporary:
            with as_tracking_error(tracking.uri):
                path = mlflow.artifacts.download_artifacts(
                    artifact_uri=f"{uri}/artifacts", dst_path=temporary, tracking_uri=tracking.uri
                )
            unpack(Path(path), fresh, final=final, source=uri)

    return replace_folder(dest, fill, marker=CARD_FILE)


def _same_version(tracking: Tracking, name: str, tags: Mapping[str, str], *, promoted: bool) -> str | None:
    """Return the version of this same adapter: the champion if promoted again, else one with the same comparison."""
    if promoted:
        try:
            champion = find_version(tracking, name, alias=CHAMPION)
        except NotRegistered:
            pass
        else:
            if all(champion.tags.get(tag) == tags[tag] for tag in MADE):
                return str(champion.version)
    for version in all_versions(tracking, name):
        if all(version.tags.get(tag) == tags[tag] for tag in (*MADE, "comparison_key")):
            return str(version.version)
    return None


def _create_version(
    run: PipelineRun,
    name: str,
    adapter: ArtifactRef,
    *,
    card: AdapterCard,
    bars: ArtifactRef,
    comparison: ArtifactRef,
    tags: Mapping[str, str],
) -> str:
    from mlflow.exceptions import MlflowException

    client = client_of(run.tracking)
    if not client.list_artifacts(run.run_id, COMPARISON.results_folder):
        client.log_artifacts(run.run_id, str(comparison.path), COMPARISON.results_folder)
    nested = start_nested_run(run, "register", tags={"stage": "register", "store_key": adapter.key})
    logged = log_adapter(nested, adapter, card=card, bars=read_bars(bars))
    try:
        client.create_registered_model(name, tags={"ticker": card.ticker})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return str(
        client.create_model_version(
            name, logged.model_uri, run_id=nested, tags=dict(tags), model_id=logged.model_id
        ).version
    )


def _tags(
    run: PipelineRun,
    adapter: ArtifactRef,
    *,
    card: AdapterCard,
    bars: ArtifactRef,
    comparison: ArtifactRef,
    report_path: Path | None,
) -> dict[str, str]:
    verdict = read_verdict(comparison)
    figures = named_scores(read_report(comparison)).get(card.stage, {})
    wanted = {f"{split}/{metric}" for split in SCORED_SPLITS for metric in TAGGED_METRICS}
    tags = {
        "ticker": card.ticker,
        "stage": card.stage,
        "base_model": card.training.model,
        "data_sha256": bars.sha256,
        "adapter_key": adapter.key,
        "comparison_key": comparison.key,
        "git_revision": card.git_revision,
        "seed": str(card.seed),
        "verdict": verdict.headline,
        "promoted": str(verdict.promoted).lower(),
        "verdict_reasons": "\n".join(f"{'+' if reason.passed else '-'} {reason.text}" for reason in verdict.reasons),
        "report": f"runs:/{run.run_id}/{COMPARISON.results_folder}/{REPORT_FILE}",
        "report_path": str((report_path or comparison.path).resolve()),
        **{name: f"{value:.6g}" for name, value in figures.items() if name in wanted},
    }
    return {name: value[:LONGEST_TAG] for name, value in tags.items()}
