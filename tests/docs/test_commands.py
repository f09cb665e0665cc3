"""The pages: every command in them is run, or at least parsed by the real command line; their code is run."""

import importlib
import re
import shlex
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from desk_rows import desk_row
from tickerforge.deployments.cli import app
from tickerforge.features.config import SyntheticConfig
from tickerforge.features.prices.bars import read_csv
from tickerforge.features.synthetic import market
from tickerforge.flows.errors import ConfigError
from tickerforge.flows.settings.config import build_config
from tickerforge.tasks.outputs.desk import keep_rows
from tickerforge.tasks.prices.price_files import as_csv, keep
from tickerforge.training.rewards import RewardTerm
from tracking_environment import forget_tracking
from web_server import Reply, web_server

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ONLY_PARSED = {
    "run": "trains: tests/flows/train",
    "stage": "trains: tests/flows/train",
    "nightly": "trains: tests/flows/night",
    "benchmark markets": "trains: tests/flows/bench",
    "up": "starts servers: tests/deployments/service",
    "down": "stops servers: tests/deployments/service",
    "status": "asks servers: tests/deployments/service",
    "deploy": "asks servers: tests/deployments/prefect",
    "serve": "starts a server: tests/deployments/service",
    "pull": "needs a registered adapter: tests/tasks/registry",
    "registry history": "needs a registered adapter: tests/tasks/registry",
    "registry rollback": "needs a registered adapter: tests/tasks/registry",
    "prune": "needs the databases of some nights: tests/deployments/test_prune.py",
    "data yahoo": "needs a network: tests/tasks/prices",
    "data stocknet": "needs a network: tests/tasks/prices",
}
ONLY_PARSED_OPTIONS = {
    "--recipe": "trains",
    "--alias": "needs a registered adapter",
    "--baseline": "compiles statistical models for a minute",
    "--predictions": "needs the forecasts of another program",
}


def blocks(page: Path) -> Iterator[str]:
    """The indented and the fenced blocks of a page."""
    text = page.read_text()
    fenced = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    yield from fenced.findall(text)
    for block in re.findall(r"(?:^|\n)\n((?: {4}.*\n|\n)+)", fenced.sub("", text)):
        yield textwrap.dedent(block)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each `tickerforge`, `make` and `python` command in the blocks of a page, without variables."""
    for block in blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            for text in re.findall(r"\$\((tickerforge [^)]*)\)", line) or [line]:
                if not re.match(r"(\w+=\S+ |\w+=\"[^\"]*\" )*(\.venv/bin/)?(tickerforge|make|python tests/)\b", text):
                    continue
                words = shlex.split(text, comments=True)
                while "=" in words[0]:
                    del words[0]
                yield [words[0].removeprefix(".venv/bin/"), *words[1:]]


def documented(program: str) -> list[Any]:
    """The commands of a program in all pages, each once."""
    found = {tuple(words): page.name for page in PAGES for words in commands(page) if words[0] == program}
    return [pytest.param(words[1:], id=f"{page}: {' '.join(words)}") for words, page in found.items()]


@cache
def command_line() -> Any:
    """The real command line, whose commands return their path and their options instead of doing anything."""
    root = typer.main.get_command(app)

    def silence(command: Any, path: tuple[str, ...]) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            silence(inner, (*path, name))
        if not hasattr(command, "commands"):
            command.callback = lambda **options: (" ".join(path), options)

    silence(root, ())
    return root


def parsed(words: tuple[str, ...] | list[str]) -> tuple[str, dict[str, Any]]:
    """The path of a command and its options; the settings among them must exist and have valid values."""
    path, options = command_line().main(list(words), standalone_mode=False)
    build_config(recipe=options.get("recipe"), assignments=options.get("set_") or ())
    return path, options


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the files that the pages name, and with one issued forecast."""
    folder = tmp_path_factory.mktemp("reader")
    bars = market(SyntheticConfig(sessions=400))
    for stock in ("AAPL", "BRK-A"):
        keep(folder / "prices", stock, bars)
    (folder / "downloads").mkdir()
    (folder / "downloads" / "aapl.us.txt").write_bytes(as_csv(bars))
    (folder / "deployments").symlink_to(ROOT / "deployments")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TICKERFORGE_HOME", str(folder / "home"))
        keep_rows([desk_row()])
    return folder


@pytest.fixture
def reader(place: Path, monkeypatch: pytest.MonkeyPatch, quiet_logging: None) -> Path:
    monkeypatch.chdir(place)
    monkeypatch.setenv("TICKERFORGE_HOME", str(place / "home"))
    forget_tracking(monkeypatch)
    return place


@pytest.mark.parametrize("words", documented("tickerforge"))
def test_a_documented_command_works(reader: Path, words: tuple[str, ...]) -> None:
    path, _ = parsed(words)
    if path in ONLY_PARSED or ONLY_PARSED_OPTIONS.keys() & set(words) or "…" in " ".join(words):
        return
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_commands_are_found_in_each_form_that_the_pages_use(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n    tickerforge desk      # writes it\n"
        "    .venv/bin/tickerforge run --stock A \\\n      --data prices/\n\n"
        'Text: tickerforge down\n\n    eval "$(tickerforge status --env)"\n\n```\nA="b c" D=e make up\n```\n'
    )
    assert [" ".join(words) for words in commands(page)] == [
        "make up",
        "tickerforge desk",
        "tickerforge run --stock A --data prices/",
        "tickerforge status --env",
    ]


def test_only_existing_commands_are_left_unrun() -> None:
    for path in ONLY_PARSED:
        command = command_line()
        for name in path.split():
            command = command.commands[name]


@pytest.mark.parametrize(
    "words",
    [("fly",), ("run", "--wings", "2"), ("data", "yahoo"), ("run", "--gpus", "two")],
    ids=" ".join,
)
def test_a_command_that_does_not_exist_is_noticed(words: tuple[str, ...]) -> None:
    with pytest.raises(Exception, match=r"No such|Invalid|Missing"):
        parsed(words)


def test_a_setting_that_does_not_exist_is_noticed() -> None:
    with pytest.raises(ConfigError, match="grpo_9th"):
        parsed(["run", "--set", "training.grpo_9th.steps=200"])


def test_the_examples_of_the_help_texts_can_be_parsed(reader: Path) -> None:
    def epilogs(command: Any) -> Iterator[str]:
        yield command.epilog or ""
        for inner in getattr(command, "commands", {}).values():
            yield from epilogs(inner)

    examples = [example for text in epilogs(command_line()) for example in re.findall(r"tickerforge (.*)", text)]
    assert len(examples) >= len(ONLY_PARSED)
    for example in examples:
        parsed(shlex.split(example))


@pytest.mark.parametrize("words", documented("make"))
def test_a_documented_target_exists(words: tuple[str, ...]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        name, assigned, _ = word.partition("=")
        assert re.search(rf"^{name} \?=" if assigned else rf"^{name}:.* ## ", makefile, re.MULTILINE), word


@pytest.mark.parametrize("words", documented("python"))
def test_a_documented_script_exists_with_its_options(words: tuple[str, ...]) -> None:
    script = (ROOT / words[0]).read_text()
    assert [word for word in words[1:] if word.startswith("--") and f'"{word}"' not in script] == []


def test_the_imports_in_the_pages_exist() -> None:
    imports = [line for page in PAGES for line in re.findall(r"from (tickerforge\S+) import (.+)", page.read_text())]
    assert len(imports) > 5
    for module, names in imports:
        found = importlib.import_module(module)
        assert [name for name in re.split(r",\s*", names) if name != "…" and not hasattr(found, name)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_api_pages_name_what_exists(page: Path) -> None:
    named = re.findall(r"^::: (\S+)\n\s+options:\s+{?members: \[(.*?)\]", page.read_text(), re.M | re.S)
    assert bool(named) == (page.parent.name == "api")
    for module, members in named:
        found = importlib.import_module(module)
        assert [name for name in re.split(r",\s*", members) if not hasattr(found, name)] == []


def example(page: str) -> dict[str, Any]:
    """What the Python block of a page defines."""
    (block,) = (block for block in blocks(ROOT / "docs" / page) if "import " in block)
    found: dict[str, Any] = {"__name__": "example"}
    exec(compile(block, page, "exec"), found)
    return found


def test_the_data_source_of_the_page_fills_a_folder(tmp_path: Path) -> None:
    bars = market(SyntheticConfig(sessions=100))
    with web_server(lambda path, headers: Reply(as_csv(bars))) as web:
        fill = example("add-source.md")["fill"]
        done = fill(tmp_path / "prices", "ACME", cache=tmp_path / "cache", address=web.url + "/daily/{stock}.csv")
        assert [path for path, _ in web.asked] == ["/daily/ACME.csv"]
    assert (done.stock, done.sessions) == ("ACME", 100)
    assert read_csv(tmp_path / "prices" / "ACME.csv", ticker="ACME").equals(bars)


def test_the_reward_of_the_page_orders_answers() -> None:
    smooth: RewardTerm = example("add-reward.md")["SmoothReward"](horizon=3, unit=10.0)
    answers = [f"<think></think><answer>[{values}]</answer>" for values in ("0, 0, 0", "0, 10, 20", "0, 30, 0", "0")]
    scores = smooth(completions=answers, target=[[0.0] * 3] * 4, last_close=[0.0] * 4)
    assert scores == pytest.approx([0.0, -2 / 3, -2.0, -4.0])
    assert np.all(np.diff(scores) < 0)


def test_the_code_names_pages_and_sections_that_exist() -> None:
    code = [path for folder in ("deployments", "docker", "evaluation", "features", "flows", "tasks", "training")
            for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".toml", ".yaml", ".j2"}]  # fmt: skip
    named = {link for path in code for link in re.findall(r"docs/([\w/-]+\.md)(?:#([\w-]+))?", path.read_text())}
    assert named
    for page, section in named:
        headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / page).read_text(), re.MULTILINE)
        assert not section or section in {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}
