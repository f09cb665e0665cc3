"""The collapse guard: what stops a run, and what does not."""

from tickerforge.training.config import GuardConfig
from tickerforge.training.guard import CollapseGuard


def verdicts(rows: list[tuple[float, float]], **config: float) -> list[str | None]:
    guard = CollapseGuard(GuardConfig(patience=5, **config))
    return [guard.observe(reward=reward, valid_rate=valid) for reward, valid in rows]


def test_a_run_that_answers_nothing_is_stopped_within_its_patience() -> None:
    found = verdicts([(-1.0, 1.0)] * 10 + [(-5.0, 0.0)] * 5)
    assert found[:10] == [None] * 10
    stopped = next(index for index, reason in enumerate(found) if reason)
    assert stopped < 15
    assert "valid" in (found[stopped] or "") or "reward" in (found[stopped] or "")


def test_a_falling_reward_is_stopped_although_answers_stay_valid() -> None:
    found = verdicts([(-0.5, 1.0)] * 6 + [(-3.0, 1.0)] * 6)
    assert any(reason and "mean reward fell" in reason for reason in found)


def test_noise_and_a_single_bad_step_do_not_stop_a_run() -> None:
    rows = [(-1.0 + 0.3 * (-1) ** step, 0.97) for step in range(40)]
    rows[20] = (-3.0, 0.4)
    assert verdicts(rows) == [None] * 40


def test_a_model_that_does_not_know_the_format_yet_may_learn_it() -> None:
    assert verdicts([(-5.0 + 0.1 * step, 0.02 * step) for step in range(40)]) == [None] * 40


def test_a_run_that_never_writes_a_valid_answer_is_stopped_since_nothing_can_be_learned_from_it() -> None:
    found = verdicts([(-5.0, 0.0)] * 6)
    assert found[:4] == [None] * 4
    assert "no answer was valid" in (found[4] or "")
    assert verdicts([(-5.0, 0.0)] * 20, min_valid_rate=0.0) == [None] * 20


def test_steps_without_a_valid_answer_are_none_to_go_back_to() -> None:
    guard = CollapseGuard(GuardConfig(patience=5))
    for valid in (0.2, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0):
        reason = guard.observe(reward=-5.0, valid_rate=valid)
    assert reason is not None
    assert guard.bad_steps == 5


def test_a_collapse_within_the_first_steps_is_noticed() -> None:
    assert verdicts([(-1.0, 1.0), (-1.0, 0.9), *[(-1.0, 0.0)] * 6])[4] is not None


def test_the_guard_knows_how_long_a_run_has_been_bad_although_a_step_in_between_was_lucky() -> None:
    guard = CollapseGuard(GuardConfig(patience=5))
    rows = [(-1.0, 1.0)] * 10 + [(-4.0, 0.2), (-1.0, 0.9), (-4.0, 0.1), (-4.0, 0.1)]
    reasons = [guard.observe(reward=reward, valid_rate=valid) for reward, valid in rows]
    assert reasons.index(next(filter(None, reasons))) == len(rows) - 1
    assert guard.bad_steps == 4
