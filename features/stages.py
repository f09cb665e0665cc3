"""The stages of a run: the one table of their names, labels, folders, seeds and settings."""

from dataclasses import dataclass
from typing import Literal

AdapterStage = Literal["grpo_1st", "sft", "grpo_2nd"]
LearningStage = Literal["prime", "grpo_1st", "sft", "grpo_2nd"]
HeavyStage = Literal["base_model", "prime", "grpo_1st", "sft_data", "sft", "grpo_2nd", "forecasts"]
StageCommand = Literal["grpo1", "sft-data", "sft", "grpo2", "compare"]


@dataclass(frozen=True)
class Stage:
    """One stage, with all its names.

    Attributes:
        name: Name of its artifact, its settings in the configuration and its model in tables.
        label: Name in reports.
        command: `COMMAND` of `tickerforge stage COMMAND`; empty if there is none.
        results_folder: Folder of its results below `results/{STOCK}_{TIMESTAMP}`.
        adapter_folder: Folder of its adapter below `models/{MODEL}/{STOCK}`; empty if it trains none.
        reads: Names of the stages whose adapters it continues from, samples or compares.
        settings: Groups of the training configuration that enter the key of its artifact.
        seed_offset: Added to the configured seed, so that all stages draw different random numbers.
    """

    name: str
    label: str
    command: StageCommand | Literal[""] = ""
    results_folder: str = ""
    adapter_folder: str = ""
    reads: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    seed_offset: int = 0


BASE_MODEL = Stage("base_model", "Base model", settings=("tiny",))
PRIME = Stage("prime", "Prime", settings=("prime",))
GRPO_1ST = Stage(
    "grpo_1st",
    "First GRPO",
    command="grpo1",
    results_folder="stage1_grpo_training",
    adapter_folder="grpo_lora_1st",
    settings=("grpo_1st", "reward"),
    seed_offset=0,
)
SFT_DATA = Stage(
    "sft_data",
    "Rejection sampling",
    command="sft-data",
    results_folder="sft_data_generation",
    reads=(GRPO_1ST.name,),
    settings=("rejection", "sampling"),
    seed_offset=1,
)
SFT = Stage(
    "sft",
    "SFT",
    command="sft",
    results_folder="stage2_sft_training",
    adapter_folder="sft_lora",
    settings=("sft",),
    seed_offset=2,
)
GRPO_2ND = Stage(
    "grpo_2nd",
    "Second GRPO",
    command="grpo2",
    results_folder="stage3_grpo_from_sft",
    adapter_folder="grpo_lora_2nd",
    reads=(SFT.name,),
    settings=("grpo_2nd", "reward"),
    seed_offset=3,
)
FORECASTS = Stage("forecasts", "Forecasts", settings=("sampling",), seed_offset=4)
COMPARISON = Stage(
    "comparison",
    "Comparison",
    command="compare",
    results_folder="model_comparison",
    reads=(GRPO_1ST.name, SFT.name, GRPO_2ND.name),
)

STAGES = (BASE_MODEL, PRIME, GRPO_1ST, SFT_DATA, SFT, GRPO_2ND, FORECASTS, COMPARISON)
TRAINING_STAGES = (GRPO_1ST, SFT_DATA, SFT, GRPO_2ND)
ADAPTER_STAGES = (GRPO_1ST, SFT, GRPO_2ND)
ADAPTERS = tuple(stage.name for stage in ADAPTER_STAGES)
LAST_STAGE: AdapterStage = "grpo_2nd"


def stage_named(name: str) -> Stage:
    """Return the stage with a name or a command.

    Raises:
        ValueError: If there is no such stage; the message lists the names.
    """
    for stage in STAGES:
        if name in (stage.name, stage.command):
            return stage
    raise ValueError(f"unknown stage {name!r}: use one of {', '.join(stage.name for stage in STAGES)}")
