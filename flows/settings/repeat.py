"""The command line that runs a configuration again: what a report names under *What was run*."""

import json
import shlex
from datetime import date
from functools import reduce
from pathlib import Path

from tickerforge.flows.settings.config import PipelineConfig, dotted_keys

ELSEWHERE = ("training.launch.isolate", "training.launch.vllm_server")
"""Settings of the machine rather than of the run."""


def command_of(config: PipelineConfig) -> str:
    """`tickerforge run` with every setting that is not its default; of folders on this machine the name alone."""
    words = ["tickerforge", "run", "--stock", config.stock]
    if config.data is not None:
        words += ["--data", config.data.resolve().name]
    default = PipelineConfig()
    for key in dotted_keys():
        value = _at(config, key)
        if value != _at(default, key) and key not in ("stock", "data", *ELSEWHERE):
            words += ["--set", f"{key}={_written(value)}"]
    return shlex.join(words)


def _at(config: PipelineConfig, key: str) -> object:
    return reduce(getattr, key.split("."), config)


def _written(value: object) -> str:
    if isinstance(value, str):
        return Path(value).name if Path(value).is_absolute() or Path(value).is_dir() else value
    return value.isoformat() if isinstance(value, date) else json.dumps(value)
