"""The primed base model: an adapter that knows the answer format, made once and shared by all tickers."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import task

from tickerforge.features.atomic import write_atomically
from tickerforge.features.config import FeatureConfig
from tickerforge.features.stages import PRIME
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.base.paths import ADAPTER_FOLDER
from tickerforge.tasks.base.progress import progress_reporter
from tickerforge.tasks.base.retries import TASK_OPTIONS
from tickerforge.tasks.models.adapters import BaseModelRef, PrimeRecord
from tickerforge.tasks.models.train import MODEL_LIBRARIES, MODEL_MODULES, stage_inputs
from tickerforge.tasks.store.artifacts import ArtifactRef, Scalar, Store, code_version
from tickerforge.training.config import TrainingConfig

NOTES_FILE = "notes.json"
"""What an interrupted priming has already done."""


@task(name="prime", **TASK_OPTIONS)
def prime_base_model(
    base_model: BaseModelRef, *, config: TrainingConfig, features: FeatureConfig, store: Store
) -> ArtifactRef:
    """Ask the base model for answers, and teach it their format if too few are valid.

    Args:
        base_model: Result of `prepare_base_model`.
        config: Settings; `config.prime` says what is asked and learned.
        features: How windows become prompts.
        store: Store of the artifact.

    Returns:
        Artifact of the stage `prime`. Its meta holds `primed`; if that is true, the artifact holds `adapter/` and
        `metrics.jsonl`, and its meta what `PrimeRecord` describes.

    Raises:
        TrainingError: See `training.stages.run_sft`.
    """
    from tickerforge.training.prime import priming_windows, probe, run_prime

    def build(folder: Path) -> Mapping[str, Scalar]:
        log, notes = run_logger(__name__), folder / NOTES_FILE
        done: dict[str, Any] = json.loads(notes.read_bytes()) if notes.is_file() else {}
        windows = priming_windows(config, features=features)
        limit = config.prime.min_valid_rate
        with progress_reporter() as report:
            asked: dict[str, Any] = {"base_model": base_model.location, "config": config, "on_progress": report}
            if "before" not in done:
                before = probe(windows, adapter=None, at_least=limit, **asked)
                found = f"prime: {before.valid} of {before.drawn} answers of {base_model.model} are valid"
                if before.valid_rate >= limit:
                    log.info("%s: it needs no priming", found)
                    return {"primed": False, "valid_before": before.valid_rate}
                log.info("%s: teaching it the format with %d examples", found, len(windows.learned))
                done["before"] = before.valid_rate
                write_atomically(notes, json.dumps(done))
            if "steps" not in done:
                result = run_prime(windows, features=features, out_dir=folder, **asked)
                done |= {"steps": result.steps, "seconds": round(result.seconds, 3)}
                write_atomically(notes, json.dumps(done))
            after = probe(windows, adapter=folder / ADAPTER_FOLDER, **asked)
        notes.unlink()
        record = PrimeRecord(
            valid_before=done["before"],
            valid_after=after.valid_rate,
            crps=after.crps if math.isfinite(after.crps) else None,
        )
        log.info("prime: %s", record.summary)
        if after.valid_rate < limit:
            log.warning(
                "prime: fewer than %.0f %% of the answers are valid: raise training.prime.examples or "
                "training.prime.epochs, or hold forecasts to the format with training.sampling.constrained=true",
                100 * limit,
            )
        return {"primed": True, **record.model_dump(), "steps": done["steps"], "seconds": done["seconds"]}

    shown = {"train_fraction", "test_fraction"}
    sampled = config.sampling.model_dump(include={"temperature", "top_p"})
    inputs = stage_inputs(PRIME, base_model, None, config) | {
        "features": features.model_dump(mode="json", exclude=shown),
        "sampling": sampled,
    }
    return store.build(
        PRIME.name,
        inputs,
        build,
        code=code_version("tickerforge.features.synthetic", *MODEL_MODULES, libraries=MODEL_LIBRARIES),
        seed=config.prime.seed,
        resumable=True,
    )


def prime_record(artifact: ArtifactRef | None) -> PrimeRecord | None:
    """Return what priming did, from its artifact; `None` if the base model was not primed."""
    if artifact is None or not artifact.meta.get("primed"):
        return None
    return PrimeRecord.model_validate({name: artifact.meta[name] for name in PrimeRecord.model_fields})
