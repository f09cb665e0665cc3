"""Memory that runs out: torch's own error, raised by an allocation that no machine can serve."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from minute_training import CONFIG, digest, grpo, metrics, train_examples
from tickerforge.training.backends.memory import largest_divisor, with_smaller_batches
from tickerforge.training.config import SamplingConfig, TrainingConfig
from tickerforge.training.contracts import Example, Progress
from tickerforge.training.errors import TrainingError
from tickerforge.training.stages import run_sft
from trained_pieces import pieces

MORE_THAN_THERE_IS = 1 << 60


def allocate_too_much() -> None:
    import torch

    torch.empty(MORE_THAN_THERE_IS, dtype=torch.uint8)


@contextmanager
def room_for(rows: int, *, training: bool, when: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """A model that runs out of memory on more than so many sequences, in training or else in sampling.

    GRPO puts the answers to one prompt into one row: there the answers count, not the rows.
    """
    import torch
    from transformers import Qwen3Model

    from tickerforge.training.backends import grpo_trainer

    inner = Qwen3Model.forward
    logps = grpo_trainer.GroupedGRPOTrainer._full_logits_logps
    draw = grpo_trainer.sample

    @wraps(inner)
    def forward(self: Any, input_ids: Any = None, **options: Any) -> Any:
        if torch.is_grad_enabled() and training and len(input_ids) > rows and when():
            allocate_too_much()
        return inner(self, input_ids=input_ids, **options)

    def scored(self: Any, model: Any, input_ids: Any, *args: Any, **options: Any) -> Any:
        if training and min(len(input_ids), options.get("batch_size") or len(input_ids)) > rows and when():
            allocate_too_much()
        return logps(self, model, input_ids, *args, **options)

    def drawn(model: Any, prompts: Any, uniforms: Any, **options: Any) -> Any:
        if not training and uniforms.shape[0] * uniforms.shape[1] > rows and when():
            allocate_too_much()
        return draw(model, prompts, uniforms, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Qwen3Model, "forward", forward)
        patch.setattr(grpo_trainer.GroupedGRPOTrainer, "_full_logits_logps", scored)
        patch.setattr(grpo_trainer, "sample", drawn)
        yield


@pytest.fixture(scope="module")
def base() -> str:
    return pieces().base_model.location


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return train_examples()


def in_parts_of(size: int, **changes: object) -> TrainingConfig:
    return CONFIG.model_copy(update={"micro_batch_size": size, **changes})


@pytest.fixture(scope="module")
def by_twos(examples: list[Example], base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return grpo(examples, base, tmp_path_factory.mktemp("twos"), in_parts_of(2))


def test_a_batch_is_halved_until_it_fits_and_the_work_is_not_done_twice(caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []

    def run(batch: int) -> str:
        while len(done) < 10:
            if batch > 3:
                allocate_too_much()
            done.extend(range(len(done), min(10, len(done) + batch)))
        return f"in batches of {batch}"

    with caplog.at_level(logging.WARNING):
        assert with_smaller_batches(run, batch=12, what="sampling", cure="-") == "in batches of 3"
    assert done == list(range(10))
    assert ["12" in caplog.text, "continuing with 6" in caplog.text, "continuing with 3" in caplog.text] == [True] * 3


def test_where_not_even_a_batch_of_one_fits_the_error_names_the_cure() -> None:
    with pytest.raises(TrainingError, match=r"sampling: memory runs out even at a batch of 1 .* Buy some\."):
        with_smaller_batches(lambda _: allocate_too_much(), batch=4, what="sampling", cure="Buy some.")


def test_any_other_error_is_passed_on_at_once() -> None:
    tried: list[int] = []

    def run(batch: int) -> None:
        tried.append(batch)
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        with_smaller_batches(run, batch=8, what="sampling", cure="-")
    assert tried == [8]


def test_what_has_gone_down_to_a_batch_of_one_within_is_not_tried_again_from_without() -> None:
    tried: list[int] = []

    def train(batch: int) -> None:
        tried.append(batch)
        with_smaller_batches(lambda _: allocate_too_much(), batch=4, what="sampling answers", cure="Buy some.")

    with pytest.raises(TrainingError, match="sampling answers: memory runs out even at a batch of 1"):
        with_smaller_batches(train, batch=64, what="grpo_1st", cure="-")
    assert tried == [64]


def test_processes_that_share_a_step_say_which_setting_to_halve() -> None:
    with pytest.raises(TrainingError, match=r"grpo_1st: .* 8 answers .* training\.micro_batch_size = 4"):
        with_smaller_batches(lambda _: allocate_too_much(), batch=8, what="grpo_1st", cure="-", processes=2)


@pytest.mark.parametrize(
    ("model", "configured", "answers"), [("tiny", None, 1024), ("org/large", None, 256), ("tiny", 7, 7)]
)
def test_a_large_model_draws_fewer_answers_at_a_time_unless_told_otherwise(
    model: str, configured: int | None, answers: int
) -> None:
    assert TrainingConfig(model=model, sampling=SamplingConfig(batch_size=configured)).answers_at_a_time == answers


def test_the_parts_of_a_step_divide_its_batch() -> None:
    assert [largest_divisor(48, at_most=limit) for limit in (64, 48, 32, 7, 1)] == [48, 48, 24, 6, 1]


def test_grpo_that_runs_out_of_memory_goes_on_as_if_a_smaller_part_had_been_asked_for(
    examples: list[Example], base: str, by_twos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with room_for(2, training=True), caplog.at_level(logging.WARNING):
        grpo(examples, base, tmp_path, in_parts_of(64))
    assert "grpo_1st: out of memory at a batch of 8" in caplog.text
    assert "continuing with 2" in caplog.text
    assert digest(tmp_path) == digest(by_twos)


@pytest.mark.nightly
def test_grpo_that_runs_out_of_memory_goes_on_with_the_reference_that_it_began_with(
    examples: list[Example], base: str, tmp_path: Path
) -> None:
    def held_back(size: int) -> TrainingConfig:
        config = in_parts_of(size)
        return config.model_copy(update={"grpo_1st": config.grpo_1st.model_copy(update={"kl": 0.5})})

    with room_for(4, training=True):
        halved = grpo(examples, base, tmp_path / "halved", held_back(8))
    assert digest(halved) == digest(grpo(examples, base, tmp_path / "asked for", held_back(4)))


def test_a_step_learns_from_the_same_answers_in_however_many_parts(
    examples: list[Example], base: str, by_twos: Path, tmp_path: Path
) -> None:
    whole = metrics(grpo(examples, base, tmp_path, in_parts_of(8)))
    parts = metrics(by_twos)
    assert whole[0]["reward"] == pytest.approx(parts[0]["reward"], rel=1e-6)
    assert len(whole) == len(parts) == 6
    for name in ("reward", "loss", "grad_norm"):
        assert np.allclose([row[name] for row in whole[:2]], [row[name] for row in parts[:2]], rtol=1e-3, atol=1e-5)


def test_memory_that_runs_out_later_costs_no_more_than_the_steps_since_the_last_checkpoint(
    examples: list[Example], base: str, tmp_path: Path
) -> None:
    seen: list[int] = []

    def report(progress: Progress) -> None:
        seen.append(progress.step)

    with room_for(4, training=True, when=lambda: 3 in seen):
        grpo(examples, base, tmp_path, in_parts_of(8), on_progress=report)
    assert seen == [1, 2, 3, 3, 4, 5, 6]
    assert [row["step"] for row in metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_the_answers_of_a_step_are_drawn_in_parts_where_they_do_not_fit_at_once(
    examples: list[Example], base: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with room_for(4, training=False), caplog.at_level(logging.WARNING):
        grpo(examples, base, tmp_path, in_parts_of(8))
    assert "sampling answers: out of memory at a batch of 2" in caplog.text
    rows = metrics(tmp_path)
    assert len(rows) == 6
    assert max(row["valid_rate"] for row in rows) > 0.5


def test_fine_tuning_that_runs_out_of_memory_goes_on_likewise_and_at_one_answer_says_what_to_do(
    base: str, tmp_path: Path
) -> None:
    data = pieces().sft_data.path / "sft_data.parquet"
    assert len(pd.read_parquet(data)) > 2

    def tune(name: str, size: int) -> Path:
        out = tmp_path / name
        return run_sft(data, base_model=base, adapter=None, config=in_parts_of(size), out_dir=out, seed=1).out_dir

    with room_for(1, training=True):
        halved = tune("halved", 64)
    # Four answers per step: halved to two, then to one.
    assert digest(halved) == digest(tune("asked for", 1))
    with room_for(0, training=True), pytest.raises(TrainingError, match="sft: memory runs out even at a batch of 1"):
        tune("hopeless", 2)
