"""The configuration of a run: defaults, then a recipe, then named flags, then `key.path=value`."""

import difflib
import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import reduce
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from tickerforge.evaluation.core.config import EvaluationConfig, GateConfig
from tickerforge.features.config import (
    AnswerStyle,
    FeatureConfig,
    FrozenModel,
    QualityConfig,
    SyntheticConfig,
    UpdateSource,
)
from tickerforge.features.pooling import POOL
from tickerforge.features.prices.tickers import spelled
from tickerforge.flows.errors import ConfigError
from tickerforge.training.config import TINY, TrainingConfig

SHOWN_CHARACTERS = 80
_DEVICES = re.compile(r"-1|[A-Za-z0-9-]+(,[A-Za-z0-9-]+)*")
TICKER_PATTERN = r"^[A-Za-z0-9_^=&-][A-Za-z0-9._^=&/-]{0,31}$"
# Settings of the machine, not of the run: a command that repeats the run elsewhere leaves them out.
_MACHINE_SETTINGS = ("cuda_devices", "training.model_wheel", "training.launch.isolate", "training.launch.vllm_server")


class PipelineConfig(FrozenModel):
    """Everything that one run of the pipeline depends on."""

    stock: str = Field(
        default="AAPL",
        description=f"Ticker to train; {POOL}: one adapter for all tickers of the data folder together.",
        json_schema_extra={"pattern": TICKER_PATTERN},
    )
    data: Path | None = Field(
        default=None,
        description="Folder with one price file per ticker, or one file with all tickers. Without it, the run uses the "
        "synthetic market, and `stock` must be its ticker.",
    )
    update: UpdateSource = Field(
        default="none",
        description="Source from which nights, daily forecasts and scheduled runs first update the files in data.",
    )
    seed: int = Field(default=0, ge=0, le=2_147_483_647, description="Seed of every stage.")
    warm_start: Literal["none", "champion", "pooled"] = Field(
        default="none",
        description="Adapter from which the first stage and the fine-tuning start. none: a fresh one; champion: the "
        "current champion, else the adapter of all tickers; pooled: the adapter of all tickers. An adapter that does "
        "not fit the run is skipped.",
    )
    cuda_devices: str | None = Field(
        default=None, description="GPUs to use, as in CUDA_VISIBLE_DEVICES: 0,1. By default those of the worker."
    )
    features: FeatureConfig = Field(default=FeatureConfig(), description="Windows, indicators, units and prompts.")
    quality: QualityConfig = Field(default=QualityConfig(), description="Requirements for the prices in data.")
    synthetic: SyntheticConfig = Field(default=SyntheticConfig(), description="The market without a data folder.")
    training: TrainingConfig = Field(default=TrainingConfig(), description="Base model and stages.")
    evaluation: EvaluationConfig = Field(default=EvaluationConfig(), description="How forecasts are compared.")
    gate: GateConfig = Field(default=GateConfig(), description="When a challenger becomes champion.")

    @property
    def prompts(self) -> FeatureConfig:
        """The settings of windows and prompts, with the style of answers that suits the base model."""
        if self.features.answer_style is not None:
            return self.features
        style: AnswerStyle = "list" if self.training.model == TINY else "numbered"
        return self.features.model_copy(update={"answer_style": style})

    @field_validator("cuda_devices")
    @classmethod
    def _devices_are_a_list(cls, devices: str | None) -> str | None:
        if devices is not None and not _DEVICES.fullmatch(devices):
            raise ValueError(f"{devices!r}: give GPU numbers separated by commas, such as 0,1")
        return devices

    @field_validator("stock")
    @classmethod
    def _stock_can_name_a_file(cls, stock: str) -> str:
        return spelled(stock)


def check_source(config: PipelineConfig) -> None:
    """Refuse a stock without prices: a model of the synthetic market must not have a real ticker's name.

    Raises:
        ConfigError: If there is no data folder and the stock is not the synthetic one. For a pool: see `pool_folder`.
    """
    if config.stock == POOL:
        pool_folder(config)
    elif config.data is None and config.stock != config.synthetic.ticker:
        raise ConfigError(
            f"no prices for {config.stock}: give --data FOLDER with {config.stock}.csv in it, or use the synthetic "
            f"market: --stock {config.synthetic.ticker}."
        )


def pool_folder(config: PipelineConfig) -> Path:
    """Return the folder whose tickers are pooled.

    Raises:
        ConfigError: If there is none, or if the windows of different tickers would not be comparable.
    """
    if config.data is None:
        raise ConfigError(f"--stock {POOL} trains on all tickers of a folder together: give --data FOLDER")
    if config.features.units != "sigma":
        raise ConfigError(
            f"--stock {POOL} needs features.units = 'sigma': z-scores of different tickers are not comparable"
        )
    return config.data


def use_devices(config: PipelineConfig) -> None:
    """Restrict torch, which is not imported yet, to the configuration's GPUs."""
    if config.cuda_devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = config.cuda_devices


def evaluation_of(config: PipelineConfig) -> EvaluationConfig:
    """Return how forecasts are compared; without `test_after`, the cut-off of the base model takes its place."""
    given = config.evaluation
    return given if given.test_after else given.model_copy(update={"test_after": config.training.model_cutoff})


def build_config(
    *, recipe: Path | None = None, flags: Mapping[str, object] | None = None, assignments: Sequence[str] = ()
) -> PipelineConfig:
    """Join the layers of configuration; the later layer wins: defaults, `recipe`, `flags`, `assignments`.

    The recipe's `training.model_cutoff` is dropped when a later layer names another base model.

    Args:
        recipe: TOML file with the structure of `PipelineConfig`.
        flags: Values by dotted key; `None` means that the flag was not given.
        assignments: `key.path=value`, with the value in TOML or JSON; anything else is a plain string.

    Raises:
        ConfigError: If the recipe cannot be read, a key does not exist or a value is out of range.
    """
    settings: dict[str, Any] = _read_recipe(recipe) if recipe else {}
    of_recipe = settings.get("training")
    model, cut_off = None, None
    if isinstance(of_recipe, dict):
        model, cut_off = of_recipe.get("model"), of_recipe.pop("model_cutoff", None)
    for key, value in (flags or {}).items():
        if value is not None:
            _put(settings, key, value)
    _assign(settings, assignments)
    if cut_off is not None and settings["training"].get("model") == model:
        settings["training"].setdefault("model_cutoff", cut_off)
    return _validated(settings, origin=f" (in {recipe} or on the command line)" if recipe else "")


def load_recipe(path: Path) -> PipelineConfig:
    """Read a recipe: a TOML file with the structure of `PipelineConfig`; missing keys keep their defaults.

    Raises:
        ConfigError: If the file cannot be read, a key does not exist or a value is out of range.
    """
    return _validated(_read_recipe(path), origin=f" (in {path})")


def with_overrides(config: PipelineConfig, assignments: Sequence[str]) -> PipelineConfig:
    """Return `config` with some keys changed, for example `["training.grpo_1st.steps=20", "stock=MSFT"]`.

    Raises:
        ConfigError: If an assignment has no `=`, a key does not exist or a value is out of range.
    """
    settings = config.model_dump(mode="python")
    _assign(settings, assignments)
    return _validated(settings)


def dotted_keys(model: type[BaseModel] = PipelineConfig, *, prefix: str = "") -> Iterator[str]:
    """Yield every key that holds a value, such as `training.grpo_1st.steps`."""
    for name, field in model.model_fields.items():
        nested = _nested_model(field)
        if nested is None:
            yield f"{prefix}{name}"
        else:
            yield from dotted_keys(nested, prefix=f"{prefix}{name}.")


def command_of(config: PipelineConfig) -> str:
    """Return the `tickerforge run` command that repeats a run: every setting that differs from its default.

    Of a folder on this machine, only the name appears.
    """
    words = ["tickerforge", "run", "--stock", config.stock]
    if config.data is not None:
        words += ["--data", config.data.resolve().name]
    default = PipelineConfig()
    for key in dotted_keys():
        value = value_at(config, key)
        if value != value_at(default, key) and key not in ("stock", "data", *_MACHINE_SETTINGS):
            words += ["--set", f"{key}={_written(value)}"]
    return shlex.join(words)


def value_at(config: PipelineConfig, key: str) -> object:
    """Return the value of a setting by its dotted key."""
    return reduce(getattr, key.split("."), config)


def _written(value: object) -> str:
    if isinstance(value, str):
        return Path(value).name if Path(value).is_absolute() or Path(value).is_dir() else value
    return value.isoformat() if isinstance(value, date) else json.dumps(value)


def _nested_model(field: FieldInfo) -> type[BaseModel] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _field_at(path: Sequence[str]) -> FieldInfo | None:
    """Return the field at a dotted key, or `None` if there is none."""
    model: type[BaseModel] | None = PipelineConfig
    field: FieldInfo | None = None
    for part in path:
        if model is None or part not in model.model_fields:
            return None
        field = model.model_fields[part]
        model = _nested_model(field)
    return field


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {path}: {error.strerror or error}. Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the recipe {path} is not valid TOML: {error}. Fix it there and try again.") from error


def _assign(settings: dict[str, Any], assignments: Sequence[str]) -> None:
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"{assignment!r} is not a setting: write key.path=value, e.g. training.grpo_1st.steps=20")
        path = key.strip().split(".")
        field = _field_at(path)
        if field is None:
            raise ConfigError(_unknown(key.strip()))
        if _nested_model(field) is not None:
            raise ConfigError(f"{key.strip()} is a group of settings: set one of them, {_members(key.strip())}")
        _put(settings, key.strip(), text.strip() if field.annotation is str and text[:1] not in "\"'" else _value(text))


def _put(settings: dict[str, Any], key: str, value: object) -> None:
    *parents, leaf = key.split(".")
    for parent in parents:
        below = settings.setdefault(parent, {})
        if not isinstance(below, dict):
            raise ConfigError(f"{parent} must be a group of settings, not {_shown(below)}")
        settings = below
    settings[leaf] = value


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        pass
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text.strip()


def _validated(settings: Mapping[str, Any], *, origin: str = "") -> PipelineConfig:
    try:
        return PipelineConfig.model_validate(settings)
    except ValidationError as error:
        problems = [_problem(details) for details in error.errors(include_url=False)]
        raise ConfigError("\n".join(problem + origin for problem in problems)) from error


def _problem(details: Mapping[str, Any]) -> str:
    path = [str(part) for part in details["loc"]]
    key = ".".join(path)
    if details["type"] == "extra_forbidden":
        return _unknown(key)
    field = _field_at(path)
    reason = str(details["msg"]).removeprefix("Value error, ")
    if field is None or _nested_model(field) is not None or details["type"] == "value_error":
        return f"{key or 'configuration'}: {reason}"
    return f"{key} = {_shown(details['input'])}: must be {allowed(field)}"


def _shown(value: object) -> str:
    text = repr(str(value)) if isinstance(value, Path) else repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."


def _unknown(key: str) -> str:
    keys = list(dotted_keys())
    near = difflib.get_close_matches(key, keys, n=3, cutoff=0.75)
    near += [other for other in keys if other.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1] and other not in near]
    hint = f"did you mean {' or '.join(near[:4])}?" if near else f"the groups are {_members('')}"
    return f"unknown setting {key}: {hint}"


def _members(key: str) -> str:
    start = f"{key}." if key else ""
    return ", ".join(dict.fromkeys(start + k[len(start) :].split(".")[0] for k in dotted_keys() if k.startswith(start)))


_BOUNDS: tuple[tuple[type, str, str], ...] = (
    (Ge, "ge", "at least"),
    (Gt, "gt", "above"),
    (Le, "le", "at most"),
    (Lt, "lt", "below"),
    (MultipleOf, "multiple_of", "a multiple of"),
)


def allowed(field: FieldInfo) -> str:
    """Describe what a field accepts: `a whole number, at least 1 and at most 256`."""
    annotation = field.annotation
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(annotation))
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)] or [annotation]
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    names |= {date: "a date, YYYY-MM-DD"}
    words = " or ".join(names.get(kind, getattr(kind, "__name__", str(kind))) for kind in kinds)
    bounds = [
        f"{phrase} {getattr(constraint, attribute)}"
        for constraint in field.metadata
        for kind, attribute, phrase in _BOUNDS
        if isinstance(constraint, kind)
    ]
    optional = " (or null)" if type(None) in get_args(annotation) else ""
    return (f"{words}, {' and '.join(bounds)}" if bounds else words) + optional
