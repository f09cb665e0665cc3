import io
import logging
import sys

import pytest

from tickerforge.tasks.base.progress import Pace, describe, progress_reporter
from tickerforge.training.contracts import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_line_shows_stage_step_reward_valid_rate_and_time_left() -> None:
    event = Progress("grpo_1st", 40, 100, {"reward": -0.42, "valid_rate": 0.99})
    assert describe(event, 35.2) == "grpo_1st 40/100 | reward -0.42 | valid 99% | 0:35 left"
    assert describe(Progress("sft", 1, 9, {"loss": 1.5}), None) == "sft 1/9 | loss 1.500"
    assert describe(Progress("sft", 1, 9), 3725.0) == "sft 1/9 | 62:05 left"


def test_the_time_left_counts_only_steps_done_here_and_not_those_found_finished() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.seconds_left(Progress("grpo_1st", 60, 100)) is None
    clock.now += 20
    assert pace.seconds_left(Progress("grpo_1st", 70, 100)) == pytest.approx(60.0)
    assert pace.seconds_left(Progress("sft", 1, 10)) is None
    clock.now += 3
    assert pace.seconds_left(Progress("sft", 2, 10)) == pytest.approx(24.0)


def test_at_most_one_line_in_five_seconds_is_logged_and_always_the_last_step(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    with progress_reporter(clock) as report:
        for step in range(1, 21):
            report(Progress("grpo_1st", step, 20))
            clock.now += 1
    steps = [message.split()[1] for message in caplog.messages]
    assert steps == ["1/20", "6/20", "11/20", "16/20", "20/20"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_a_live_bar_and_fewer_lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    clock = Clock()
    with progress_reporter(clock) as report:
        for step in range(1, 21):
            report(Progress("grpo_1st", step, 20, {"reward": -0.5}))
            clock.now += 1
    assert "grpo_1st" in terminal.getvalue()
    assert "reward -0.50" in terminal.getvalue()
    assert len([record for record in caplog.records if record.name == "tickerforge.tasks.base.progress"]) == 2
