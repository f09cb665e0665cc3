"""A base model from a folder through a run, a comparison, a forecast, `pull` and `vllm serve`, by Unsloth and vLLM."""

import os
import re
import shlex
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import pytest

from tickerforge.features.synthetic import market
from tickerforge.flows.settings.config import PipelineConfig, with_overrides
from tickerforge.flows.train.pipeline import PipelineResult, train_ticker
from tickerforge.tasks.prices.price_files import keep
from tickerforge.training.backends import release_models, why_not
from tiny_pipeline import tiny_config
from tracking_environment import forget_tracking
from trained_pieces import shared_store, tiny_base_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        why_not("unsloth") is not None or why_not("vllm") is not None,
        reason=f"cannot run here: {why_not('unsloth') or why_not('vllm')}",
    ),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
]

DOCS = Path(__file__).parents[3] / "docs"
DOCUMENTED_MODEL = "Qwen/Qwen3-0.6B"
START_SECONDS = 400
FORECASTS = [f"forecast {model}" for model in ("base", "grpo_1st", "sft", "grpo_2nd")]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with prices of AAPL, which are synthetic."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TICKERFORGE_HOME", str(tmp_path_factory.mktemp("home")))
        forget_tracking(patch)
        keep(Path("prices"), "AAPL", market(tiny_config().synthetic))
        yield folder
    release_models()


@pytest.fixture(scope="module")
def config(work: Path) -> PipelineConfig:
    # The tiny model, but as any folder: vLLM does not sample from `tiny`.
    changes = {
        "stock": "AAPL",
        "data": "prices",
        "quality.exchange": "none",
        "features.answer_style": "list",
        "training.model": tiny_base_model(shared_store()).location,
        "training.backend": "unsloth",
        "training.gpu_memory_utilization": 0.1,
        "training.load_in_4bit": "false",
        "training.sampling.max_tokens": 48,
        "training.grpo_1st.steps": 1,
        "training.grpo_2nd.steps": 1,
        "training.rejection.max_windows": 4,
        "evaluation.max_windows": 2,
    }
    return with_overrides(tiny_config(), [f"{name}={value}" for name, value in changes.items()])


@pytest.fixture(scope="module")
def drawn() -> Iterator[list[str]]:
    """The stages whose answers vLLM has drawn."""
    from tickerforge.training.backends.vllm_ import VLLMSampler

    stages: list[str] = []
    plain = VLLMSampler.generate

    def counted(self, prompts, *, job):
        stages.append(job.stage)
        return plain(self, prompts, job=job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VLLMSampler, "generate", counted)
        yield stages


@pytest.fixture(scope="module")
def result(config: PipelineConfig, drawn: list[str], prefect_server: None) -> PipelineResult:
    return train_ticker(config)


def test_a_run_trains_by_unsloth_and_draws_all_answers_by_vllm(result: PipelineResult, drawn: list[str]) -> None:
    assert "backend unsloth: asked for" in (result.results / "pipeline.log").read_text()
    assert set(result.adapters) == {"grpo_1st", "sft", "grpo_2nd"}
    assert drawn == ["rejection", *FORECASTS]


def test_a_comparison_draws_by_vllm(result: PipelineResult, config: PipelineConfig, drawn: list[str]) -> None:
    from tickerforge.flows.stages.single import run_stage

    drawn.clear()
    # Other windows than the run's, whose forecasts are in the store.
    compared = run_stage("compare", with_overrides(config, ["evaluation.max_windows=3"]))
    assert compared.report is not None
    assert drawn == FORECASTS


def test_a_forecast_draws_by_vllm(result: PipelineResult, config: PipelineConfig, drawn: list[str]) -> None:
    from tickerforge.flows.night.next_sessions import forecast_stock

    drawn.clear()
    forecast = forecast_stock(config, adapter=None, alias="challenger")
    assert drawn == ["forecast"]
    assert (forecast.answers, forecast.valid) == (4, 4)


def documented() -> tuple[list[str], str]:
    """The command and the program of docs/pulling.md, section "With vLLM"."""
    section = (DOCS / "pulling.md").read_text().split("\n## With vLLM\n")[1].split("\n## ")[0]
    command, program = re.findall(r"(?:^    .+\n(?:\n(?=    ))?)+", section, re.MULTILINE)
    return shlex.split(command.replace("\\\n", "")), textwrap.dedent(program)


def test_vllm_serves_a_pulled_adapter_as_documented(result: PipelineResult, config: PipelineConfig) -> None:
    from tickerforge.tasks.base.paths import Workspace
    from tickerforge.tasks.registry.registration import pull_adapter
    from tickerforge.tasks.tracking.client import connect

    release_models()
    pull_adapter(connect(Workspace.current()), "AAPL@challenger", dest=Path("adapters/AAPL"))
    command, program = documented()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert command[:3] == ["vllm", "serve", DOCUMENTED_MODEL]
    command[0:3] = [str(Path(sys.executable).with_name("vllm")), "serve", config.training.model]
    command += ["--port", str(port), "--gpu-memory-utilization", "0.1", "--max-model-len", "512"]
    with Path("server.txt").open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not healthy(port):
            assert server.poll() is None, Path("server.txt").read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(1)
        done = subprocess.run(
            [sys.executable, "-c", program.replace("127.0.0.1:8000", f"127.0.0.1:{port}")],
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    finally:
        os.killpg(server.pid, 9)
        server.wait()
    prices = [float(price) for price in re.findall(r"\d+\.?\d*", done.stdout)]
    assert len(prices) == config.features.horizon
    assert all(price > 0 for price in prices)


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except (URLError, TimeoutError):
        return False
