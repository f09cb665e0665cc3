"""The registry: adapters as MLflow models with the aliases challenger and champion, and their download."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import task

from tickerforge.evaluation.core.contracts import SCORED_SPLITS
from tickerforge.features.config import FrozenModel
from tickerforge.features.stages import COMPARISON, FORECASTS
from tickerforge.tasks.base.disk import (
    check_replaceable,
    fsync_tree,
    locked,
    os_errors_as_store_error,
    replace_folder,
)
from tickerforge.tasks.base.errors import NotRegistered
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.base.paths import ADAPTER_FOLDER, BASE_MODEL_FOLDER, CARD_FILE, REPORT_FILE
from tickerforge.tasks.base.retries import TASK_OPTIONS
from tickerforge.tasks.models.adapters import AdapterCard
from tickerforge.tasks.outputs.evaluate import named_scores, read_report, read_verdict
from tickerforge.tasks.registry.integrity import CHECKSUMS_TAG, damage, is_verifiable, pulled_folders
from tickerforge.tasks.registry.packaging import log_adapter, unpack
from tickerforge.tasks.registry.promotion import is_rolled_back, promote
from tickerforge.tasks.registry.shared_base import BASE_MODEL_FILES, fetch_base_model
from tickerforge.tasks.registry.versions import (
    CHALLENGER,
    CHAMPION,
    RegisteredAdapter,
    aliases_of,
    all_versions,
    find_version,
    model_name,
    parse_spec,
)
from tickerforge.tasks.store.artifacts import ArtifactRef
from tickerforge.tasks.tracking.client import Tracking, as_tracking_error, client_of
from tickerforge.tasks.tracking.reports import log_report
from tickerforge.tasks.tracking.runs import LONGEST_TAG
from tickerforge.tasks.tracking.stage_runs import PipelineRun, start_nested_run
from tickerforge.tasks.windows.preprocess import read_bars
from tickerforge.training.errors import AdapterError

MADE = ("adapter_key", "data_sha256")
_ARTIFACTS = "artifacts"
TAGGED_METRICS = ("crps", "crps_skill", "crps_p", "mse", "mae", "scaled_mse", "skill", "valid_rate")


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
    An adapter that was registered before with the same data and comparison is not registered again, unless the
    registry's copy is damaged. Nor is the current champion if the verdict promotes it again. An adapter that was rolled
    back is not promoted again.

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
        same = _same_versions(run.tracking, name, tags, promoted=verdict.promoted)
        known = next((str(found.version) for found in same if _is_whole(run.tracking, found)), None)
        version = known or _create_version(run, name, adapter, card=card, bars=bars, comparison=comparison, tags=tags)
        registered = RegisteredAdapter(ticker=card.ticker, version=int(version))
        client.set_registered_model_alias(name, CHALLENGER, version)
        aliases: tuple[str, ...] = (CHALLENGER,)
        made = {tag: tags[tag] for tag in MADE}
        if verdict.promoted and not is_rolled_back(run.tracking, name, made=made):
            promote(run.tracking, registered, at=at)
            aliases = (CHALLENGER, CHAMPION)
        outcome = {
            "promoted": str(CHAMPION in aliases).lower(),
            "model_version": version,
            "champion_version": aliases_of(run.tracking, name).get(CHAMPION, "none"),
        }
        for tag, value in outcome.items():
            client.set_tag(run.run_id, tag, value)
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
        AdapterError: If the registry's files are not those that were registered.
        PublishError: If `dest` holds something else or cannot be written.
    """
    check_replaceable(dest, marker=CARD_FILE)
    ticker, alias = parse_spec(spec)
    return _download(tracking, find_version(tracking, model_name(ticker), alias=alias), dest)


def fetch_registered(tracking: Tracking, adapter: RegisteredAdapter, *, cache: Path) -> Path:
    """Return the registered adapter's folder as `pull_adapter` writes it, downloaded once per version below `cache`.

    Its files are compared with those that were registered at every call, and downloaded again if they differ.

    Raises:
        NotRegistered: If the registry has no such version.
        TrackingError: If MLflow does not answer.
        AdapterError: If the registry's files are not those that were registered.
        StoreError: If the cache cannot be written.
    """
    version = find_version(tracking, adapter.name, alias=str(adapter.version))
    # A registry that was set up again counts its versions from 1 again.
    folder = cache / adapter.name / f"{adapter.version}-{version.creation_timestamp}"
    with locked(copies_lock(cache / adapter.name), waiting_for=f"fetching {adapter}"):
        if folder.is_dir():
            with suppress(OSError):
                # The time of the last use: `pulled_place` removes copies that nobody has used for long.
                os.utime(folder)
            damaged = damage(pulled_folders(folder), tag=version.tags.get(CHECKSUMS_TAG))
            if not damaged:
                return folder
            run_logger(__name__).warning(
                "the copy of %s in %s is damaged (%s): fetching it again", adapter, folder, damaged
            )
            with os_errors_as_store_error(folder, doing="removing a damaged adapter"):
                shutil.rmtree(folder)
        return _download(tracking, version, folder)


def copies_lock(folder: Path) -> Path:
    """Return the lock of the folder that has the copies of a model's versions."""
    return folder.with_name(f".{folder.name}.lock")


def _download(tracking: Tracking, version: Any, dest: Path) -> Path:
    final = dest.resolve()

    def fill(fresh: Path) -> None:
        with _registered_files(tracking, version) as downloaded:
            unpack(downloaded, fresh, final=final, source=RegisteredAdapter.of(version).uri)
        fsync_tree(fresh)

    return replace_folder(dest, fill, marker=CARD_FILE)


@contextmanager
def _registered_files(tracking: Tracking, version: Any) -> Iterator[Path]:
    """Download a version's `adapter` and `base_model` to a temporary folder.

    Raises:
        AdapterError: If they are not those that were registered; says what to do.
    """
    import mlflow

    adapter = RegisteredAdapter.of(version)
    uri, ticker = adapter.uri, adapter.ticker
    with tempfile.TemporaryDirectory(prefix="tickerforge-") as temporary:
        folders = {name: Path(temporary, _ARTIFACTS, name) for name in (ADAPTER_FOLDER, BASE_MODEL_FOLDER)}
        with as_tracking_error(tracking.uri):
            there = mlflow.artifacts.list_artifacts(artifact_uri=uri, tracking_uri=tracking.uri)
            if _ARTIFACTS in {item.path for item in there}:
                mlflow.artifacts.download_artifacts(
                    artifact_uri=f"{uri}/{_ARTIFACTS}", dst_path=temporary, tracking_uri=tracking.uri
                )
            if address := version.tags.get(BASE_MODEL_FILES):
                fetch_base_model(tracking, address, into=Path(temporary, _ARTIFACTS))
        if damaged := damage(folders, tag=version.tags.get(CHECKSUMS_TAG)):
            raise AdapterError(
                f"{uri} is damaged in MLflow: {damaged}. Restore MLflow's files from a backup, or repeat the run that "
                f"made it, which registers the adapter again. If it is the champion of {ticker}, "
                f"`tickerforge registry rollback {ticker}` returns to the one before it."
            )
        if not is_verifiable(folders[ADAPTER_FOLDER]):
            run_logger(__name__).warning(
                "%s was registered without checksums, so its files cannot be verified: train %s again",
                uri,
                ticker,
            )
        yield Path(temporary, _ARTIFACTS)


def _is_whole(tracking: Tracking, version: Any) -> bool:
    try:
        with _registered_files(tracking, version):
            return True
    except AdapterError as error:
        run_logger(__name__).warning("%s Registering the adapter again.", error)
        return False


def _same_versions(tracking: Tracking, name: str, tags: Mapping[str, str], *, promoted: bool) -> Iterator[Any]:
    """Yield the versions of this same adapter: the champion if promoted again, then those with the same comparison."""
    if promoted:
        with suppress(NotRegistered):
            champion = find_version(tracking, name, alias=CHAMPION)
            if all(champion.tags.get(tag) == tags[tag] for tag in MADE):
                yield champion
    for version in all_versions(tracking, name):
        if all(version.tags.get(tag) == tags[tag] for tag in (*MADE, "comparison_key")):
            yield version


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
        log_report(client, run.run_id, comparison)
    nested = start_nested_run(run, "register", tags={"stage": "register", "store_key": adapter.key})
    logged, of_files = log_adapter(run.tracking, nested, adapter, card=card, bars=read_bars(bars))
    try:
        client.create_registered_model(name, tags={"ticker": card.ticker})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return str(
        client.create_model_version(
            name,
            logged.model_uri,
            run_id=nested,
            tags={**tags, **of_files},
            model_id=logged.model_id,
            description=f"{tags['verdict']} [Report]({run.report_page}), also in `{tags['report_path']}`.",
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
        **({"prime": card.prime.summary} if card.prime else {}),
        "data_sha256": bars.sha256,
        "adapter_key": adapter.key,
        "comparison_key": comparison.key,
        "git_revision": card.git_revision,
        "seed": str(card.seed - FORECASTS.seed_offset),
        "verdict": verdict.headline,
        "promoted": str(verdict.promoted).lower(),
        "verdict_reasons": "\n".join(f"{'+' if reason.passed else '-'} {reason.text}" for reason in verdict.reasons),
        "report": f"runs:/{run.run_id}/{COMPARISON.results_folder}/{REPORT_FILE}",
        "report_path": str((report_path or comparison.path).resolve()),
        **{name: f"{value:.6g}" for name, value in figures.items() if name in wanted},
    }
    return {name: value[:LONGEST_TAG] for name, value in tags.items()}
