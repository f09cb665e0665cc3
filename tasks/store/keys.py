"""The key of an artifact: one hash over everything that it is made from."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from tickerforge.tasks.store.manifest import ArtifactRef

KEY_LENGTH = 32


def artifact_key(stage: str, inputs: Mapping[str, Any], *, code: str, seed: int | None) -> str:
    """The key of what a stage makes from these inputs, as JSON-able values: 32 hexadecimal digits."""
    recipe = {"stage": stage, "inputs": dict(inputs), "code": code, "seed": seed}
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def described(value: Any, name: str) -> Any:
    """A JSON-able stand-in for one input; the content hash for an artifact."""
    match value:
        case ArtifactRef():
            return {"sha256": value.sha256}
        case BaseModel():
            return value.model_dump(mode="json")
        case None | str() | int() | float():
            return value
        case Mapping():
            return {str(key): described(item, f"{name}.{key}") for key, item in value.items()}
        case Sequence():
            return [described(item, name) for item in value]
    raise TypeError(f"input {name!r} of type {type(value).__name__} has no stable description for an artifact key")
