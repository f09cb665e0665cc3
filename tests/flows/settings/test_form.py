"""The fields of a deployment's form: the same configuration and the same messages as on the command line."""

from pathlib import Path

import pytest

from tickerforge.deployments.prefect.entries import PREFECT_FILE
from tickerforge.flows.errors import ConfigError
from tickerforge.flows.settings.config import PipelineConfig, build_config, load_recipe, with_overrides
from tickerforge.flows.settings.form import DEFAULT_RECIPE, config_of_form, overrides_of, recipe_like, recipes

RECIPES = PREFECT_FILE.parent / "recipes"


def test_empty_fields_are_the_defaults() -> None:
    assert config_of_form(stock="", model="", data="") == PipelineConfig()


def test_the_fields_come_after_the_recipe_and_the_lines_after_the_fields() -> None:
    config = config_of_form(
        recipe="demo",
        stock="DEMO",
        model="smollm2",
        warm_start="champion",
        data="prices",
        overrides="# a remark\n\ntraining.grpo_1st.steps = 7\nlora-rank = 8\n--test-after=2026-01-31\n"
        "training.sampling.samples=4\ncuda_devices = 0,1",
    )
    assert config == build_config(
        recipe=RECIPES / "demo.toml",
        flags={"stock": "DEMO", "training.model": "smollm2", "warm_start": "champion", "data": Path("prices")},
        assignments=[
            *("training.grpo_1st.steps=7", "training.lora_rank=8", "evaluation.test_after=2026-01-31"),
            *("training.sampling.samples=4", "cuda_devices=0,1"),
        ],
    )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("training.grpo_1st.step = 3", "did you mean training.grpo_1st.steps"),
        ("lora-rank = 0", "training.lora_rank = 0: must be a whole number, at least 1"),
        ("faster please", "is not a setting: write key.path=value"),
        ("cuda-devices = 0;rm", "give GPU numbers separated by commas, such as 0,1"),
    ],
)
def test_a_bad_line_has_the_message_of_the_command_line(line: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config_of_form(overrides=f"seed = 1\n{line}")


def test_an_unknown_recipe_is_refused_with_those_that_exist() -> None:
    assert recipes() == (DEFAULT_RECIPE, "demo", "gpu", "smollm2", "stocknet")
    with pytest.raises(ConfigError, match="unknown recipe \\.\\./demo: use one of default, demo, gpu"):
        config_of_form(recipe="../demo")


@pytest.mark.parametrize("name", ["demo", "gpu", "smollm2", "stocknet"])
def test_the_lines_of_a_configuration_make_it_again_and_its_recipe_is_found(name: str) -> None:
    config = with_overrides(load_recipe(RECIPES / f"{name}.toml"), ["evaluation.test_after=2026-01-31"])
    assert config_of_form(overrides=overrides_of(config)) == config
    assert recipe_like(config, without=frozenset()) == DEFAULT_RECIPE
    assert recipe_like(config, without={"evaluation.test_after"}) == name
