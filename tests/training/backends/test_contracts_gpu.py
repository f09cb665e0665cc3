"""Our calls of vLLM, Unsloth, TRL and accelerate against the signatures of what is installed.

The sources of vLLM and Unsloth are read, not imported: the tests about them run wherever the packages lie on the path
(`pip install --no-deps --target FOLDER vllm unsloth`, `PYTHONPATH=FOLDER`), with or without a GPU.
"""

import ast
import importlib.util
import shlex
from pathlib import Path

import pytest

from tickerforge.training.config import LaunchConfig
from tickerforge.training.launch import child_command

pytestmark = pytest.mark.nightly

BACKENDS = Path(__file__).parents[3] / "training" / "backends"


def folder_of(package: str) -> Path:
    """Where an installed package lies; it is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0])


def source(package: str, file: str) -> ast.Module:
    """A module of an installed package, parsed."""
    return ast.parse((folder_of(package) / file).read_text())


def of_name(tree: ast.AST, name: str) -> list[ast.AST]:
    """Definitions of a class or function, those inside `if` and `try` included."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name]
    assert found, f"{name} has gone"
    return found


def parameters(definition: ast.AST) -> list[str]:
    """What a function takes, or the fields of a class without `__init__`, in order."""
    if isinstance(definition, ast.FunctionDef):
        arguments = definition.args
        return [argument.arg for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]]
    assert isinstance(definition, ast.ClassDef)
    fields = [node.target for node in definition.body if isinstance(node, ast.AnnAssign)]
    return [field.id for field in fields if isinstance(field, ast.Name)]


def methods(tree: ast.AST, owner: str, name: str) -> list[str]:
    """Parameters of a method without `self`, of the last class of that name that has it."""
    having = [
        node
        for cls in of_name(tree, owner)
        for node in ast.iter_child_nodes(cls)
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    assert having, f"{owner}.{name} has gone"
    return [parameter for parameter in parameters(having[-1]) if parameter != "self"]


def calls(file: str, name: str) -> list[ast.Call]:
    """Our calls of a function or method of that name."""
    found = [
        node
        for node in ast.walk(ast.parse((BACKENDS / file).read_text()))
        if isinstance(node, ast.Call) and (getattr(node.func, "id", None) or getattr(node.func, "attr", None)) == name
    ]
    assert found, f"{file} calls no {name}"
    return found


def check(file: str, name: str, taken: list[str]) -> None:
    """Each of our calls passes no more positional arguments than are taken, and only keywords that exist."""
    for call in calls(file, name):
        positional = sum(not isinstance(argument, ast.Starred) for argument in call.args)
        given = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
        assert given <= set(taken[positional:]), f"{name} takes no {given - set(taken[positional:])}"


def test_vllm_takes_what_we_pass_to_the_engine() -> None:
    engine = parameters(of_name(source("vllm", "engine/arg_utils.py"), "EngineArgs")[0])
    taken = [*methods(source("vllm", "entrypoints/llm.py"), "LLM", "__init__"), *engine]
    check("vllm_engine.py", "LLM", taken)
    (call,) = calls("vllm_.py", "_engine")
    assert {keyword.arg for keyword in call.keywords} <= set(taken)


def test_vllm_knows_the_lora_ranks_that_we_ask_for() -> None:
    from tickerforge.training.backends.vllm_ import LORA_RANKS

    ranks = [
        ast.literal_eval(node.value.slice)
        for node in ast.walk(source("vllm", "config/lora.py"))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MaxLoRARanks"
        if isinstance(node.value, ast.Subscript)
    ]
    assert ranks
    assert set(LORA_RANKS) <= set(ranks[0])


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("SamplingParams", "sampling_params.py"),
        ("StructuredOutputsParams", "sampling_params.py"),
        ("LoRARequest", "lora/request.py"),
    ],
)
def test_vllm_has_the_fields_that_we_set(name: str, file: str) -> None:
    check("vllm_engine.py", name, parameters(of_name(source("vllm", file), name)[0]))


def test_vllm_generates_as_we_ask_it_to_and_returns_what_we_read() -> None:
    check("vllm_engine.py", "generate", methods(source("vllm", "entrypoints/llm.py"), "LLM", "generate"))
    outputs = source("vllm", "outputs.py")
    assert {"token_ids", "finish_reason"} <= set(parameters(of_name(outputs, "CompletionOutput")[0]))
    assert "outputs" in methods(outputs, "RequestOutput", "__init__")


def test_vllm_exports_the_names_that_we_import() -> None:
    exported = {node.value for node in ast.walk(source("vllm", "__init__.py")) if isinstance(node, ast.Constant)}
    assert {"LLM", "SamplingParams"} <= exported


def test_vllm_serves_the_weight_updates_that_trl_sends() -> None:
    client = (folder_of("trl") / "generation" / "vllm_client.py").read_text()
    served = " ".join(path.read_text() for path in (folder_of("vllm") / "entrypoints").rglob("*.py"))
    for route in ("init_weight_transfer_engine", "start_weight_update", "update_weights", "finish_weight_update"):
        assert route in client
        assert f'"/{route}"' in served


def test_unsloth_takes_what_we_pass_to_it() -> None:
    check(
        "unsloth_.py",
        "from_pretrained",
        methods(source("unsloth", "models/loader.py"), "FastLanguageModel", "from_pretrained"),
    )
    model = methods(source("unsloth", "models/llama.py"), "FastLlamaModel", "get_peft_model")
    check("unsloth_.py", "get_peft_model", model)


def test_unsloth_keeps_its_engine_where_we_look_for_it() -> None:
    stored = {
        node.attr
        for node in ast.walk(source("unsloth", "models/llama.py"))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    assert "vllm_engine" in stored


def test_unsloth_must_come_before_exactly_the_packages_that_we_check_for() -> None:
    lists = [
        ast.literal_eval(node.value)
        for node in ast.walk(source("unsloth", "_gpu_init.py"))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "critical_modules"
    ]
    assert {*lists[0]} == {"trl", "transformers", "peft"}


@pytest.mark.parametrize(
    "engine",
    [
        {"use_vllm": True, "vllm_mode": "colocate"},
        {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": "http://localhost:8000"},
    ],
)
def test_trl_takes_our_engine_arguments(engine: dict, tmp_path: Path) -> None:
    from trl import GRPOConfig

    config = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", bf16=False, **engine)
    assert {name: getattr(config, name) for name in engine} == engine
    written = {
        value
        for file in ("unsloth_.py", "vllm_.py")
        for node in ast.walk(ast.parse((BACKENDS / file).read_text()))
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(value := getattr(key, "value", None), str)
    }
    assert set(engine) <= written


@pytest.mark.parametrize("file", ["deployments/recipes/gpu.toml", "docs/gpu.md"])
def test_the_documented_server_is_the_one_that_trl_starts(file: str) -> None:
    from trl.scripts import vllm_serve

    text = (BACKENDS.parent.parent / file).read_text()
    start = text.index("vllm serve ")
    words = shlex.split(
        text[start : text.index("--max-logprobs -1", start) + 17].replace("\\\n", " ").replace("#", " ")
    )
    arguments = vllm_serve.ScriptArguments(model=words[2], max_model_len=1024, port=8000)
    command = vllm_serve.build_command(arguments)
    needed = command[command.index("--weight-transfer-config") :]
    assert words[-len(needed) :] == needed
    assert set(words) - {"vllm"} <= {*command, "--enable-scale-out"}


def test_accelerate_understands_the_command_that_starts_several_processes(tmp_path: Path) -> None:
    from accelerate.commands.launch import launch_command_parser

    line = child_command(LaunchConfig(processes=2), tmp_path)
    parsed = launch_command_parser().parse_args(line[line.index("accelerate.commands.launch") + 1 :])
    assert (parsed.num_processes, parsed.multi_gpu, parsed.module) == (2, True, True)
    assert (parsed.training_script, parsed.training_script_args) == ("tickerforge.training", [str(tmp_path)])
