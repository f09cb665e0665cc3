"""What Unsloth's trainer gets from us; none of these tests needs Unsloth."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from trl import GRPOConfig

from tickerforge.training.backends import unsloth_
from tickerforge.training.backends.base import TrainingJob
from tickerforge.training.backends.horizon_credit import align_with_unsloth
from tickerforge.training.backends.trl_ import LIKE_TRL, _common_arguments, check_kept
from tickerforge.training.config import TrainingConfig
from tickerforge.training.errors import BackendUnavailable, TrainingError

PAD = 0


def test_arguments_whose_defaults_unsloth_changes_are_passed_with_the_defaults_of_trl(tmp_path: Path) -> None:
    job = TrainingJob("grpo_1st", "base", None, TrainingConfig(), tmp_path, 0)
    given = _common_arguments(job, max_steps=1) | LIKE_TRL
    expected = vars(GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none"))
    # TRL takes `epsilon` where `epsilon_high` is not set.
    expected = expected | {"epsilon_high": expected["epsilon"]}
    for name in (*LIKE_TRL, "optim", "weight_decay"):
        assert given[name] == expected[name]
    assert {"epsilon_high", "mask_truncated_completions", "vllm_importance_sampling_correction"} <= set(given)


def test_a_configuration_that_changes_an_argument_is_refused() -> None:
    given = {"scale_rewards": "group", "loss_type": "dr_grpo"}
    check_kept(SimpleNamespace(**given), given)
    with pytest.raises(TrainingError, match="scale_rewards = 'group' by scale_rewards = 'none'"):
        check_kept(SimpleNamespace(scale_rewards="none", loss_type="dr_grpo"), given)


def test_grpo_is_refused_if_unsloth_gives_up_vllm_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unsloth_, "gpu_name", lambda: "P100")
    monkeypatch.setattr(unsloth_, "_load", lambda job, **_: (SimpleNamespace(), SimpleNamespace()))
    job = TrainingJob("grpo_1st", "base", None, TrainingConfig(), tmp_path, 0)
    with pytest.raises(BackendUnavailable, match=r"vLLM.*--backend transformers"):
        unsloth_.UnslothBackend().train_grpo([], job=job)


def as_unsloth_has_them(prompts: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """The columns of Unsloth's loss: the padding of each row is moved to its right end, then the last ones are kept."""
    ids = torch.cat([prompts, answers], dim=1)
    order = (ids != PAD).int().argsort(dim=1, descending=True, stable=True)
    return ids.gather(1, order)[:, -(answers.shape[1] + int((prompts == PAD).sum(1).max())) :]


def test_each_advantage_is_in_the_column_of_its_token_for_prompts_of_any_lengths() -> None:
    prompts = torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    answers = torch.tensor([[21, 22, 23, 24], [31, 32, 33, 0], [41, 42, 43, 44]])
    # The advantage of a token is its own number.
    moved = align_with_unsloth(answers.float(), prompts, pad=PAD)
    columns = as_unsloth_has_them(prompts, answers)
    assert moved.shape == columns.shape
    own = columns > 1
    assert torch.equal(moved[own], columns[own].float())
    assert moved[~own].eq(0).all()


def test_advantages_take_the_width_of_log_probabilities_that_were_computed_for_more_answers() -> None:
    prompts = torch.tensor([[0, 1, 1], [1, 1, 1]])
    moved = align_with_unsloth(torch.tensor([[5.0, 6.0], [7.0, 8.0]]), prompts, pad=PAD, width=4)
    assert moved.tolist() == [[0, 5, 6, 0], [0, 0, 7, 8]]
