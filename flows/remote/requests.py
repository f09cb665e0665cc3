"""What a heavy stage is asked for and what it answers: small enough to travel between machines as JSON."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tickerforge.features.config import FrozenModel
from tickerforge.features.stages import HeavyStage
from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.tasks.models.adapters import BaseModelRef
from tickerforge.tasks.registry.versions import RegisteredAdapter
from tickerforge.tasks.store.artifacts import ArtifactRef

# Where an artifact lies and whether it was found finished differs between machines and attempts; its hash does not.
_INCIDENTAL = frozenset({"path", "location", "cached", "meta"})


def content_digest(parameters: object) -> str:
    """A hash of what parameters mean: of artifacts and models their content, not where they lie."""
    text = json.dumps(_content(parameters), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _content(value: object) -> object:
    match value:
        case dict():
            return {name: _content(item) for name, item in value.items() if name not in _INCIDENTAL}
        case list() | tuple():
            return [_content(item) for item in value]
    return value


Adapter = ArtifactRef | RegisteredAdapter | Path


class StageRequest(FrozenModel):
    """One heavy stage with its inputs.

    `windows` is needed by all but `base_model` and `sft`, `answers` by `sft` alone, `model` names whose `forecasts`
    are asked for. `adapter` is the one to start from or to ask; without it a fresh one, or the bare base model. Without
    `base_model` the one is taken that the adapter's card names.
    """

    stage: HeavyStage
    config: PipelineConfig
    windows: ArtifactRef | None = None
    base_model: BaseModelRef | None = None
    adapter: Adapter | None = None
    answers: ArtifactRef | Path | None = None
    model: str = ""

    @property
    def name(self) -> str:
        """What this request is called in the log and among the results of a ticker: `sft`, `forecasts base`."""
        return f"{self.stage} {self.model}".strip()

    @property
    def key(self) -> str:
        """The name with a hash of the inputs: equal where the same is asked for, wherever its artifacts lie."""
        return f"{self.name} {content_digest(self.model_dump(mode='json'))}"


StageOutput = ArtifactRef | BaseModelRef


class StageAnswer(FrozenModel):
    """What heavy stages made, in the order of the requests, or why one refuses its inputs: it would do so again."""

    results: tuple[StageOutput, ...] = ()
    refusal: str = ""


class HeavyStages(Protocol):
    """Somebody who runs heavy stages."""

    def run(self, requests: Sequence[StageRequest]) -> list[StageOutput]:
        """Run stages that do not need each other, or find them done; results in the order of the requests."""
        ...
