"""The settings that a person gives in the form of a deployment, as a configuration."""

import json
from collections.abc import Iterator, Set
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Literal

from tickerforge.flows.errors import ConfigError
from tickerforge.flows.settings.config import PipelineConfig, build_config, dotted_keys, value_at

DEFAULT_RECIPE = "default"
HIDDEN = ("config", "heavy_stages", "exchange", "batch_size")
"""Parameters of the flows that the form leaves out; a deployment and a caller of the API may give them."""

LABELS = {
    "stock": "Stock; ALL: one adapter for all stocks of the folder together",
    "tickers": "Stocks; none: all of the folder",
    "recipe": "Recipe: the settings to start from",
    "model": "Model: a Hugging Face name or a folder; empty: that of the recipe",
    "data": "Data: the folder of price files; empty: the synthetic market",
    "update": "Update: the source from which the price files are updated first",
    "retrain": "Retrain: every stock, only those that drift, or each one weekly",
    "warm_start": "Warm start: none, the stock's champion, or the adapter of all stocks (pooled)",
    "overrides": "Overrides: lines key = value as with --set; also lora-rank, max-seq-length, "
    "gpu-memory-utilization, cuda-devices, test-after, backend",
}
"""Labels of the fields. The UI shows a description as a line of its own, for which the form has no room."""

WarmStart = Literal["none", "champion", "pooled"]

# Names of options of `tickerforge run` that are as good as the setting behind them.
_OPTIONS = {
    "max-seq-length": "training.max_seq_length",
    "lora-rank": "training.lora_rank",
    "gpu-memory-utilization": "training.gpu_memory_utilization",
    "cuda-devices": "cuda_devices",
    "test-after": "evaluation.test_after",
    "backend": "training.backend",
}
_KEYS = {"model": "training.model"}


def recipes() -> tuple[str, ...]:
    """Return the names of the recipes that come with the package, `default` first."""
    names = sorted(path.stem for path in _folder().glob("*.toml"))
    return (DEFAULT_RECIPE, *(name for name in names if name != "tickers"))


def config_of_form(*, recipe: str = DEFAULT_RECIPE, overrides: str = "", **flags: object) -> PipelineConfig:
    """Join the fields of a form; the later layer wins: defaults, recipe, fields, overrides.

    Args:
        recipe: Name of a recipe of the package.
        overrides: Lines `key = value`; empty lines and lines that begin with `#` are left out.
        flags: Settings by their names; empty ones were not given.

    Raises:
        ConfigError: If the recipe is unknown, or a line is not a setting, with the message of `--set`.
    """
    if recipe not in recipes():
        raise ConfigError(f"unknown recipe {recipe}: use one of {', '.join(recipes())}")
    path = None if recipe == DEFAULT_RECIPE else _folder() / f"{recipe}.toml"
    given = {_KEYS.get(name, name): value for name, value in flags.items() if value not in (None, "")}
    return build_config(recipe=path, flags=given, assignments=list(_assignments(overrides)))


def overrides_of(config: PipelineConfig, *, without: Set[str] = frozenset()) -> str:
    """Return the lines that make a configuration from the default one.

    Args:
        config: The configuration.
        without: Settings that have a field of their own.
    """
    return "\n".join(f"{key} = {_written(value)}" for key, value in _changed(config, without).items())


def recipe_like(config: PipelineConfig, *, without: Set[str]) -> str:
    """Return the recipe of the package that has the settings of a configuration, apart from those `without`."""
    wanted = _changed(config, without)
    found = (name for name in recipes() if _changed(config_of_form(recipe=name), without) == wanted)
    return next(found, DEFAULT_RECIPE)


def _changed(config: PipelineConfig, without: Set[str]) -> dict[str, object]:
    default = PipelineConfig()
    values = {key: value_at(config, key) for key in dotted_keys() if key not in without}
    return {key: value for key, value in values.items() if value != value_at(default, key)}


def _assignments(overrides: str) -> Iterator[str]:
    for line in overrides.splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        key, separator, value = text.partition("=")
        name = key.strip().removeprefix("--").replace("_", "-")
        yield f"{_OPTIONS.get(name, key.strip())}{separator}{value.strip()}"


def _written(value: object) -> str:
    text = value.isoformat() if isinstance(value, date) else str(value) if isinstance(value, Path) else value
    return json.dumps(text)


def _folder() -> Path:
    return Path(str(files("tickerforge.deployments"))) / "recipes"
