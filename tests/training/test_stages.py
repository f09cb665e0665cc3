"""Real training on a minute model: resume, sampling, and errors that say what to do."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from child_process import with_test_modules
from minute_training import CONFIG, Interrupted, digest, grpo, metrics, stop_at, train_examples
from tickerforge.features.config import FeatureConfig
from tickerforge.features.prompts import parse, render_answer
from tickerforge.features.synthetic import market
from tickerforge.features.windows import build_windows
from tickerforge.training.backends import gpu_name, select, why_not
from tickerforge.training.backends.base import OneKept
from tickerforge.training.config import TinyConfig, TrainingConfig
from tickerforge.training.contracts import ANSWER_COLUMNS, GRPO_ANSWER_COLUMNS, Example, Progress
from tickerforge.training.errors import AdapterError, BackendUnavailable, BaseModelError, NoAcceptedAnswers
from tickerforge.training.examples import build_examples
from tickerforge.training.models import check_model
from tickerforge.training.models.tiny import build_tiny
from tickerforge.training.stages import answer_generator, run_rejection, run_sft
from trained_pieces import FEATURES, SYNTHETIC, Pieces


@pytest.fixture(scope="module")
def base(made: Pieces) -> str:
    return made.base_model.location


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return train_examples()


@pytest.fixture(scope="module")
def undisturbed(examples: list[Example], base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return grpo(examples, base, tmp_path_factory.mktemp("undisturbed") / "grpo")


def shares(row: dict[str, float]) -> float:
    """Return the share of valid answers plus those of all faults."""
    return row["valid_rate"] + sum(value for name, value in row.items() if name.startswith("fault_"))


def steps_of(folder: Path) -> list[int]:
    return [row["step"] for row in metrics(folder)]


def test_grpo_leaves_an_adapter_and_a_line_of_metrics_a_step_and_no_checkpoints(undisturbed: Path) -> None:
    assert {path.name for path in (undisturbed / "adapter").iterdir()} >= {"adapter_config.json"}
    assert steps_of(undisturbed) == [1, 2, 3, 4, 5, 6]
    assert {"reward", "valid_rate", "accuracy", "financial", "loss", "seconds"} <= set(metrics(undisturbed)[0])
    answers = {"answer_tokens", "longest_answer_tokens", "cut_off_answers", "entropy", "ratio_clipped"}
    assert answers <= set(metrics(undisturbed)[0])
    for row in metrics(undisturbed):
        assert shares(row) == pytest.approx(1)
    assert not list(undisturbed.glob("checkpoint-*"))
    assert not [path for path in undisturbed.rglob("*") if path.suffix in {".bin", ".pt", ".pth", ".pkl"}]


def test_grpo_keeps_every_answer_with_its_step_and_window(examples: list[Example], undisturbed: Path) -> None:
    answers = pd.read_parquet(undisturbed / "answers.parquet")
    assert tuple(answers.columns) == GRPO_ANSWER_COLUMNS
    assert answers.groupby("step").size().to_dict() == dict.fromkeys(range(1, 7), 8)
    assert (answers.groupby(["step", "window_id"]).size() == 4).all()
    assert set(answers["window_id"]) <= {example.window_id for example in examples}
    valid = answers["answer"].map(lambda text: parse(text, horizon=FEATURES.horizon)).notna()
    assert (answers["fault"].isna() == valid).all()
    for row in metrics(undisturbed):
        assert answers.loc[answers["step"] == row["step"], "accuracy"].mean() == pytest.approx(row["accuracy"])
    assert not (undisturbed / "answers.jsonl").exists()


@pytest.mark.parametrize("step", [1, 3, 4])
def test_interrupted_grpo_resumes_to_the_same_bytes(
    step: int, examples: list[Example], base: str, undisturbed: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        grpo(examples, base, tmp_path, on_progress=stop_at(step))
    assert digest(grpo(examples, base, tmp_path)) == digest(undisturbed)
    assert steps_of(tmp_path) == steps_of(undisturbed)
    assert pd.read_parquet(tmp_path / "answers.parquet").equals(pd.read_parquet(undisturbed / "answers.parquet"))


@pytest.mark.nightly
def test_grpo_interrupted_in_its_second_pass_over_the_windows_resumes_to_the_same_bytes(
    examples: list[Example], base: str, tmp_path: Path
) -> None:
    few = examples[:6]
    whole = grpo(few, base, tmp_path / "whole")
    with pytest.raises(Interrupted):
        grpo(few, base, tmp_path / "resumed", on_progress=stop_at(5))
    assert (tmp_path / "resumed" / "checkpoint-4").exists()
    assert digest(grpo(few, base, tmp_path / "resumed")) == digest(whole)


def test_a_stage_that_ends_between_its_last_step_and_its_adapter_takes_no_step_more(
    examples: list[Example], base: str, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel

    save = PeftModel.save_pretrained

    def full_disk(self: PeftModel, folder: str, **options: object) -> None:
        if Path(folder).name == "adapter":
            raise OSError("no space left on device")
        save(self, folder, **options)

    with monkeypatch.context() as patch:
        patch.setattr(PeftModel, "save_pretrained", full_disk)
        with pytest.raises(OSError, match="no space left"):
            grpo(examples, base, tmp_path)
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert digest(grpo(examples, base, tmp_path)) == digest(undisturbed)
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_the_adapter_is_the_mean_of_those_of_the_last_steps(
    examples: list[Example], base: str, undisturbed: Path, tmp_path: Path
) -> None:
    last_only = CONFIG.grpo_1st.model_copy(update={"tail_average": 0.0})
    config = CONFIG.model_copy(update={"grpo_1st": last_only, "checkpoint_every": 1})
    with pytest.raises(Interrupted):
        grpo(examples, base, tmp_path, config, on_progress=stop_at(6))
    folders = [tmp_path / "checkpoint-4", tmp_path / "checkpoint-5"]
    last = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    last.append(load_file(grpo(examples, base, tmp_path, config) / "adapter" / "adapter_model.safetensors"))
    found = load_file(undisturbed / "adapter" / "adapter_model.safetensors")
    assert found.keys() == last[-1].keys()
    for name, weight in found.items():
        np.testing.assert_allclose(weight, np.mean([each[name] for each in last], axis=0), atol=1e-7)
    assert any((found[name] != last[-1][name]).any() for name in found)


@pytest.fixture(scope="module")
def held_back() -> TrainingConfig:
    """The first stage with a divergence that costs enough to be seen."""
    return CONFIG.model_copy(update={"grpo_1st": CONFIG.grpo_1st.model_copy(update={"kl": 0.5})})


def test_grpo_with_a_divergence_to_pay_for_trains_another_adapter_and_resumes_to_the_same_bytes(
    examples: list[Example], base: str, undisturbed: Path, held_back: TrainingConfig, tmp_path: Path
) -> None:
    whole = grpo(examples, base, tmp_path / "whole", held_back)
    assert digest(whole) != digest(undisturbed)
    first, *later = [row["kl"] for row in metrics(whole)]
    # Rounding leaves less than 1e-7 of a divergence that is zero; the last one is about 5e-6.
    assert first == pytest.approx(0.0, abs=1e-7)
    assert min(later) >= -1e-7
    assert later[-1] > 1e-6
    assert {path.name for path in (whole / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    with pytest.raises(Interrupted):
        grpo(examples, base, tmp_path / "resumed", held_back, on_progress=stop_at(4))
    assert digest(grpo(examples, base, tmp_path / "resumed", held_back)) == digest(whole)


def test_grpo_killed_with_kill_9_resumes_to_the_same_bytes(
    examples: list[Example], base: str, undisturbed: Path, tmp_path: Path
) -> None:
    script = textwrap.dedent(
        f"""
        import torch; torch.set_num_threads(1)
        from test_stages import *
        grpo(train_examples(), {base!r}, Path({str(tmp_path)!r}))
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script], env=with_test_modules(Path(__file__).parent))
    deadline = time.monotonic() + 240
    while not (tmp_path / "checkpoint-2" / "COMPLETE").exists():
        assert process.poll() is None, "the stage ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "adapter").exists()
    assert digest(grpo(examples, base, tmp_path)) == digest(undisturbed)


def test_a_half_written_checkpoint_is_not_resumed_from(
    examples: list[Example], base: str, undisturbed: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        grpo(examples, base, tmp_path, on_progress=stop_at(5))
    newest = tmp_path / "checkpoint-4"
    (newest / "COMPLETE").unlink()
    (newest / "adapter_model.safetensors").write_bytes(b"cut short")
    assert digest(grpo(examples, base, tmp_path)) == digest(undisturbed)


def test_two_runs_of_one_seed_agree_and_another_seed_does_not(
    examples: list[Example], base: str, undisturbed: Path, tmp_path: Path
) -> None:
    assert digest(grpo(examples, base, tmp_path / "same")) == digest(undisturbed)
    assert digest(grpo(examples, base, tmp_path / "other", seed=6)) != digest(undisturbed)


@pytest.mark.parametrize("remains", ["half a temporary file", "half a chunk", "an empty chunk"])
def test_sampling_that_was_killed_goes_on_from_its_whole_chunks_to_the_same_bytes(
    remains: str, examples: list[Example], base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tickerforge.training.stages.CHUNK_WINDOWS", 4)
    seen: list[int] = []

    def sample(out: Path, stop: int = 1000) -> bytes:
        def report(progress: Progress) -> None:
            seen.append(progress.step)
            if progress.step >= stop:
                raise Interrupted

        run_rejection(examples, base_model=base, adapter=None, config=CONFIG, out_dir=out, seed=1, on_progress=report)
        return b"".join((out / name).read_bytes() for name in ("sft_data.parquet", "answers.parquet", "metrics.jsonl"))

    with pytest.raises(Interrupted):
        sample(tmp_path / "killed", stop=8)
    chunk = tmp_path / "killed" / "chunks" / "00000008.json"
    whole = (tmp_path / "killed" / "chunks" / "00000004.json").read_text()
    match remains:
        case "half a temporary file":
            chunk.with_name(f".{chunk.name}.partial").write_text(whole[: len(whole) // 2])
        case "half a chunk":
            chunk.write_text(whole[: len(whole) // 2])
        case "an empty chunk":
            chunk.touch()
    stamp = chunk.with_name("00000000.json").stat().st_mtime_ns
    with pytest.raises(Interrupted):
        sample(tmp_path / "killed", stop=12)
    assert chunk.with_name("00000000.json").stat().st_mtime_ns == stamp
    assert sample(tmp_path / "killed") == sample(tmp_path / "undisturbed")
    assert not chunk.parent.exists()


def test_sampling_keeps_every_answer_with_its_fault_and_says_what_the_answers_are_like(
    examples: list[Example], base: str, tmp_path: Path
) -> None:
    run_rejection(examples, base_model=base, adapter=None, config=CONFIG, out_dir=tmp_path, seed=1)
    answers = pd.read_parquet(tmp_path / "answers.parquet")
    assert tuple(answers.columns) == ANSWER_COLUMNS
    windows = CONFIG.rejection.max_windows
    assert len(answers) == windows * CONFIG.rejection.answers
    valid = answers["answer"].map(lambda text: parse(text, horizon=FEATURES.horizon)).notna()
    assert (answers["fault"].isna() == valid).all()
    assert (answers["skill"].notna() == valid).all()
    (row,) = metrics(tmp_path)
    assert row["step"] == row["total"] == windows
    assert row["valid_rate"] == pytest.approx(valid.mean())
    assert shares(row) == pytest.approx(1)
    assert 0 < row["answer_tokens"] <= row["longest_answer_tokens"] <= CONFIG.sampling.max_tokens
    assert 0 <= row["cut_off_answers"] <= 1


def test_sampling_and_fine_tuning_resume_to_the_same_result(
    examples: list[Example], base: str, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tickerforge.training.stages.CHUNK_WINDOWS", 4)
    common: dict = {"base_model": base, "config": CONFIG, "seed": 1}

    def sample(name: str, **options: object) -> pd.DataFrame:
        out = tmp_path / name
        run_rejection(examples, adapter=undisturbed / "adapter", out_dir=out, **common, **options)
        return pd.read_parquet(out / "sft_data.parquet")

    with pytest.raises(Interrupted):
        sample("resumed", on_progress=stop_at(8))
    accepted = sample("resumed")
    assert accepted.equals(sample("undisturbed"))
    assert set(accepted["window_id"]) <= {example.window_id for example in examples}
    assert accepted["answer"].map(lambda text: parse(text, horizon=FEATURES.horizon)).notna().all()

    def tune(name: str, **options: object) -> Path:
        data = tmp_path / "undisturbed" / "sft_data.parquet"
        config = CONFIG.model_copy(update={"checkpoint_every": 1})
        return run_sft(data, adapter=None, out_dir=tmp_path / name, **common | {"config": config}, **options).out_dir

    with pytest.raises(Interrupted):
        tune("sft", on_progress=stop_at(2))
    assert digest(tune("sft")) == digest(tune("sft-undisturbed"))


def test_the_tiny_model_builds_the_same_from_one_seed_and_after_an_interruption(tmp_path: Path) -> None:
    config = TinyConfig(hidden_size=32, layers=1, steps=4, batch_size=4)

    def build(name: str, **options: object) -> bytes:
        (tmp_path / name).mkdir(exist_ok=True)
        build_tiny(tmp_path / name, config=config, features=FEATURES, **options)
        return (tmp_path / name / "model.safetensors").read_bytes()

    with pytest.raises(Interrupted):
        build("interrupted", on_progress=stop_at(3))
    assert build("interrupted") == build("undisturbed")


def test_the_tiny_tokenizer_knows_every_word_of_a_prompt_and_gives_answers_back() -> None:
    from tickerforge.training.backends.tiny_model import build_tokenizer

    tokenizer, features = build_tokenizer(), FeatureConfig()
    (example,) = build_examples(build_windows(market(SYNTHETIC), ticker="DEMO", config=features)[:1], config=features)
    text = tokenizer.apply_chat_template(example.prompt, tokenize=False, add_generation_prompt=True)
    assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
    for values in ([-300, 300, 0, 1, -1, 12, -45, 299, -299, 7], example.target):
        ids = tokenizer(render_answer(values))["input_ids"]
        assert parse(tokenizer.decode(ids, skip_special_tokens=True), horizon=10) == tuple(map(float, values))


def test_answers_repeat_by_seed_and_are_grouped_by_prompt(examples: list[Example], base: str) -> None:
    prompts = [example.prompt for example in examples[:5]]

    def draw(seed: int) -> list[list[str]]:
        generate = answer_generator(base_model=base, adapter=None, config=CONFIG, horizon=FEATURES.horizon, seed=seed)
        return generate(prompts, 3)

    first = draw(0)
    assert [len(texts) for texts in first] == [3] * 5
    assert draw(0) == first
    assert draw(1) != first


def test_an_adapter_that_cannot_be_read_is_an_error_that_says_so(
    examples: list[Example], base: str, undisturbed: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    generate = answer_generator(base_model=base, adapter=broken, config=CONFIG, horizon=FEATURES.horizon, seed=0)
    with pytest.raises(AdapterError, match=r"adapter_config\.json is missing"):
        generate([examples[0].prompt], 1)
    for file in (undisturbed / "adapter").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "adapter_model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(AdapterError, match="cannot read the adapter"):
        generate([examples[0].prompt], 1)


def test_a_prompt_too_long_for_the_configuration_is_refused(examples: list[Example], base: str) -> None:
    config = CONFIG.model_copy(update={"max_seq_length": 16})
    generate = answer_generator(base_model=base, adapter=None, config=config, horizon=FEATURES.horizon, seed=0)
    with pytest.raises(BaseModelError, match="raise --max-seq-length"):
        generate([examples[0].prompt], 1)


def test_windows_and_answers_too_long_for_the_configuration_are_refused_before_training_cuts_them_off(
    examples: list[Example], base: str, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"max_seq_length": 16})
    with pytest.raises(BaseModelError, match="raise --max-seq-length"):
        grpo(examples, base, tmp_path / "grpo", config)
    row = {"prompt": json.dumps(examples[0].prompt), "answer": render_answer(examples[0].target)}
    pd.DataFrame([row]).to_parquet(tmp_path / "answers.parquet")
    with pytest.raises(BaseModelError, match="raise --max-seq-length"):
        run_sft(
            tmp_path / "answers.parquet", base_model=base, adapter=None, config=config, out_dir=tmp_path / "sft", seed=0
        )


def test_the_model_kept_for_sampling_is_let_go_of_before_another_is_made() -> None:
    class Model:
        """Something that can be watched."""

    alive: weakref.WeakSet[Model] = weakref.WeakSet()

    def load(name: str) -> Model:
        assert not alive
        alive.add(model := Model())
        return model

    kept = OneKept(load)
    assert kept("first") is kept("first")
    assert kept("second") is kept("second")
    kept.clear()
    assert not alive


def test_sampling_that_accepts_nothing_says_what_to_change(examples: list[Example], base: str, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"rejection": CONFIG.rejection.model_copy(update={"min_skill": 0.999})})
    with pytest.raises(NoAcceptedAnswers, match=r"lower rejection\.min_skill"):
        run_rejection(examples[:3], base_model=base, adapter=None, config=config, out_dir=tmp_path, seed=0)


def test_base_models_that_cannot_work_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"config\.json is missing"):
        check_model(str(tmp_path), features=FEATURES)
    with pytest.raises(BaseModelError, match="integers only"):
        check_model("tiny", features=FeatureConfig(units="train_standard"))


def test_auto_takes_transformers_for_the_tiny_model_and_says_why() -> None:
    selection = select("auto", model="tiny")
    assert selection.backend.name == "transformers"
    assert "tiny" in selection.reason


def test_waiting_threads_give_up_their_core_and_torch_comes_later() -> None:
    program = (
        "import os, sys, tickerforge.training.stages; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["passive", "False"]


@pytest.mark.skipif(gpu_name() is not None, reason="this machine has a GPU")
@pytest.mark.parametrize("name", ["unsloth", "vllm"])
def test_gpu_backends_refuse_without_a_gpu_and_name_the_cure(name: str) -> None:
    assert "--backend transformers" in (why_not(name) or "")
    if name == "unsloth":
        with pytest.raises(BackendUnavailable, match="needs a CUDA GPU"):
            select(name)
