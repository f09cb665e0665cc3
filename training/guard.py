"""The rule that says when a training run has collapsed; it does not depend on a trainer."""

from collections import deque

from tickerforge.training.config import GuardConfig


class CollapseGuard:
    """Watches valid rate and reward at every step; a resumed run decides the same as an uninterrupted one.

    A run has collapsed when one of these holds over `patience` steps:

    * The mean valid rate is below `min_valid_rate` and was above it before. (A model that does not know the format yet
      may still learn it.)
    * No answer is valid. (All answers then score alike, and nothing can be learned.)
    * The mean reward is more than `max_reward_drop` below the best such mean so far.
    """

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._valid: deque[float] = deque(maxlen=config.patience)
        self._reward: deque[float] = deque(maxlen=config.patience)
        self._best: float | None = None
        self._was_valid = False

    @property
    def bad_steps(self) -> int:
        """Number of steps from the first bad one (by itself as bad as a collapse) of the last `patience` until now."""
        for age, (reward, valid) in enumerate(zip(self._reward, self._valid, strict=True)):
            if self._is_bad(reward=reward, valid_rate=valid):
                return len(self._reward) - age
        return 0

    def observe(self, *, reward: float, valid_rate: float) -> str | None:
        """Add one step, and return the reason in words if the run has collapsed, else `None`."""
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
                f"no answer was valid {over}, so there is nothing to learn from; a base model that follows "
                "instructions, a larger training.sampling.max_tokens, or an earlier stage that keeps the format may "
                "help"
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
