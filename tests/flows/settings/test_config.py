import itertools
import shlex
from datetime import date
from functools import reduce
from pathlib import Path

import pytest

from tickerforge.flows.cli import options
from tickerforge.flows.errors import ConfigError
from tickerforge.flows.settings.config import (
    PipelineConfig,
    build_config,
    check_source,
    command_of,
    dotted_keys,
    evaluation_of,
    load_recipe,
    with_overrides,
)


def recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_a_recipe_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    config = load_recipe(recipe(tmp_path, 'stock = "MSFT"\n[training.grpo_1st]\nsteps = 7\n'))
    assert config.stock == "MSFT"
    assert config.training.grpo_1st.steps == 7
    assert config.training.grpo_2nd == PipelineConfig().training.grpo_2nd
    assert config.training.grpo_1st.group_size == PipelineConfig().training.grpo_1st.group_size


def test_set_wins_over_flags_and_flags_over_the_recipe_and_it_over_defaults(tmp_path: Path) -> None:
    path = recipe(tmp_path, "seed = 1\n[training]\nlora_rank = 8\nmax_seq_length = 512\n")
    config = build_config(
        recipe=path, flags={"training.lora_rank": 16, "seed": 2, "stock": None}, assignments=["seed=3"]
    )
    assert (config.seed, config.training.lora_rank, config.training.max_seq_length) == (3, 16, 512)
    assert config.stock == "AAPL"


@pytest.mark.parametrize(
    ("assignment", "read", "expected"),
    [
        ("training.grpo_1st.steps=20", lambda c: c.training.grpo_1st.steps, 20),
        ("training.sft.learning_rate=1e-4", lambda c: c.training.sft.learning_rate, 1e-4),
        ("training.trust_remote_code=true", lambda c: c.training.trust_remote_code, True),
        ("evaluation.max_windows=null", lambda c: c.evaluation.max_windows, None),
        ("stock=BRK-A", lambda c: c.stock, "BRK-A"),
        ("stock=1e5", lambda c: c.stock, "1E5"),
        ('training.model="Qwen/Qwen3-0.6B"', lambda c: c.training.model, "Qwen/Qwen3-0.6B"),
        ("data=some/folder", lambda c: c.data, Path("some/folder")),
    ],
)
def test_values_are_read_as_toml_or_json_or_else_as_text(assignment, read, expected) -> None:
    assert read(with_overrides(PipelineConfig(), [assignment])) == expected


@pytest.mark.parametrize("key", list(dotted_keys()))
def test_a_key_that_is_given_its_own_default_changes_nothing_beside_it(key: str) -> None:
    defaults = PipelineConfig()
    default = reduce(getattr, key.split("."), defaults)
    assert build_config(flags={key: default}) == defaults


def test_two_settings_that_only_fit_together_can_be_given_together() -> None:
    config = with_overrides(PipelineConfig(), ["features.train_fraction=0.85", "features.test_fraction=0.1"])
    assert config.features.train_fraction == 0.85


@pytest.mark.parametrize(
    ("assignment", "parts"),
    [
        ("training.grpo_1st.step=3", ["training.grpo_1st.step", "did you mean training.grpo_1st.steps"]),
        ("lora_rank=3", ["lora_rank", "did you mean training.lora_rank"]),
        ("training.lora_rank=0", ["training.lora_rank = 0", "at least 1 and at most 256"]),
        ("training.lora_rank=many", ["'many'", "a whole number"]),
        ("training.grpo_1st.loss_type=ppo", ["'ppo'", "one of dapo, dr_grpo, grpo, bnpo"]),
        ("training.sft.learning_rate=0", ["above 0"]),
        ("seed=-1", ["seed = -1", "at least 0"]),
        ("training=3", ["group of settings", "training.lora_rank"]),
        ("training.rejection.keep=20", ["keep must not exceed"]),
        ("seed", ["key.path=value"]),
        ("=3", ["key.path=value"]),
        ("stock=../../etc/x", ["'../../etc/x'", "not a ticker name"]),
    ],
)
def test_a_bad_setting_is_named_with_what_is_allowed(assignment: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        with_overrides(PipelineConfig(), [assignment])
    for part in parts:
        assert part in str(caught.value)


def test_every_fault_of_a_recipe_is_told_at_once_with_the_file(tmp_path: Path) -> None:
    path = recipe(tmp_path, "sed = 1\n[training]\nlora_rank = 0\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert "did you mean seed" in message
    assert "training.lora_rank = 0" in message
    assert str(path) in message


@pytest.mark.parametrize("content", [b"stock = [", b"\xff\xfe\x00"])
def test_a_recipe_that_is_no_toml_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"recipe\.toml is not valid TOML"):
        load_recipe(path)


def test_a_missing_recipe_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml"):
        load_recipe(tmp_path / "gone.toml")


def test_a_synthetic_market_must_not_go_by_a_real_tickers_name() -> None:
    check_source(with_overrides(PipelineConfig(), ["stock=DEMO"]))
    with pytest.raises(ConfigError, match="--data FOLDER"):
        check_source(with_overrides(PipelineConfig(), ["stock=AAPL"]))


def test_the_form_of_the_ui_offers_choices_bounds_and_descriptions() -> None:
    schema = PipelineConfig.model_json_schema()
    training = schema["$defs"]["TrainingConfig"]["properties"]
    assert training["backend"]["enum"] == ["auto", "transformers", "unsloth"]
    assert training["lora_rank"]["maximum"] == 256
    undescribed = [
        f"{name}.{field}"
        for name, model in schema["$defs"].items()
        for field, properties in model["properties"].items()
        if "description" not in properties and "$ref" not in properties
    ]
    assert undescribed == []


def test_a_configuration_survives_the_json_that_deployments_keep() -> None:
    config = with_overrides(PipelineConfig(), ["data=x", "training.grpo_1st.steps=3"])
    assert PipelineConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("name", ["demo", "gpu", "smollm2", "stocknet"])
def test_a_recipe_that_is_shipped_loads(name: str) -> None:
    assert load_recipe(Path(__file__).parents[3] / "deployments" / "recipes" / f"{name}.toml").training.model


def test_the_demo_recipe_is_valid() -> None:
    config = load_recipe(Path(__file__).parents[3] / "deployments" / "recipes" / "demo.toml")
    check_source(config)
    assert config.training.model == "tiny"


def test_the_cut_off_of_the_base_model_holds_where_no_other_date_is_given(tmp_path: Path) -> None:
    path = recipe(tmp_path, "[training]\nmodel_cutoff = 2023-12-31\n")
    config = load_recipe(path)
    assert evaluation_of(config).test_after == date(2023, 12, 31)
    given = build_config(recipe=path, flags={options.KEYS["test_after"]: "2024-06-30"})
    assert evaluation_of(given).test_after == date(2024, 6, 30)
    assert evaluation_of(PipelineConfig()).test_after is None


def test_the_cut_off_of_a_recipes_model_does_not_hold_for_another_model(tmp_path: Path) -> None:
    path = recipe(tmp_path, '[training]\nmodel = "org/first"\nmodel_cutoff = 2023-12-31\n')
    assert build_config(recipe=path).training.model_cutoff == date(2023, 12, 31)
    assert build_config(recipe=path, flags={"training.model": "org/first"}).training.model_cutoff == date(2023, 12, 31)
    assert build_config(recipe=path, flags={"training.model": "org/second"}).training.model_cutoff is None
    other = ["training.model=org/second", "training.model_cutoff=2025-01-01"]
    assert build_config(recipe=path, assignments=other[:1]).training.model_cutoff is None
    assert build_config(recipe=path, assignments=other).training.model_cutoff == date(2025, 1, 1)
    assert build_config(recipe=path, assignments=["training.model_cutoff=null"]).training.model_cutoff is None


def test_a_cut_off_that_is_no_date_is_refused_with_what_is_wanted() -> None:
    with pytest.raises(ConfigError, match=r"evaluation.test_after = 'soon': must be a date, YYYY-MM-DD \(or null\)"):
        build_config(flags={"evaluation.test_after": "soon"})


@pytest.mark.parametrize(
    "assignments",
    [
        [],
        ["stock=MSFT", "data=prices", "seed=3"],
        ["training.grpo_2nd.learning_rate=0.0002", "training.sampling.constrained=true", "synthetic.phi=0.5"],
        ["evaluation.test_after=2023-12-31", "training.model=Qwen/Qwen2.5-0.5B-Instruct", "training.grpo_1st.steps=7"],
    ],
)
def test_the_command_that_a_report_names_makes_the_same_configuration(assignments: list[str]) -> None:
    config = with_overrides(PipelineConfig(), assignments)
    program, verb, *words = shlex.split(command_of(config))
    assert (program, verb) == ("tickerforge", "run")
    flags = {word: value for word, value in itertools.pairwise(words) if word in ("--stock", "--data")}
    settings = [value for word, value in itertools.pairwise(words) if word == "--set"]
    assert len(words) == 2 * (len(flags) + len(settings))
    read = build_config(flags={name.removeprefix("--"): value for name, value in flags.items()}, assignments=settings)
    assert read == config


def test_the_command_in_a_report_names_no_folder_of_this_machine_and_nothing_of_how_it_was_started() -> None:
    given = ["stock=MSFT", "data=/home/me/prices", "training.model=/home/me/models/own", "training.launch.isolate=true"]
    config = with_overrides(PipelineConfig(), given)
    assert command_of(config) == "tickerforge run --stock MSFT --data prices --set training.model=own"
    here = with_overrides(PipelineConfig(), ["data=."])
    assert command_of(here) == shlex.join(["tickerforge", "run", "--stock", here.stock, "--data", Path.cwd().name])
