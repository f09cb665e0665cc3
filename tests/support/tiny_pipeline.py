"""A pipeline so small that all its stages take a minute: short windows, a minute model, a few steps a stage."""

from tickerforge.flows.settings.config import PipelineConfig, with_overrides

SETTINGS = {
    "stock": "DEMO",
    "synthetic.sessions": 400,
    "features.context": 4,
    "features.horizon": 2,
    "features.prompt_style": "prices",
    "training.lora_rank": 4,
    # A model of so few steps writes too few valid answers; tests of priming ask for it.
    "training.prime.min_valid_rate": 0.0,
    "training.checkpoint_every": 2,
    "training.tiny.hidden_size": 32,
    "training.tiny.layers": 1,
    "training.tiny.steps": 60,
    "training.tiny.batch_size": 32,
    "training.tiny.learning_rate": 0.02,
    "training.sampling.samples": 4,
    "training.guard.min_valid_rate": 0.0,
    "training.guard.max_reward_drop": 1000.0,
    "training.grpo_1st.steps": 3,
    "training.grpo_1st.prompts_per_step": 2,
    "training.grpo_1st.group_size": 3,
    "training.grpo_2nd.steps": 3,
    "training.grpo_2nd.prompts_per_step": 2,
    "training.grpo_2nd.group_size": 3,
    "training.rejection.answers": 4,
    "training.rejection.max_windows": 12,
    "training.rejection.min_skill": -1e9,
    "training.sft.epochs": 1.0,
    "training.sft.batch_size": 4,
    "evaluation.max_windows": 6,
    "evaluation.pictures": "false",
    # No model of a few steps has this skill: no verdict depends on how a training turns out.
    "gate.min_skill": 0.9,
}

ASSIGNMENTS = [f"{key}={value}" for key, value in SETTINGS.items()]


def tiny_config() -> PipelineConfig:
    """The configuration of that pipeline."""
    return with_overrides(PipelineConfig(), ASSIGNMENTS)
