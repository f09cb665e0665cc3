"""When a run counts as collapsed: the rule, apart from any trainer."""

from collections import deque

from tickerforge.training.config import GuardConfig


class CollapseGuard:
    """Watches valid rate and reward step by step; deterministic, so that a resumed run decides as an undisturbed one.

    A run has collapsed when, over `patience` steps, the mean valid rate is below `min_valid_rate` after it had once
    reached it (a model that does not know the format yet may still learn it), no answer at all is valid (so that all
    score alike, and nothing can be learned), or the mean reward has fallen by more than `max_reward_drop` below the
    best such mean seen so far.
    """

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._valid: deque[float] = deque(maxlen=config.patience)
        self._reward: deque[float] = deque(maxlen=config.patience)
        self._best: float | None = None
        self._was_valid = False

    @property
    def bad_steps(self) -> int:
        """Steps since the first of the last `patience` that was, alone, as bad as a collapse; itself included."""
        for age, (reward, valid) in enumerate(zip(self._reward, self._valid, strict=True)):
            if self._is_bad(reward=reward, valid_rate=valid):
                return len(self._reward) - age
        return 0

    def observe(self, *, reward: float, valid_rate: float) -> str | None:
        """Take in one step; returns the reason in words once the run has collapsed, else `None`."""
        self._reward.append(reward)
        self._valid.append(valid_rate)
        valid = sum(self._valid) / len(self._valid)
        self._was_valid = self._was_valid or valid >= self._config.min_valid_rate
        if len(self._valid) < self._config.patience:
            return None
        mean = sum(self._reward) / len(self._reward)
        self._best = mean if self._best is None else max(self._best, mean)
        over = f"over the last {self._config.patience} steps"
        if not self._is_bad(reward=mean, valid_rate=valid):
            return None
        if valid == 0 and not self._was_valid:
            return (
                f"no answer was valid {over}, so that there is nothing to learn from; a base model that follows "
                "instructions, a longer training.sampling.max_tokens or a stage before this one that keeps the format "
                "may help"
            )
        if self._was_valid and valid < self._config.min_valid_rate:
            return f"only {valid:.0%} of the answers were valid {over} (least: {self._config.min_valid_rate:.0%})"
        return (
            f"the mean reward fell to {mean:.2f} {over}, {self._best - mean:.2f} below its best {self._best:.2f} "
            f"(most: {self._config.max_reward_drop:.2f})"
        )

    def _is_bad(self, *, reward: float, valid_rate: float) -> bool:
        unparseable = valid_rate < self._config.min_valid_rate if self._was_valid else valid_rate == 0
        return unparseable or (self._best is not None and self._best - reward > self._config.max_reward_drop)
