"""The folders for people: results of a run and adapters of a ticker, each filled from the store in one step."""

from pathlib import Path

import pandas as pd

from tickerforge.evaluation.core.recalibration import Recalibration
from tickerforge.features.config import FeatureConfig
from tickerforge.features.stages import GRPO_1ST, GRPO_2ND
from tickerforge.tasks.base.disk import copy_tree, link_or_copy, os_errors_as_publish_error, replace_folder
from tickerforge.tasks.base.paths import (
    ADAPTER_FOLDER,
    ANSWERS_FILE,
    CARD_FILE,
    MANIFEST_FILE,
    MODEL_CARD_FILE,
    ROLLOUTS_FILE,
    SFT_DATA_FILE,
    ModelFolder,
    RunFolder,
)
from tickerforge.tasks.models.adapters import AdapterCard, adapter_identity, read_card, write_card
from tickerforge.tasks.store.artifacts import ArtifactRef
from tickerforge.training.config import TrainingConfig
from tickerforge.training.errors import AdapterError


def publish_stage(
    artifact: ArtifactRef,
    run_folder: RunFolder,
    *,
    windows: ArtifactRef | None = None,
    features: FeatureConfig | None = None,
    training: TrainingConfig | None = None,
) -> Path:
    """Copy a stage's records (metrics and manifest, not its adapter) into the run's folder.

    The large file of all answers is linked. Of a GRPO stage, the page of rollouts is written beside it if the other
    arguments are given.

    Args:
        artifact: Artifact of a stage that trains an adapter.
        run_folder: Folder of this run.
        windows: Artifact of the windows that it was trained on.
        features: How prompts are rendered.
        training: The settings of training.

    Raises:
        PublishError: If the folder cannot be written.
    """

    def fill(fresh: Path) -> None:
        _copy_records(artifact, fresh)
        if artifact.stage in (GRPO_1ST.name, GRPO_2ND.name) and windows and features and training:
            page = _rollouts(artifact, windows, features=features, training=training)
            (fresh / ROLLOUTS_FILE).write_text(page, encoding="utf-8")

    return replace_folder(run_folder.stage(artifact.stage), fill, marker=MANIFEST_FILE)


def _rollouts(artifact: ArtifactRef, windows: ArtifactRef, *, features: FeatureConfig, training: TrainingConfig) -> str:
    from tickerforge.tasks.windows.preprocess import read_windows
    from tickerforge.training.examples import build_examples, unit_of_sigma, window_id
    from tickerforge.training.rollouts import rollouts_page

    answers, frame = pd.read_parquet(artifact.path / ANSWERS_FILE), read_windows(windows)
    train = frame[frame["split"] == "train"]
    wanted = set(answers["window_id"])
    names = zip(train["ticker"], train["origin"], strict=True)
    asked = [window_id({"ticker": ticker, "origin": origin}) in wanted for ticker, origin in names]
    stage = training.grpo_1st if artifact.stage == GRPO_1ST.name else training.grpo_2nd
    return rollouts_page(
        answers,
        {example.window_id: example for example in build_examples(train[asked], config=features)},
        stage=artifact.stage,
        reward=training.reward,
        unit=unit_of_sigma(train, config=features),
        scale=stage.scale_rewards,
    )


def _copy_records(artifact: ArtifactRef, fresh: Path) -> None:
    copy_tree(artifact.path, fresh, leave_out=frozenset({ADAPTER_FOLDER, MODEL_CARD_FILE, ANSWERS_FILE}))
    if (answers := artifact.path / ANSWERS_FILE).is_file():
        link_or_copy(answers, fresh / ANSWERS_FILE)


def publish_sft_data(artifact: ArtifactRef, run_folder: RunFolder, *, stock: str) -> Path:
    """Write the accepted answers into the run's folder, as Parquet and as `{STOCK}_sft_training_data.csv`.

    The large file of all answers is linked.

    Returns:
        The CSV file.

    Raises:
        PublishError: If the folder cannot be written.
    """
    name = f"{stock}_sft_training_data.csv"

    def fill(fresh: Path) -> None:
        _copy_records(artifact, fresh)
        pd.read_parquet(fresh / SFT_DATA_FILE).to_csv(fresh / name, index=False)

    return replace_folder(run_folder.stage(artifact.stage), fill, marker=MANIFEST_FILE) / name


def publish_comparison_folder(artifact: ArtifactRef, run_folder: RunFolder) -> Path:
    """Link the report and its numbers into the run's folder, and write the pictures beside them as files.

    Raises:
        PublishError: If the folder cannot be written.
    """
    from tickerforge.evaluation.report.report import write_figures

    def fill(fresh: Path) -> None:
        for path in artifact.path.iterdir():
            link_or_copy(path, fresh / path.name)
        write_figures(fresh)

    return replace_folder(run_folder.stage(artifact.stage), fill, marker=MANIFEST_FILE)


def publish_recalibration(folder: Path, adapter: ArtifactRef | Path, *, recalibration: Recalibration) -> None:
    """Write the recalibration of a compared adapter into its published card; a folder without this adapter stays.

    Raises:
        PublishError: If the card cannot be written.
    """
    try:
        card = read_card(folder) if adapter_identity(folder) == adapter_identity(adapter) else None
    except AdapterError:
        return
    if card is not None and card.recalibration != recalibration:
        with os_errors_as_publish_error(folder, doing=f"writing {CARD_FILE}"):
            write_card(folder, card.model_copy(update={"recalibration": recalibration}))


def publish_adapter(artifact: ArtifactRef, target: ModelFolder | Path, *, card: AdapterCard) -> Path:
    """Publish a stage's adapter with its card; it replaces the former one.

    Args:
        artifact: Artifact of a stage that trains an adapter.
        target: The ticker's model folder, with a subfolder per stage, or the adapter's own folder.
        card: How the adapter must be asked.

    Raises:
        PublishError: If the folder cannot be written, or holds something that TickerForge did not write.
    """
    folder = target.adapter(artifact.stage) if isinstance(target, ModelFolder) else target

    def fill(fresh: Path) -> None:
        copy_tree(artifact.path / ADAPTER_FOLDER, fresh)
        write_card(fresh, card)

    return replace_folder(folder, fill, marker=CARD_FILE)
