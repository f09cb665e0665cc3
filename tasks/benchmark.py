"""Stored pieces of the benchmarks: the best attainable error, what a model attained, and test windows by themselves."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from evaluation.attained import Attained, attained
from evaluation.compare import select_windows
from evaluation.config import EvaluationConfig
from evaluation.optima import Sample, prompt_optimum
from features.config import FeatureConfig, FrozenModel, SyntheticConfig
from features.prompts import shown_numbers
from features.synthetic import market
from features.units import to_model_units
from features.windows import build_windows
from tasks.paths import FORECASTS_FILE, WINDOWS_FILE
from tasks.preprocess import read_windows
from tasks.store import ArtifactRef, Scalar, Store, code_version

FITTED_SESSIONS, SCORED_SESSIONS = 100_300, 40_000
FIT_SEED, SCORE_SEED = 2_000_000, 3_000_000
OPTIMUM_FILE = "optimum.json"


class Attainable(FrozenModel):
    """MSE* of a market over persistence's: in general, and on the windows that models were asked for."""

    general: float
    asked: float
    predictor: str


def attainable(
    process: SyntheticConfig,
    *,
    asked: ArtifactRef,
    features: FeatureConfig,
    evaluation: EvaluationConfig,
    store: Store,
) -> Attainable:
    """The least error over persistence's of a predictor that sees what prompts show.

    Fitted on some 100,000 windows of a stretch of the market and scored on some 40,000 of another, and on the windows
    that models are asked for: compared there, the luck of those windows cancels. Kept in the store.

    Args:
        process: The market; its length and seed do not count.
        asked: Artifact of `build_windows` of a third stretch.
        features: What prompts show.
        evaluation: Which of its windows are asked for.
        store: Where it is kept.
    """
    relevant = process.model_dump(mode="json", exclude={"ticker", "sessions", "seed"})

    def build(folder: Path) -> Mapping[str, Scalar]:
        fitted, scored = (
            _sample(_stretch(process, sessions=sessions, seed=seed, features=features), features=features)
            for sessions, seed in ((FITTED_SESSIONS, FIT_SEED), (SCORED_SESSIONS, SCORE_SEED))
        )
        own = _sample(select_windows(read_windows(asked), config=evaluation), features=features)
        (general, there), predictor = prompt_optimum(fitted, scored, own)
        found = Attainable(general=general, asked=there, predictor=predictor)
        (folder / OPTIMUM_FILE).write_text(found.model_dump_json(), encoding="utf-8")
        return {"windows": len(fitted[0])}

    ref = store.build(
        "optimum",
        {"process": relevant, "asked": asked, "features": features, "max_windows": evaluation.max_windows},
        build,
        code=code_version(
            "features", "evaluation.optima", "evaluation.compare", "tasks.benchmark", libraries=("scikit-learn",)
        ),
    )
    return Attainable.model_validate_json((ref.path / OPTIMUM_FILE).read_bytes())


def _stretch(process: SyntheticConfig, *, sessions: int, seed: int, features: FeatureConfig) -> pd.DataFrame:
    stretch = process.model_copy(update={"sessions": sessions, "seed": seed})
    return build_windows(market(stretch), ticker=process.ticker, config=features)


def _sample(windows: pd.DataFrame, *, features: FeatureConfig) -> Sample:
    """Numbers shown (n, k) and targets (n, h) in model units."""
    shown = np.concatenate([values for _, values in shown_numbers(windows, config=features)], axis=1)
    targets = to_model_units(
        np.stack(list(windows["target"])),
        origin_price=np.stack(list(windows["history"]))[:, -1],
        sigma=windows["sigma"].to_numpy(float),
    )
    return shown.astype(float), targets.astype(float)


def only_test(windows: ArtifactRef, *, store: Store) -> ArtifactRef:
    """The test windows alone, for a model that is to be asked for nothing else.

    Args:
        windows: Artifact of `build_windows` or `pool_windows`.
        store: Where the artifact goes.

    Returns:
        Artifact that models can be asked with; its meta holds `ticker` and the count `test`.
    """

    def build(folder: Path) -> Mapping[str, Scalar]:
        frame = read_windows(windows, splits=("test",))
        frame.to_parquet(folder / WINDOWS_FILE, index=False)
        return {"ticker": str(windows.meta["ticker"]), "test": len(frame)}

    code = code_version("tasks.benchmark", libraries=("pandas", "pyarrow"))
    return store.build("windows", {"only": "test", "windows": windows}, build, code=code)


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
