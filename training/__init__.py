"""Three training stages over one language model: GRPO, rejection sampling with SFT, GRPO again."""
