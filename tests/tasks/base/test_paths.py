import subprocess
import sys
from pathlib import Path

import pytest

from tickerforge.features.errors import TickerNameError
from tickerforge.tasks.base.errors import StoreError
from tickerforge.tasks.base.paths import Workspace, home, model_folder, run_folder


def test_the_home_follows_the_environment_and_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKERFORGE_HOME", str(tmp_path / "elsewhere"))
    assert home() == tmp_path / "elsewhere"
    monkeypatch.delenv("TICKERFORGE_HOME")
    monkeypatch.chdir(tmp_path)
    assert Workspace.current().store == tmp_path / ".tickerforge" / "cache" / "store"


def test_a_run_has_the_published_folders() -> None:
    folder = run_folder("BRK-A", "20170901_120000")
    assert str(folder.root) == "results/BRK-A_20170901_120000"
    assert [folder.stage(name).name for name in ("grpo_1st", "sft_data", "sft", "grpo_2nd", "comparison")] == [
        "stage1_grpo_training",
        "sft_data_generation",
        "stage2_sft_training",
        "stage3_grpo_from_sft",
        "model_comparison",
    ]
    assert folder.log.name == "pipeline.log"
    with pytest.raises(ValueError, match="unknown stage 'eval'"):
        folder.stage("eval")


def test_a_model_has_the_published_adapter_folders() -> None:
    folder = model_folder("Qwen/Qwen2.5-7B-Instruct", "AAPL")
    assert str(folder.adapter("grpo_1st")) == "models/Qwen/Qwen2.5-7B-Instruct/AAPL/grpo_lora_1st"
    assert folder.adapter("sft").name == "sft_lora"
    assert folder.adapter("grpo_2nd").name == "grpo_lora_2nd"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("tiny", "models/tiny/AAPL"),
        ("gpt2", "models/gpt2/AAPL"),
        ("/opt/weights/my model", "models/my-model/AAPL"),
        ("./weights/mine/", "models/mine/AAPL"),
        ("~/weights/mine", "models/mine/AAPL"),
    ],
)
def test_a_model_given_as_a_path_goes_by_its_last_part(model: str, expected: str) -> None:
    assert str(model_folder(model, "AAPL").root) == expected


@pytest.mark.parametrize("model", ["..", "../..", "a/../../b", "/", "a//b", "", "org/sub/model"])
def test_no_model_name_leads_out_of_the_models_folder(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        root = model_folder(model, "AAPL").root
    except ValueError:
        return
    assert (tmp_path / root).resolve().is_relative_to(tmp_path / "models")
    assert len(root.parts) <= 4


@pytest.mark.parametrize("ticker", ["../../etc/x", "a/b", "", ".hidden"])
def test_no_ticker_leads_out_of_its_folder(ticker: str) -> None:
    for make in (lambda: run_folder(ticker, "now"), lambda: model_folder("tiny", ticker)):
        with pytest.raises(TickerNameError):
            make()


def test_a_timestamp_cannot_lead_out_either() -> None:
    assert run_folder("AAPL", "../../x").root.parts == ("results", "AAPL_..-..-x")


def test_a_home_of_the_former_layout_is_refused_with_the_commands_that_move_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "a home"
    (root / "mlartifacts").mkdir(parents=True)
    (root / "mlartifacts" / "weights").write_text("weights")
    (root / "mlflow.db").write_text("database")
    (root / "store").mkdir()
    monkeypatch.setenv("TICKERFORGE_HOME", str(root))
    with pytest.raises(StoreError, match="layout of an earlier version") as refusal:
        Workspace.current()
    command = str(refusal.value).partition("move the files: ")[2]
    subprocess.run(["bash", "-ec", command], check=True)
    workspace = Workspace.current()
    assert workspace.mlflow_db.read_text() == "database"
    assert workspace.store.is_dir()
    # The addresses in MLflow's database are absolute and stay valid.
    assert (root / "mlartifacts" / "weights").read_text() == "weights"
    assert (workspace.mlflow_artifacts / "weights").is_file()


def test_the_names_of_files_cost_a_command_no_large_library() -> None:
    code = (
        "import sys, tickerforge.tasks.base.paths; print({'numpy', 'pandas', 'pyarrow', 'prefect'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
