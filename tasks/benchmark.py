"""Stored pieces of the benchmark on known markets: the best attainable error, and what a model attained."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from evaluation.attained import Attained, attained
from evaluation.compare import select_windows
from evaluation.config import EvaluationConfig
from evaluation.contracts import Floats
from evaluation.optima import prompt_optimum
from features.config import FeatureConfig, SyntheticConfig
from features.prompts import shown_numbers
from features.synthetic import market
from features.units import to_model_units
from features.windows import build_windows
from tasks.paths import FORECASTS_FILE
from tasks.preprocess import read_windows
from tasks.store import ArtifactRef, Scalar, Store, code_version

FITTED_SESSIONS, SCORED_SESSIONS = 100_300, 40_000
FIT_SEED, SCORE_SEED = 2_000_000, 3_000_000
OPTIMUM_FILE = "optimum.json"


def attainable(process: SyntheticConfig, *, features: FeatureConfig, store: Store) -> tuple[float, str]:
    """MSE* of a market: the least error over persistence's of a predictor that sees what prompts show.

    Fitted on some 100,000 windows of a stretch of the market and scored on another; kept in the store.

    Args:
        process: The market; its length and seed do not count.
        features: What prompts show.
        store: Where it is kept.

    Returns:
        The ratio, and the name of the predictor.
    """
    relevant = process.model_dump(mode="json", exclude={"ticker", "sessions", "seed"})

    def build(folder: Path) -> Mapping[str, Scalar]:
        fitted, scored = (
            _sample(process.model_copy(update={"sessions": sessions, "seed": seed}), features=features)
            for sessions, seed in ((FITTED_SESSIONS, FIT_SEED), (SCORED_SESSIONS, SCORE_SEED))
        )
        ratio, predictor = prompt_optimum((fitted[0], scored[0]), (fitted[1], scored[1]))
        (folder / OPTIMUM_FILE).write_text(json.dumps({"ratio": ratio, "predictor": predictor}), encoding="utf-8")
        return {"windows": len(fitted[0])}

    ref = store.build(
        "optimum",
        {"process": relevant, "features": features},
        build,
        code=code_version("features", "evaluation.optima", "tasks.benchmark", libraries=("scikit-learn",)),
    )
    found = json.loads((ref.path / OPTIMUM_FILE).read_text(encoding="utf-8"))
    return float(found["ratio"]), str(found["predictor"])


def _sample(process: SyntheticConfig, *, features: FeatureConfig) -> tuple[Floats, Floats]:
    """Numbers shown (n, k) and targets (n, h) in model units of every window of a stretch."""
    windows = build_windows(market(process), ticker=process.ticker, config=features)
    shown = np.concatenate([values for _, values in shown_numbers(windows, config=features)], axis=1)
    origin = np.stack(list(windows["history"]))[:, -1]
    targets = to_model_units(
        np.stack(list(windows["target"])), origin_price=origin, sigma=windows["sigma"].to_numpy(float)
    )
    return shown.astype(float), targets.astype(float)


def score_forecasts(
    windows: ArtifactRef, forecasts: ArtifactRef, *, model: str, evaluation: EvaluationConfig
) -> Attained:
    """What one model attained on the windows that it was asked for.

    Args:
        windows: Artifact of `build_windows`.
        forecasts: Artifact of `forecast_model` on these windows.
        model: The name its forecasts go by.
        evaluation: Which of the windows were asked for.
    """
    asked = select_windows(read_windows(windows), config=evaluation)
    return attained(asked, pd.read_parquet(forecasts.path / FORECASTS_FILE), model=model)
