"""Configuration of base model, adapters, stages, reward, sampling and guard."""

from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tickerforge.features.config import FrozenModel
from tickerforge.features.stages import GRPO_1ST, GRPO_2ND, SFT, AdapterStage

BackendChoice = Literal["auto", "transformers", "unsloth"]
RejectionRule = Literal["best_of_n", "published", "none", "truth"]


TINY = "tiny"
"""The value of `training.model` that stands for the base model built here."""


class TinyConfig(FrozenModel):
    """The local base model that `model = "tiny"` builds: a small Qwen3 trained on synthetic markets."""

    hidden_size: int = Field(default=128, ge=32, le=1024, multiple_of=32, description="Width of the model.")
    layers: int = Field(default=2, ge=1, le=16, description="Number of transformer layers.")
    steps: int = Field(default=800, ge=1, description="Optimiser steps on synthetic windows.")
    batch_size: int = Field(default=48, ge=1, description="Windows per step.")
    learning_rate: float = Field(default=3e-3, gt=0, description="Peak of the cosine schedule.")
    seed: int = Field(default=0, ge=0, description="Seed of the synthetic markets and of the weights.")


class SamplingConfig(FrozenModel):
    """How answers are drawn."""

    temperature: float = Field(default=1.0, gt=0, le=2, description="Softmax temperature.")
    top_p: float = Field(default=0.98, gt=0, le=1, description="Nucleus: cuts the rare far-out value.")
    samples: int = Field(default=16, ge=1, le=256, description="Answers per window; the forecast is their median.")
    batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Answers generated at a time (transformers backend); unset: 1024 for the tiny model, else 256.",
    )
    max_tokens: int = Field(default=128, ge=8, description="Longest answer in tokens.")
    constrained: bool | None = Field(
        default=None,
        description="Hold answers to their format by a grammar; unset: with vLLM only, where it costs nothing.",
    )


WHOLE_ANSWER_KINDS = ("bounded_skill", "published")
"""Rewards that have no score of a single session."""


class RewardConfig(FrozenModel):
    """What GRPO rewards; see `training.rewards` for the formulas."""

    kind: Literal["mse", "bounded_skill", "huber", "published", "crps"] = Field(
        default="crps",
        description="Accuracy: clipped -MSE, bounded skill, Huber, the published 5/(1+10 MSE), or the group's CRPS.",
    )
    credit: Literal["answer", "horizon"] | None = Field(
        default=None,
        description="One score for all tokens of an answer, or each value's own error on its own tokens; unset: the "
        "latter, where the kind scores single sessions.",
    )
    clip: float = Field(default=4.0, gt=0, description="Largest loss, in multiples of what persistence expects.")
    financial_weight: float = Field(default=0.1, ge=0, le=1, description="Weight of sign(forecast) x move / sigma.")
    format_weight: float = Field(default=0.1, ge=0, le=1, description="Reward for an answer that parses.")

    @model_validator(mode="after")
    def _kind_fits_credit(self) -> Self:
        if self.credit == "horizon" and self.kind in WHOLE_ANSWER_KINDS:
            raise ValueError(f"kind = '{self.kind}' scores whole answers: use credit = 'answer'")
        return self

    @property
    def by_horizon(self) -> bool:
        """Whether each value's own error is credited to its own tokens."""
        return self.kind not in WHOLE_ANSWER_KINDS if self.credit is None else self.credit == "horizon"


class GuardConfig(FrozenModel):
    """When a run counts as collapsed."""

    min_valid_rate: float = Field(default=0.5, ge=0, le=1, description="Fewest valid answers, averaged over patience.")
    max_reward_drop: float = Field(default=1.5, gt=0, description="Largest fall of the mean reward below its best.")
    patience: int = Field(default=10, ge=1, description="Steps over which the averages are taken.")


TailShare = Annotated[
    float, Field(ge=0, lt=1, description="Share of the steps, the last ones, whose weights the adapter is the mean of.")
]


class GRPOStageConfig(FrozenModel):
    """Group-relative policy optimisation."""

    steps: int = Field(default=100, ge=1, description="Optimiser steps.")
    prompts_per_step: int = Field(default=8, ge=1, description="Windows per step.")
    group_size: int = Field(default=8, ge=2, description="Answers per window and step.")
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="Peak learning rate; unset: for the tiny model 3e-3 (first stage; 3e-4 from a registered adapter) "
        "and 2e-5 (third), else 1e-5.",
    )
    loss_type: Literal["dapo", "dr_grpo", "grpo", "bnpo"] = Field(default="dapo", description="TRL's loss.")
    scale_rewards: Literal["none", "batch", "group"] = Field(default="batch", description="Scaling of advantages.")
    temperature: float = Field(default=1.0, gt=0, le=2, description="Temperature of the rollouts.")
    tail_average: TailShare = 0.25
    kl: float = Field(
        default=0.0, ge=0, le=10, description="Weight of the divergence from the model that the stage begins with."
    )


THIRD_STAGE: dict[str, Any] = {"steps": 200}
"""Where the third stage's defaults are not the first's."""


def _as_long_as_the_third_stage(settings: object) -> object:
    """Fill up what only some settings are given of: else another rate would also mean the first stage's steps."""
    return {**THIRD_STAGE, **settings} if isinstance(settings, dict) else settings


class RejectionConfig(FrozenModel):
    """Which of the answers drawn are fine-tuned on; see `training.rejection` for the rules."""

    rule: RejectionRule = Field(
        default="best_of_n",
        description="Best of N in a window, windows by quota over time; for comparison the published rule, every first "
        "valid answer, or what really happened.",
    )
    answers: int = Field(default=16, ge=2, le=256, description="Answers drawn per train window.")
    keep: int = Field(default=1, ge=1, description="Best answers kept per window.")
    min_skill: float | None = Field(
        default=None,
        lt=1,
        description="Least skill against persistence of a kept answer; none: a window's best is kept, however good. "
        "Leaving out windows by what happened in them teaches that more happens.",
    )
    buckets: int = Field(default=10, ge=1, description="Time buckets over the train split.")
    max_windows: int = Field(default=2000, ge=1, description="Train windows to draw for, evenly spread in time.")


class SFTStageConfig(FrozenModel):
    """Supervised fine-tuning on the accepted answers."""

    epochs: float = Field(default=4.0, gt=0, description="Passes over the accepted answers.")
    batch_size: int = Field(default=16, ge=1, description="Answers per step.")
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="Peak learning rate; unset: 3e-3 for the tiny model (1e-3 from a registered adapter), 2e-4 for any "
        "other.",
    )
    tail_average: TailShare = 0.25


class LaunchConfig(FrozenModel):
    """Which processes train: this one, one of its own, or several, one a GPU."""

    isolate: bool = Field(
        default=False, description="Train in a process of its own, which gives all memory back (unsloth always does)."
    )
    processes: int = Field(
        default=1, ge=1, le=64, description="Processes that share each step, one a GPU (backend transformers only)."
    )
    vllm_server: str | None = Field(
        default=None,
        pattern=r"^https?://[^/\s]+$",
        description="Address of the vLLM server that draws GRPO's answers, on GPUs of its own (backend transformers).",
    )


# A model of a million parameters learns at rates that would destroy one of billions.
DEFAULT_LEARNING_RATES = {
    TINY: {GRPO_1ST.name: 3e-3, SFT.name: 3e-3, GRPO_2ND.name: 2e-5},
    "other": {GRPO_1ST.name: 1e-5, SFT.name: 2e-4, GRPO_2ND.name: 1e-5},
}
# Where training goes on from an adapter that others trained: at the rate of a fresh one it forgets what that knows.
WARM_LEARNING_RATES: dict[str, dict[str, float]] = {TINY: {GRPO_1ST.name: 3e-4, SFT.name: 1e-3}, "other": {}}


SAMPLING_BATCHES = {TINY: 1024, "other": 256}


class TrainingConfig(FrozenModel):
    """Everything the three stages need."""

    model: str = Field(default=TINY, description="Hugging Face name or path, or `tiny`.")
    model_cutoff: date | None = Field(
        default=None,
        description="Last day that the base model's own training data may hold, where its makers say so.",
    )
    backend: BackendChoice = Field(default="auto", description="Who trains.")
    trust_remote_code: bool = Field(default=False, description="Let a base model run code of its own repository.")
    max_seq_length: int = Field(default=2048, ge=64, description="Longest prompt plus answer, in tokens.")
    lora_rank: int = Field(default=32, ge=1, le=256, description="Rank of the adapters.")
    gpu_memory_utilization: float = Field(default=0.4, gt=0, le=1, description="Share of GPU memory vLLM may take.")
    load_in_4bit: bool = Field(default=True, description="Quantise the base model to 4 bits (unsloth only).")
    micro_batch_size: int = Field(default=64, ge=1, description="Answers per forward pass; less needs less memory.")
    gradient_checkpointing: bool = Field(default=False, description="Trade time for memory (large models).")
    checkpoint_every: int = Field(default=20, ge=1, description="Steps between checkpoints.")
    launch: LaunchConfig = Field(default=LaunchConfig(), description="Which processes train.")
    tiny: TinyConfig = Field(default=TinyConfig(), description="The base model that `tiny` builds.")
    sampling: SamplingConfig = Field(default=SamplingConfig(), description="How the answers of a window are drawn.")
    reward: RewardConfig = Field(default=RewardConfig(), description="What GRPO rewards.")
    guard: GuardConfig = Field(default=GuardConfig(), description="When a training counts as collapsed.")
    grpo_1st: GRPOStageConfig = Field(default=GRPOStageConfig(), description="The first stage.")
    rejection: RejectionConfig = Field(
        default=RejectionConfig(), description="Which answers the second stage learns from."
    )
    sft: SFTStageConfig = Field(default=SFTStageConfig(), description="The second stage.")
    grpo_2nd: Annotated[GRPOStageConfig, BeforeValidator(_as_long_as_the_third_stage)] = Field(
        default=GRPOStageConfig(**THIRD_STAGE), description="The third stage."
    )

    def learning_rate(self, stage: AdapterStage, *, warm: bool = False) -> float:
        """Peak learning rate of a stage: the configured one, or the default for this kind of base model.

        Args:
            stage: The stage.
            warm: Whether it goes on from an adapter instead of a fresh one; the third stage always does.
        """
        settings: GRPOStageConfig | SFTStageConfig = getattr(self, stage)
        configured = settings.learning_rate
        if configured is not None:
            return configured
        default = DEFAULT_LEARNING_RATES[self._size][stage]
        return WARM_LEARNING_RATES[self._size].get(stage, default) if warm else default

    @property
    def answers_at_a_time(self) -> int:
        """Answers per batch: the configured number, or the default for this kind of base model."""
        return self.sampling.batch_size or SAMPLING_BATCHES[self._size]

    @property
    def _size(self) -> str:
        return TINY if self.model == TINY else "other"

    @model_validator(mode="after")
    def _rejection_keeps_no_more_than_it_draws(self) -> Self:
        if self.rejection.keep > self.rejection.answers:
            raise ValueError("rejection.keep must not exceed rejection.answers")
        return self

    @model_validator(mode="after")
    def _several_gpus_are_left_to_transformers(self) -> Self:
        several = self.launch.processes > 1 or self.launch.vllm_server is not None
        if several and self.backend != "transformers":
            raise ValueError(
                "launch.processes and launch.vllm_server need the backend transformers: set training.backend = "
                "'transformers'"
            )
        return self

    @model_validator(mode="after")
    def _processes_share_a_step_evenly(self) -> Self:
        for stage, settings in ((GRPO_1ST.name, self.grpo_1st), (GRPO_2ND.name, self.grpo_2nd)):
            if settings.prompts_per_step % self.launch.processes:
                raise ValueError(
                    f"{stage}.prompts_per_step = {settings.prompts_per_step} must be a multiple of launch.processes = "
                    f"{self.launch.processes}, so that a window's answers stay together"
                )
        if self.sft.batch_size % self.launch.processes:
            raise ValueError(
                f"sft.batch_size = {self.sft.batch_size} must be a multiple of launch.processes = "
                f"{self.launch.processes}"
            )
        return self
