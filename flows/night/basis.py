"""What a ticker's night depends on: a night with the same basis as the one before would repeat it."""

import hashlib
import json
from functools import cache

from tickerforge.features.pooling import POOL
from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.models.adapters import base_model_identity
from tickerforge.tasks.models.base_models import MODEL_LIBRARIES
from tickerforge.tasks.outputs.evaluate import COMPARISON_LIBRARIES
from tickerforge.tasks.registry.versions import aliases_of, model_name
from tickerforge.tasks.store.artifacts import RECORDED_PACKAGES, ArtifactRef, code_version
from tickerforge.tasks.tracking.client import as_tracking_error, connect

_PACKAGES = tuple(f"tickerforge.{name}" for name in ("features", "training", "evaluation", "tasks", "flows"))

Versions = dict[str, dict[str, str]]


def registered_versions(stock: str) -> Versions:
    """Return the registered versions of a stock, and of the adapter of all stocks, by ticker and alias.

    Raises:
        TrackingError: If MLflow does not answer.
    """
    tracking = connect(Workspace.current())
    with as_tracking_error(tracking.uri):
        return {name: aliases_of(tracking, model_name(name)) for name in (stock, POOL)}


def basis_of(config: PipelineConfig, *, bars: ArtifactRef, windows: ArtifactRef, versions: Versions) -> str:
    """Return a hash of a ticker's prices, settings, base model and versions, and of the code and its libraries."""
    model = base_model_identity(config.training.model)
    parts = [config.model_dump(mode="json"), model, bars.sha256, windows.sha256, versions, _code()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def _code() -> str:
    libraries = {*MODEL_LIBRARIES, *COMPARISON_LIBRARIES, *RECORDED_PACKAGES}
    return code_version(*_PACKAGES, libraries=tuple(sorted(libraries)))
