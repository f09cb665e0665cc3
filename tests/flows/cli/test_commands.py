import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from desk_rows import desk_row
from tickerforge.features.config import FeatureConfig, SyntheticConfig, UpdateSource
from tickerforge.features.export import published_tables, write_published
from tickerforge.features.stages import AdapterStage
from tickerforge.features.synthetic import market
from tickerforge.flows.cli import options
from tickerforge.flows.cli.commands import app
from tickerforge.flows.cli.preflight import check_stage
from tickerforge.flows.errors import ConfigError
from tickerforge.flows.settings.config import PipelineConfig, build_config
from tickerforge.flows.settings.files import StageFiles
from tickerforge.tasks.outputs.desk import keep_rows
from tickerforge.training.config import BackendChoice, RejectionConfig, RejectionRule

HEADER = "Date,Open,High,Low,Close,Adj Close,Volume"
COMMANDS = ("run", "preprocess", "stage", "forecast", "pull", "doctor", "desk")
Cli = Callable[..., Result]


@pytest.fixture
def cli(working_folder: Path, quiet_logging: None) -> Cli:
    def call(*arguments: str | Path) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)

    return call


def csv_lines(sessions: int = 400) -> list[str]:
    bars = market(SyntheticConfig(sessions=sessions))
    rows = zip(*(bars[name] for name in ("date", "open", "high", "low", "close", "adj_close", "volume")), strict=True)
    return [HEADER, *(f"{row[0]:%Y-%m-%d}," + ",".join(f"{value:.6f}" for value in row[1:]) for row in rows)]


def folder_with(lines: list[str], *, stock: str = "ACME") -> Path:
    folder = Path("prices")
    folder.mkdir(exist_ok=True)
    (folder / f"{stock}.csv").write_text("\n".join(lines) + "\n" if lines else "")
    return folder


def changed(line: int, column: int, value: str) -> list[str]:
    lines = csv_lines()
    cells = lines[line - 1].split(",")
    cells[column] = value
    lines[line - 1] = ",".join(cells)
    return lines


def swapped() -> list[str]:
    lines = csv_lines()
    lines[9], lines[10] = lines[10], lines[9]
    return lines


def doubled() -> list[str]:
    lines = csv_lines()
    return [*lines[:10], lines[9].replace(",", ",1", 1), *lines[10:]]


def without_open() -> list[str]:
    return [",".join(line.split(",")[:1] + line.split(",")[2:]) for line in csv_lines()]


def split_in_two() -> list[str]:
    """Prices with a split of 2 for 1 that nobody adjusted."""
    lines = csv_lines()
    rows = [line.split(",") for line in lines[200:]]
    return [*lines[:200], *(",".join([day, *(repr(float(each) / 2) for each in prices)]) for day, *prices in rows)]


def assert_refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 2, result.output
    for part in parts:
        assert part in result.stderr
    assert "Traceback" not in result.output
    assert not Path("results").exists()
    assert not Path("models").exists()
    assert not Path(os.environ["TICKERFORGE_HOME"]).exists()


BAD_PRICES = {
    "empty file": (list, ["ACME.csv", "empty"]),
    "missing column": (without_open, ["ACME.csv", "Open", "missing"]),
    "unadjusted split": (split_in_two, ["ACME: the adjusted close jumps", "split of 2 for 1", "--accept-jumps"]),
    "text in a price": (lambda: changed(7, 4, "abc"), ["ACME.csv", "row 7", "Close", "'abc'"]),
    "negative price": (lambda: changed(8, 3, "-1.5"), ["ACME.csv", "row 8", "Low", "-1.5"]),
    "nan": (lambda: changed(9, 5, "nan"), ["ACME.csv", "row 9", "Adj Close", "'nan'"]),
    "duplicate date": (doubled, ["ACME.csv", "row 11", "Date"]),
    "unsorted dates": (swapped, ["ACME.csv", "row 11", "Date"]),
    "too little history": (lambda: csv_lines()[:120], ["ACME", "119 sessions", "needed"]),
}


@pytest.mark.parametrize("command", ["run", "stage"])
@pytest.mark.parametrize(("lines", "parts"), BAD_PRICES.values(), ids=BAD_PRICES)
def test_faulty_prices_are_refused_before_anything_is_written(cli: Cli, command: str, lines, parts: list[str]) -> None:
    folder = folder_with(lines())
    stage = ["grpo1"] if command == "stage" else []
    assert_refused(cli(command, *stage, "--stock", "ACME", "--data", folder), *parts)


def test_preprocessing_refuses_faulty_prices_and_goes_on_with_the_other_stocks(cli: Cli) -> None:
    folder_with(csv_lines(), stock="GOOD")
    folder_with(changed(7, 4, "abc"), stock="BAD")
    result = cli("preprocess", "--root-path", "prices", "--output-dir", "csv")
    assert result.exit_code == 2
    assert "BAD.csv, row 7" in result.stderr
    assert sorted(path.name for path in Path("csv").iterdir()) == ["GOOD"]
    tables = {f"GOOD_{split}_{side}.csv" for split in ("train", "test", "full") for side in "xy"}
    assert {path.name for path in Path("csv/GOOD").iterdir()} == tables


def test_the_published_layout_goes_into_a_folder_of_its_name_unless_another_is_given(cli: Cli) -> None:
    folder_with(csv_lines())
    assert cli("preprocess", "--root-path", "prices").exit_code == 0
    assert not Path("published").exists()
    assert cli("preprocess", "--root-path", "prices", "--layout", "published").exit_code == 0
    assert len(list(Path("published/ACME").iterdir())) == 6
    assert cli("preprocess", "--root-path", "prices", "--layout", "published", "--output-dir", "csv").exit_code == 0
    for path in Path("published/ACME").iterdir():
        assert path.read_bytes() == (Path("csv/ACME") / path.name).read_bytes()


def test_a_report_draws_each_stock_that_can_be_used(cli: Cli) -> None:
    folder_with(csv_lines(), stock="GOOD")
    folder_with(changed(7, 4, "abc"), stock="BAD")
    result = cli("preprocess", "--root-path", "prices", "--report")
    assert result.exit_code == 2
    [picture] = Path("results/preprocessing").iterdir()
    assert picture.name == "GOOD.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "results/preprocessing/GOOD.png" in result.stdout


def test_preprocessing_again_takes_windows_from_the_store(cli: Cli) -> None:
    folder_with(csv_lines())
    first = cli("preprocess", "--root-path", "prices", "--stock", "ACME")
    again = cli("preprocess", "--root-path", "prices", "--stock", "ACME")
    assert (first.exit_code, again.exit_code) == (0, 0)
    assert "windows: cached" in again.stderr
    assert "windows: cached" not in first.stderr
    assert first.stdout == again.stdout


def test_preprocessing_takes_some_stocks_or_all(cli: Cli) -> None:
    folder_with(csv_lines(), stock="ONE")
    folder_with(csv_lines(), stock="TWO")
    some = cli("preprocess", "--root-path", "prices", "--stock", "TWO")
    every = cli("preprocess", "--root-path", "prices", "--stock", "all")
    assert "ONE" not in some.stdout
    assert "TWO" in some.stdout
    assert "ONE" in every.stdout
    assert "TWO" in every.stdout


def test_a_stock_that_the_folder_lacks_is_refused_with_those_it_has(cli: Cli) -> None:
    folder = folder_with(csv_lines(), stock="OTHER")
    assert_refused(cli("run", "--stock", "ACME", "--data", folder), "no prices for ACME", "There are OTHER")


def test_a_missing_folder_is_refused(cli: Cli) -> None:
    assert_refused(cli("run", "--stock", "ACME", "--data", "nowhere"), "no folder nowhere")


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--stock", "../../etc/x", "--data", "."],
        ["stage", "sft", "--stock", "../../etc/x", "--data", "."],
        ["preprocess", "--root-path", ".", "--stock", "../../etc/x"],
        ["forecast", "--stock", "../../etc/x", "--data", "."],
        ["pull", "../../etc/x@champion", "dest"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_ticker_that_is_a_path_is_refused(cli: Cli, arguments: list[str]) -> None:
    assert_refused(cli(*arguments), "'../../etc/x'", "not a ticker name")


def test_an_unknown_stage_is_refused_with_the_choices(cli: Cli) -> None:
    assert_refused(cli("stage", "grpo9"), "'grpo9'", "'grpo1', 'sft-data', 'sft', 'grpo2', 'compare'")


@pytest.mark.parametrize(
    ("command", "option", "choices"),
    [
        (["run"], "--backend", BackendChoice),
        (["stage", "sft-data"], "--rule", RejectionRule),
        (["nightly"], "--update", UpdateSource),
        (["preprocess", "--root-path", "."], "--layout", options.Layout),
        (["benchmark", "markets"], "--until", AdapterStage),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_help_and_refusal_name_the_choices_of_the_setting(
    cli: Cli, command: list[str], option: str, choices: object
) -> None:
    assert f"{option} <{'|'.join(get_args(choices))}>" in cli(*command, "--help").stdout
    assert_refused(cli(*command, option, "nonsense"), "'nonsense'", ", ".join(map(repr, get_args(choices))))


def test_an_unknown_rule_of_selection_is_refused_with_the_choices_that_the_setting_has(cli: Cli) -> None:
    choices = get_args(RejectionConfig.model_fields["rule"].annotation)
    assert_refused(cli("stage", "sft-data", "--rule", "calmest"), "'calmest'", *map(repr, choices))


def test_the_rule_of_selection_may_be_given_by_its_option_or_by_set() -> None:
    by_option = build_config(recipe=None, flags={options.KEYS["rule"]: "published"}, assignments=[])
    by_set = build_config(recipe=None, flags={}, assignments=["training.rejection.rule=published"])
    assert by_option.training.rejection.rule == by_set.training.rejection.rule == "published"


def test_a_real_ticker_without_prices_is_not_trained_on_the_synthetic_market(cli: Cli) -> None:
    assert_refused(cli("run", "--stock", "MSFT"), "no prices for MSFT", "--stock DEMO")


@pytest.mark.parametrize(
    ("option", "parts"),
    [
        (["--backend", "cuda"], ["'auto', 'transformers', 'unsloth'"]),
        (["--backend", "unsloth"], ["unsloth", "--backend transformers"]),
        (["--lora-rank", "0"], ["training.lora_rank = 0", "at least 1"]),
        (["--gpu-memory-utilization", "1.5"], ["training.gpu_memory_utilization = 1.5", "at most 1"]),
        (["--set", "training.grpo_1st.step=3"], ["did you mean training.grpo_1st.steps"]),
        (["--recipe", "gone.toml"], ["gone.toml"]),
        (["--test-after", "soon"], ["evaluation.test_after = 'soon'", "a date, YYYY-MM-DD"]),
        (["--cuda-devices", "0;rm"], ["cuda_devices: '0;rm'", "0,1"]),
        (["--model", "./nothing-here"], ["./nothing-here"]),
        (["--units", "usd"], ["--units"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_a_bad_option_is_refused_with_what_is_allowed(cli: Cli, option: list[str], parts: list[str]) -> None:
    assert_refused(cli("run", "--stock", "DEMO", *option), *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["grpo1", "--train-x-path", "x.csv"], ["--train-x-path needs --train-y-path"]),
        (["compare", "--test-x-path", "x.csv", "--test-y-path", "y.csv"], ["--test-x-path needs --train-x-path"]),
        (["grpo1", "--train-x-path", "gone.csv", "--train-y-path", "y.csv"], ["gone.csv"]),
        (["sft", "--sft-data-path", "gone.csv"], ["gone.csv", "--sft-data-path"]),
        (["grpo2", "--sft-saved-lora", "gone"], ["gone is not an adapter folder"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_stage_refuses_explicit_files_that_it_cannot_use(cli: Cli, arguments: list[str], parts: list[str]) -> None:
    assert_refused(cli("stage", *arguments, "--stock", "DEMO"), *parts)


@pytest.mark.parametrize("left_out", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_that_is_no_adapter_is_refused(cli: Cli, left_out: str) -> None:
    folder = Path("adapter")
    folder.mkdir()
    for name in {"adapter_config.json", "adapter_model.safetensors"} - {left_out}:
        (folder / name).write_text("{}")
    assert_refused(cli("forecast", "--stock", "DEMO", "--adapter", folder), "adapter", left_out)


BROKEN_ADAPTERS = {
    "no object": ("[]", None, ["adapter_config.json", "it is not a JSON object"]),
    "no JSON": ("{", None, ["adapter_config.json", "cannot be read"]),
    "no header": ("{}", b"nonsense", ["adapter_model.safetensors", "cannot be read as weights"]),
    "empty weights": ("{}", b"", ["adapter_model.safetensors", "cannot be read as weights"]),
}


@pytest.mark.parametrize("arguments", [["stage", "grpo2", "--sft-saved-lora"], ["forecast", "--adapter"]], ids=" ".join)
@pytest.mark.parametrize(("config", "weights", "parts"), BROKEN_ADAPTERS.values(), ids=BROKEN_ADAPTERS)
def test_a_broken_adapter_is_refused_before_anything_is_written(
    cli: Cli, arguments: list[str], config: str, weights: bytes | None, parts: list[str]
) -> None:
    folder = Path("adapter")
    folder.mkdir()
    (folder / "adapter_config.json").write_text(config)
    if weights is None:
        save_file({"weight": np.zeros(2)}, folder / "adapter_model.safetensors")
    else:
        (folder / "adapter_model.safetensors").write_bytes(weights)
    assert_refused(cli(*arguments, folder, "--stock", "DEMO"), *parts)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "cannot be read as accepted answers"),
        ("prompt,answer\n", "holds no answers"),
        ("prompt,reply\n1,2\n", "lacks answer"),
        ("prompt,answer\n[],2\n", "record 1"),
    ],
    ids=["empty file", "no rows", "column", "prompt"],
)
def test_malformed_answers_are_refused_before_anything_is_written(cli: Cli, content: str, part: str) -> None:
    Path("answers.csv").write_text(content)
    assert_refused(cli("stage", "sft", "--stock", "ACME", "--sft-data-path", "answers.csv"), "answers.csv", part)


def test_a_results_folder_that_cannot_be_made_is_refused(cli: Cli) -> None:
    Path("file").write_text("in the way")
    result = cli("stage", "grpo1", "--stock", "DEMO", "--results-dir", "file/results")
    assert_refused(result, "--results-dir file/results", "is a file")


def published(config: FeatureConfig) -> list[str]:
    """Options that name published train files of windows of this length."""
    tables = published_tables(market(SyntheticConfig(sessions=400)), ticker="DEMO", config=config)
    write_published(tables, Path("csv"), ticker="DEMO")
    return ["--train-x-path", "csv/DEMO_train_x.csv", "--train-y-path", "csv/DEMO_train_y.csv"]


def test_a_comparison_of_published_files_needs_test_files(cli: Cli) -> None:
    given = published(FeatureConfig())
    assert_refused(cli("stage", "compare", "--stock", "DEMO", *given), "--test-x-path", "--test-y-path")


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (FeatureConfig(horizon=12), ["train_y.csv", "of 12 sessions", "features.horizon is 10"]),
        (FeatureConfig(context=12), ["train_x.csv", "of 12 sessions", "features.context is 10"]),
    ],
    ids=["horizon", "context"],
)
def test_published_windows_of_another_length_are_refused(cli: Cli, config: FeatureConfig, parts: list[str]) -> None:
    assert_refused(cli("stage", "grpo1", "--stock", "DEMO", *published(config)), *parts)


def test_fine_tuning_on_given_answers_needs_no_prices(working_folder: Path) -> None:
    chat = json.dumps([{"role": "user", "content": "how much?"}])
    path = Path("answers.csv")
    pd.DataFrame({"prompt": [chat], "answer": ["two dollars"]}).to_csv(path, index=False)
    config = PipelineConfig(stock="ACME")
    check_stage("sft", config, StageFiles(sft_data_path=path), home=working_folder / "home")
    with pytest.raises(ConfigError, match="no prices for ACME"):
        check_stage("sft", config, StageFiles(), home=working_folder / "home")


def test_adapter_and_alias_exclude_each_other(cli: Cli) -> None:
    assert_refused(cli("forecast", "--stock", "DEMO", "--adapter", "x", "--alias", "champion"), "exclude")


def test_a_full_disk_is_refused_before_a_run_starts(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small tmpfs needs the right to do so")
    try:
        monkeypatch.setenv("TICKERFORGE_HOME", str(disk / "home"))
        assert_refused(cli("run", "--stock", "DEMO"), "the disk is full", "TICKERFORGE_HOME")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(cli: Cli, command: str) -> None:
    result = cli(command, "--help")
    assert result.exit_code == 0
    assert f"Example: tickerforge {command}" in result.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["preprocess", "--help"], ["run", "--help"]], ids=" ".join)
def test_help_starts_without_the_heavy_libraries(arguments: list[str]) -> None:
    program = (
        "import json, sys\n"
        "from tickerforge.flows.cli.commands import app\n"
        "try:\n"
        "    app()\n"
        "except SystemExit:\n"
        "    heavy = {'prefect', 'torch', 'mlflow', 'pandas', 'transformers', 'numpy'} & set(sys.modules)\n"
        "    print(json.dumps(sorted(heavy)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert "Usage: " in done.stdout
    assert json.loads(done.stderr.splitlines()[-1]) == []


def test_the_installed_command_prints_errors_without_a_traceback_unless_asked(working_folder: Path) -> None:
    tickerforge = shutil.which("tickerforge", path=str(Path(sys.executable).parent))
    assert tickerforge is not None
    command = [tickerforge, "run", "--stock", "DEMO", "--lora-rank", "0"]
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True, check=False)
    assert (plain.returncode, debug.returncode) == (2, 2)
    assert plain.stderr.startswith("error: training.lora_rank = 0")
    assert "Traceback" in debug.stderr
    assert list(working_folder.iterdir()) == []


def test_the_desk_needs_a_forecast_and_then_writes_its_files(cli: Cli, working_folder: Path) -> None:
    refused = cli("desk")
    assert (refused.exit_code, "no forecast has been issued yet" in refused.stderr) == (2, True)
    keep_rows([desk_row(), desk_row("MSFT")])
    shown = cli("desk")
    assert shown.exit_code == 0
    assert str(Path("forecasts", "desk.html")) in shown.stdout
    assert len(pd.read_parquet(working_folder / "forecasts" / "latest.parquet")) == 6
    assert [row["ticker"] for row in json.loads(cli("desk", "--json").stdout)] == ["AAPL", "MSFT"]


def test_the_record_is_verified_and_a_fault_is_named(cli: Cli, tmp_path: Path) -> None:
    assert "nothing is recorded yet" in cli("record", "verify").stdout
    assert "the record is unchanged" in cli("record", "verify").stdout
    missing = cli("record", "verify", "--head", "1:abc")
    assert (missing.exit_code, "replaced or shortened" in missing.stderr) == (1, True)
    records = tmp_path / "home" / "state" / "records" / "forecasts" / "AAPL"
    records.mkdir(parents=True)
    (records / "2026-11-20-v1.json").write_text("{}")
    added = cli("record", "verify", "--json")
    assert added.exit_code == 1
    assert json.loads(added.stdout)["faults"][0].startswith("forecasts/AAPL/2026-11-20-v1: the record is in no block")


@pytest.mark.slow
def test_a_night_takes_the_wheel_of_the_base_model_from_a_file(
    cli: Cli, prefect_server: None, working_folder: Path
) -> None:
    done = cli("nightly", "--model", "smollm2", "--model-wheel", str(working_folder / "missing.whl"))
    assert done.exit_code == 1
    assert "no file" in done.output
    assert "missing.whl: --model-wheel names" in done.output
