"""Training in processes of its own: same result, same errors, nothing left behind; several processes; the recipe."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest
from pydantic import ValidationError

from child_process import with_test_modules
from tickerforge.features.synthetic import market
from tickerforge.features.windows import build_windows
from tickerforge.flows.errors import ConfigError
from tickerforge.flows.settings.config import build_config
from tickerforge.training.backends import availability, gpu_name, gpu_names
from tickerforge.training.backends.base import TrainingJob
from tickerforge.training.config import GRPOStageConfig, LaunchConfig, TrainingConfig
from tickerforge.training.contracts import Example, Progress
from tickerforge.training.errors import AdapterError, BackendUnavailable, TrainingDiverged, TrainingError
from tickerforge.training.examples import build_examples
from tickerforge.training.launch import _outcome, _read_job, _write_job, child_command
from tickerforge.training.stages import run_grpo
from trained_pieces import FEATURES, SYNTHETIC, TICKER, TRAINING, pieces

RECIPE = Path(__file__).parents[2] / "deployments" / "recipes" / "gpu.toml"
CONFIG = TRAINING.model_copy(
    update={"checkpoint_every": 2, "grpo_1st": GRPOStageConfig(steps=12, prompts_per_step=2, group_size=4)}
)
ISOLATED = CONFIG.model_copy(update={"launch": LaunchConfig(isolate=True)})


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    windows = build_windows(market(SYNTHETIC), ticker=TICKER, config=FEATURES)
    return build_examples(windows[windows["split"] == "train"].iloc[:40], config=FEATURES)


def grpo(examples: list[Example], out: Path, config: TrainingConfig, **options: object) -> Path:
    arguments: dict = {"stage": "grpo_1st", "adapter": None, "seed": 5} | options
    base = pieces().base_model.location
    return run_grpo(examples, base_model=base, config=config, out_dir=out, **arguments).out_dir


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


def command_of(process: psutil.Process) -> list[str]:
    """Return the command line of a process; that of one that has ended is empty."""
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def wait_until_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive


@pytest.mark.slow
def test_an_own_process_sees_the_chosen_gpus_ends_with_its_caller_and_resumes_to_the_same_bytes(
    examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    seen: list[psutil.Process] = []
    steps: list[int] = []

    def stop(progress: Progress) -> None:
        # This process may have servers of other tests.
        seen.extend(
            each for each in psutil.Process().children(recursive=True) if "tickerforge.training" in command_of(each)
        )
        assert seen
        assert {child.environ()["CUDA_VISIBLE_DEVICES"] for child in seen} == {"7"}
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grpo(examples, tmp_path / "own", ISOLATED, on_progress=stop)
    assert seen
    wait_until_gone(seen)
    assert (tmp_path / "own" / "checkpoint-2" / "COMPLETE").exists()
    grpo(examples, tmp_path / "own", ISOLATED, on_progress=lambda progress: steps.append(progress.step))
    assert steps == list(range(steps[0], 13))
    assert steps[0] >= 3
    assert digest(tmp_path / "own") == digest(grpo(examples, tmp_path / "here", CONFIG))


def test_an_error_in_an_own_process_comes_back_as_itself(examples: list[Example], tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    with pytest.raises(AdapterError, match=r"adapter_config\.json is missing"):
        grpo(examples, tmp_path / "own", ISOLATED, adapter=tmp_path / "broken")


def test_an_own_process_dies_when_its_parent_is_killed(examples: list[Example], tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        from test_launch import *
        windows = build_windows(market(SYNTHETIC), ticker=TICKER, config=FEATURES)
        job = {{"stage": "grpo_1st", "adapter": None, "seed": 5}}
        run_grpo(build_examples(windows.iloc[:40], config=FEATURES), base_model={pieces().base_model.location!r},
                 config=ISOLATED, out_dir=Path({str(tmp_path)!r}), **job)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", script], env=with_test_modules(Path(__file__).parent))
    children: list[psutil.Process] = []
    deadline = time.monotonic() + 120
    while not any("tickerforge.training" in command_of(child) for child in children):
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
        children = psutil.Process(parent.pid).children(recursive=True)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_until_gone(children)


@pytest.mark.nightly
@pytest.mark.slow
def test_two_processes_share_each_step_and_leave_one_adapter(examples: list[Example], tmp_path: Path) -> None:
    update = {
        "backend": "transformers",
        "launch": LaunchConfig(processes=2),
        "grpo_1st": GRPOStageConfig(steps=4, prompts_per_step=2, group_size=4),
    }
    steps: list[int] = []
    shares: set[int] = set()

    def follow(progress: Progress) -> None:
        steps.append(progress.step)
        for state in tmp_path.glob("checkpoint-*/trainer_state.json"):
            shares.add(json.loads(state.read_text())["train_batch_size"])

    out = grpo(examples, tmp_path, CONFIG.model_copy(update=update), on_progress=follow)
    assert steps == [1, 2, 3, 4]
    assert shares == {2 * 4 // 2}
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 4
    assert not list(out.glob("checkpoint-*"))
    assert (out / "adapter" / "adapter_model.safetensors").is_file()


def test_a_job_reaches_the_other_process_as_it_was(examples: list[Example], tmp_path: Path) -> None:
    job = TrainingJob("grpo_2nd", "base", tmp_path / "adapter", ISOLATED, tmp_path / "out", 7, unit=0.1 + 0.2)
    _write_job(tmp_path, "transformers", examples, job=job)
    name, read, again = _read_job(tmp_path, reports=False)
    assert (name, read, again) == ("transformers", examples, job)
    accepted = pd.DataFrame({"prompt": ["[]"], "answer": ["<think></think>"], "skill": [1 / 3]})
    _write_job(tmp_path, "unsloth", accepted, job=replace(job, stage="sft"))
    _, read, again = _read_job(tmp_path, reports=False)
    assert again.stage == "sft"
    pd.testing.assert_frame_equal(read, accepted)


def test_a_diverged_run_keeps_its_last_good_checkpoint_on_the_way_back(tmp_path: Path) -> None:
    (tmp_path / "outcome-0.json").write_text(
        '{"error": "TrainingDiverged", "message": "stopped", "last_good": "/somewhere/checkpoint-4"}'
    )
    with pytest.raises(TrainingDiverged, match="stopped") as caught:
        _outcome(tmp_path, stage="sft", code=0)
    assert caught.value.last_good == Path("/somewhere/checkpoint-4")


def test_a_process_that_ends_without_a_result_is_an_error_that_tells_why(tmp_path: Path) -> None:
    (tmp_path / "output.txt").write_text(
        "Traceback (most recent call last):\n  ...\n[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB\n"
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n"
    )
    with pytest.raises(TrainingError, match=r"exit code 1 .*: torch\.OutOfMemoryError: CUDA out of memory"):
        _outcome(tmp_path, stage="sft", code=1)
    (tmp_path / "output.txt").write_text("")
    with pytest.raises(TrainingError, match="sft was killed by SIGKILL in its own process: it printed no error"):
        _outcome(tmp_path, stage="sft", code=-signal.SIGKILL)


def test_a_process_for_unsloth_has_imported_nothing_that_unsloth_patches() -> None:
    script = (
        "import sys, tickerforge.training.launch\n"
        "import tickerforge.training.backends.unsloth_\n"
        "sys.exit(str({'torch', 'trl', 'transformers', 'peft'} & set(sys.modules)) if "
        "{'torch', 'trl', 'transformers', 'peft'} & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_unsloth_refuses_a_process_that_has_imported_transformers(examples: list[Example], tmp_path: Path) -> None:
    import transformers

    from tickerforge.training.backends.unsloth_ import UnslothBackend

    assert transformers.__name__ in sys.modules
    with pytest.raises(BackendUnavailable, match=r"unsloth must be imported before .*transformers"):
        UnslothBackend().train_grpo(examples, job=TrainingJob("grpo_1st", "base", None, CONFIG, tmp_path, 0))


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that lists two GPUs."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho First\necho Second\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.usefixtures("two_gpus")
def test_gpus_are_those_that_cuda_visible_devices_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_names() == ["First", "Second"]
    by_number = {"1": ["Second"], "1,0": ["Second", "First"], "": [], "-1": []}
    for shown, names in {**by_number, "GPU-8f2": ["First"], "MIG-8f2": ["First"]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        assert gpu_names() == names
    assert gpu_name() == "First"


def test_a_driver_that_hangs_offers_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nexec sleep 300\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(availability, "DRIVER_SECONDS", 0.5)
    assert gpu_names() == []


@pytest.mark.usefixtures("two_gpus")
def test_more_processes_than_gpus_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--num_processes" in child_command(LaunchConfig(processes=2), tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(BackendUnavailable, match="2 needs as many GPUs, and 1 can be seen"):
        child_command(LaunchConfig(processes=2), tmp_path)


def test_a_vllm_server_that_does_not_answer_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tickerforge.training.backends import vllm_

    config = TrainingConfig(backend="transformers", launch=LaunchConfig(vllm_server="http://localhost:9"))
    if gpu_name() is None:
        with pytest.raises(BackendUnavailable, match="vllm needs a CUDA GPU"):
            vllm_.rollout_arguments(config)
    monkeypatch.setattr(vllm_, "why_not", lambda _: None)
    with pytest.raises(BackendUnavailable, match=r"no vLLM server answers at http://localhost:9 .*vllm serve"):
        vllm_.rollout_arguments(config)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"launch": {"processes": 2}}, "backend transformers"),
        ({"backend": "unsloth", "launch": {"vllm_server": "http://gpu:8000"}}, "backend transformers"),
        ({"backend": "transformers", "launch": {"processes": 3}}, "multiple of launch.processes = 3"),
        ({"backend": "transformers", "launch": {"vllm_server": "gpu:8000"}}, "pattern"),
    ],
)
def test_launches_that_cannot_work_are_refused_as_configured(settings: dict, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        TrainingConfig.model_validate(settings)


def test_the_gpu_recipe_loads_for_one_gpu_and_for_several_as_its_comment_says() -> None:
    one = build_config(recipe=RECIPE).training
    assert (one.backend, one.load_in_4bit, one.launch) == ("unsloth", True, LaunchConfig())
    said = RECIPE.read_text().replace("\\\n#", "")
    assignments = [word for word in said.split() if word.startswith("training.") and "=" in word]
    several = build_config(recipe=RECIPE, assignments=assignments).training
    assert several.launch == LaunchConfig(processes=3, vllm_server="http://localhost:8000")
    with pytest.raises(ConfigError, match="backend transformers"):
        build_config(recipe=RECIPE, assignments=["training.launch.processes=2"])
