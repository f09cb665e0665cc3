"""Training of one adapter over a language model: GRPO, rejection sampling and SFT, then GRPO again."""
