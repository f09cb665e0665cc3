"""The command line that runs a configuration again: what a report names under *What was run*."""

import json
import shlex
from datetime import date
from pathlib import Path

from flows.config import PipelineConfig, dotted_keys

FLAGS = {"stock": "--stock", "data": "--data"}
ELSEWHERE = ("training.launch.",)
"""Settings of the machine rather than of the run."""


def command_of(config: PipelineConfig) -> str:
    """`tickerforge run` with every setting that is not its default; of the data folder the name alone."""
    words = ["tickerforge", "run"]
    default = PipelineConfig()
    for key in dotted_keys():
        value = _at(config, key)
        if value == _at(default, key) or key.startswith(ELSEWHERE):
            continue
        if flag := FLAGS.get(key):
            words += [flag, value.name if isinstance(value, Path) else str(value)]
        else:
            words += ["--set", f"{key}={_written(value)}"]
    return shlex.join(words)


def _at(config: object, key: str) -> object:
    for name in key.split("."):
        config = getattr(config, name)
    return config


def _written(value: object) -> str:
    if isinstance(value, str | date | Path):
        return str(value)
    return json.dumps(list(value) if isinstance(value, tuple) else value)
