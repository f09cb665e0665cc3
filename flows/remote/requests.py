"""Requests to heavy stages and their answers: small enough to travel between machines as JSON."""

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
from tickerforge.training.errors import AdapterError, BackendUnavailable, BaseModelError

# With these errors a stage refuses its inputs; another worker may accept them.
REFUSALS = (AdapterError, BackendUnavailable, BaseModelError)
# The path of an artifact and whether it was cached differ between machines and attempts; its hash does not.
_INCIDENTAL = frozenset({"path", "location", "cached", "meta"})


def content_digest(parameters: object) -> str:
    """Return a hash of what parameters mean; artifacts and models count by content, not by location."""
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

    All stages but `base_model`, `prime` and `sft` need `windows`; only `sft` needs `answers`; `model` names the model
    whose `forecasts` are requested. `adapter` is the adapter to continue from, or to ask for forecasts; without it, a
    stage trains a fresh adapter or asks the bare base model. Without `base_model`, the adapter's card names the base
    model.
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
        """Name of this request in the log and among the results of a ticker: `sft`, `forecasts base`."""
        return f"{self.stage} {self.model}".strip()

    @property
    def key(self) -> str:
        """Name with a hash of the inputs: equal for equal requests, wherever their artifacts lie."""
        return f"{self.name} {content_digest(self.model_dump(mode='json'))}"


StageOutput = ArtifactRef | BaseModelRef


class StageAnswer(FrozenModel):
    """Outputs of heavy stages in the order of the requests, or the reason why a stage refuses its inputs."""

    results: tuple[StageOutput, ...] = ()
    refusal: str = ""


class HeavyStages(Protocol):
    """A runner of heavy stages."""

    def run(self, requests: Sequence[StageRequest]) -> list[StageOutput]:
        """Run independent stages, or find them finished; results in the order of the requests."""
        ...
