"""The command `python -m training`: base model and stages on plain files, with features and training alone."""

import hashlib
import json
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from pydantic import ValidationError

from tickerforge.features.config import FeatureConfig
from tickerforge.features.errors import FeaturesError
from tickerforge.features.prices.bars import read_csv
from tickerforge.features.windowfile import read_windows
from tickerforge.features.windows import build_windows
from tickerforge.training.config import TrainingConfig
from tickerforge.training.contracts import OnProgress, Progress, StageResult
from tickerforge.training.errors import BaseModelError, TrainingError
from tickerforge.training.examples import build_examples, unit_of_sigma
from tickerforge.training.models.base_model import TINY, build_tiny, check_model
from tickerforge.training.stages import GRPOStage, answer_generator, run_grpo, run_rejection, run_sft

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

BEGUN_FILE = "begun.json"
SECTIONS = ("features", "training")


class Split(StrEnum):
    """Which windows of the data."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


Data = Annotated[
    Path,
    typer.Option(
        help="Windows as the pipeline stores them: sessions.parquet, of a pool windows.parquet; or a CSV of daily bars."
    ),
]
BaseModel = Annotated[
    str,
    typer.Option(
        help="Hugging Face name or folder. With one that build-base wrote add --set training.model=tiny: a tiny model "
        "has learning rates of its own."
    ),
]
Adapter = Annotated[Path | None, typer.Option(help="LoRA adapter to go on from.")]
Out = Annotated[Path, typer.Option(help="Folder for the result; an interrupted run resumes there.")]
Recipe = Annotated[Path | None, typer.Option(help="TOML file; its tables [features] and [training] count.")]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", help="A setting, such as training.grpo_1st.steps=20.", metavar="KEY=VALUE")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the stage.")]


@app.command()
def build_base(out: Path, config: Recipe = None, set_: Assignments = None) -> None:
    """Build the tiny base model into a folder."""
    with _reported() as report:
        features, training = _settings(config, set_)
        out.mkdir(parents=True, exist_ok=True)
        build_tiny(out, config=training.tiny, features=features, on_progress=report)


@app.command()
def grpo(
    context: typer.Context,
    data: Data,
    base_model: BaseModel,
    out: Out,
    stage: GRPOStage = "grpo_1st",
    adapter: Adapter = None,
    config: Recipe = None,
    set_: Assignments = None,
    seed: Seed = 0,
) -> None:
    """Train an adapter by GRPO on the train windows."""
    with _reported() as report:
        features, training = _settings(config, set_, model=base_model)
        train = _windows(data, features=features, split="train")
        _claim(context, out)
        result = run_grpo(
            build_examples(train, config=features),
            stage=stage,
            base_model=base_model,
            adapter=adapter,
            config=training,
            out_dir=out,
            seed=seed,
            unit=unit_of_sigma(train, config=features),
            on_progress=report,
        )
    _show(result)


@app.command()
def sft_data(
    context: typer.Context,
    data: Data,
    base_model: BaseModel,
    out: Out,
    adapter: Adapter = None,
    config: Recipe = None,
    set_: Assignments = None,
    seed: Seed = 0,
) -> None:
    """Draw answers to the train windows and keep the best, in sft_data.parquet."""
    with _reported() as report:
        features, training = _settings(config, set_, model=base_model)
        train = _windows(data, features=features, split="train")
        _claim(context, out)
        result = run_rejection(
            build_examples(train, config=features),
            base_model=base_model,
            adapter=adapter,
            config=training,
            out_dir=out,
            seed=seed,
            decimals=0 if features.units == "sigma" else 4,
            on_progress=report,
        )
    _show(result)


@app.command()
def sft(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(help="The sft_data.parquet that sft-data wrote.")],
    base_model: BaseModel,
    out: Out,
    adapter: Adapter = None,
    config: Recipe = None,
    set_: Assignments = None,
    seed: Seed = 0,
) -> None:
    """Fine-tune an adapter on accepted answers."""
    with _reported() as report:
        _, training = _settings(config, set_, model=base_model)
        if not data.is_file():
            raise TrainingError(f"{data} is not there: `python -m training sft-data` writes it")
        _claim(context, out)
        options: dict[str, Any] = {"base_model": base_model, "adapter": adapter, "out_dir": out, "seed": seed}
        result = run_sft(data, config=training, on_progress=report, **options)
    _show(result)


@app.command()
def sample(
    data: Data,
    base_model: BaseModel,
    split: Annotated[Split, typer.Option(help="Which windows.")] = Split.VALIDATION,
    adapter: Adapter = None,
    config: Recipe = None,
    set_: Assignments = None,
    seed: Seed = 0,
) -> None:
    """Draw answers to the windows of a split; one JSON object a line goes to standard output."""
    with _reported() as report:
        features, training = _settings(config, set_, model=base_model)
        examples = build_examples(_windows(data, features=features, split=split.value), config=features)
        options: dict[str, Any] = {"base_model": base_model, "adapter": adapter, "seed": seed, "on_progress": report}
        generate = answer_generator(config=training, horizon=features.horizon, **options)
        answers = generate([example.prompt for example in examples], training.sampling.samples)
    for example, texts in zip(examples, answers, strict=True):
        typer.echo(json.dumps({"window_id": example.window_id, "target": example.target, "answers": texts}))


@app.command(hidden=True)
def job(folder: Path) -> None:
    """Do the job in a folder: the process that `training.launch` starts."""
    from tickerforge.training.launch import work

    work(folder)


def _settings(
    recipe: Path | None, assignments: list[str] | None, *, model: str | None = None
) -> tuple[FeatureConfig, TrainingConfig]:
    settings: dict[str, Any] = tomllib.loads(recipe.read_text()) if recipe else {}
    for assignment in assignments or ():
        key, _, value = assignment.partition("=")
        if key.partition(".")[0].strip() not in SECTIONS:
            raise TrainingError(f"--set {assignment}: a setting begins with features. or training.")
        try:
            given = tomllib.loads(f"{key} = {value}")
        except tomllib.TOMLDecodeError:
            given = tomllib.loads(f"{key} = {json.dumps(value)}")
        _merge(settings, given)
    features = FeatureConfig.model_validate(settings.get("features", {}))
    training = settings.get("training", {})
    if model == TINY:
        raise BaseModelError(
            "the tiny model must be built first: `python -m training build-base FOLDER`; then give --base-model FOLDER "
            "--set training.model=tiny"
        )
    if model is not None:
        check_model(model, features=features)
        training = {"model": model} | training
    return features, TrainingConfig.model_validate(training)


def _claim(context: typer.Context, out: Path) -> None:
    """Note what is begun in a folder, and refuse one in which something else was: it would be gone on from.

    Called once the inputs are read, so that a mistyped name claims nothing.

    Raises:
        TrainingError: Another command, other inputs or settings than those of the run that began there.
    """
    asked = {name: _content(value) for name, value in context.params.items() if name != "out"}
    asked = {"command": str(context.info_name), **asked}
    note = out / BEGUN_FILE
    if note.exists() and json.loads(note.read_text()) != asked:
        raise TrainingError(f"{out} holds what another run began, with other inputs or settings: give another --out")
    out.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(asked, indent=2))


def _content(value: object) -> str:
    """Files by their content, adapters by their weights, anything else as it is written."""
    if isinstance(value, Path):
        file = value / "adapter_model.safetensors" if value.is_dir() else value
        return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else str(value)
    return str(value)


def _merge(settings: dict[str, Any], given: dict[str, Any]) -> None:
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(settings.get(key), dict):
            _merge(settings[key], value)
        else:
            settings[key] = value


def _windows(data: Path, *, features: FeatureConfig, split: str) -> pd.DataFrame:
    if data.suffix == ".parquet":
        frame = read_windows(data)
    else:
        frame = build_windows(read_csv(data, ticker=data.stem), ticker=data.stem, config=features)
    return frame[frame["split"] == split].reset_index(drop=True)


@contextmanager
def _reported() -> Iterator[OnProgress]:
    """A bar on standard error for what runs inside, and errors that a user can mend as one line."""
    from rich.console import Console
    from rich.progress import Progress as Bars

    with Bars(console=Console(stderr=True)) as shown:
        rows: dict[str, Any] = {}

        def report(event: Progress) -> None:
            if event.stage not in rows:
                rows[event.stage] = shown.add_task(event.stage, total=event.total)
            shown.update(rows[event.stage], completed=event.step)

        try:
            yield report
        except (FeaturesError, TrainingError, ValidationError, tomllib.TOMLDecodeError, OSError) as error:
            shown.stop()
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error


def _show(result: StageResult) -> None:
    typer.echo(json.dumps({"stage": result.stage, "out_dir": os.fspath(result.out_dir), **result.summary}))
