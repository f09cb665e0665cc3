"""Parts of the benchmarks: the best attainable error, the error that a model attained, and test windows alone."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from tickerforge.evaluation.baselines.simple import baseline_forecasts
from tickerforge.evaluation.bench.known_markets import (
    KNOWN,
    SHOWN,
    Attained,
    Sample,
    attained,
    forecasts_of_percentiles,
    known_forecasts,
    prompt_optimum,
)
from tickerforge.evaluation.comparison.compare import select_windows
from tickerforge.evaluation.comparison.recalibrate import recalibrated_frame
from tickerforge.evaluation.core.config import EvaluationConfig
from tickerforge.evaluation.core.contracts import FREE, Floats
from tickerforge.evaluation.core.panels import session_dates
from tickerforge.evaluation.core.recalibration import Recalibration
from tickerforge.features.config import FeatureConfig, FrozenModel, SyntheticConfig
from tickerforge.features.prompts import shown_numbers
from tickerforge.features.synthetic import expected_moves, market
from tickerforge.features.tables import read_frame
from tickerforge.features.units import UNITS_PER_SIGMA, to_model_units
from tickerforge.features.windows import build_windows
from tickerforge.tasks.base.paths import FORECASTS_FILE, WINDOWS_FILE
from tickerforge.tasks.store.artifacts import ArtifactRef, Scalar, Store, code_version
from tickerforge.tasks.windows.preprocess import read_train_rows, read_windows

FITTED_SESSIONS, SCORED_SESSIONS = 100_300, 40_000
FIT_SEED, SCORE_SEED = 2_000_000, 3_000_000
OPTIMUM_FILE = "optimum.json"


class Attainable(FrozenModel):
    """The best attainable MSE of a market over the MSE of persistence: in general, and on the windows asked for.

    `attained` are all scores there of the predictor that attains it, with its distribution.
    """

    general: float
    asked: float
    predictor: str
    attained: Attained


def attainable(
    process: SyntheticConfig,
    *,
    asked: ArtifactRef,
    features: FeatureConfig,
    evaluation: EvaluationConfig,
    store: Store,
) -> Attainable:
    """Return the smallest error, over that of persistence, of a predictor that sees the same as prompts show.

    The predictor is fitted on about 100,000 windows of one period of the market and scored on about 40,000 of another,
    and on the windows that models are asked for: a comparison on these same windows cancels their luck. The store keeps
    the result.

    Args:
        process: Market of the windows `asked`.
        asked: Artifact of `store_windows`.
        features: Settings of windows and prompts.
        evaluation: Selection of the windows that models are asked for.
        store: Store of the result.
    """
    relevant = process.model_dump(mode="json", exclude={"ticker", "sessions", "seed"})

    def build(folder: Path) -> Mapping[str, Scalar]:
        fitted, scored = (
            _sample(build_windows(market(part), ticker=part.ticker, config=features), process=part, features=features)
            for part in (
                process.model_copy(update={"sessions": FITTED_SESSIONS, "seed": FIT_SEED}),
                process.model_copy(update={"sessions": SCORED_SESSIONS, "seed": SCORE_SEED}),
            )
        )
        windows = select_windows(read_windows(asked), config=evaluation).sort_values("origin")
        (general, there), predictor, percentiles = prompt_optimum(
            fitted, scored, _sample(windows, process=process, features=features)
        )
        moves = percentiles * (windows["sigma"].to_numpy(float) / UNITS_PER_SIGMA)[:, None, None]
        forecasts = forecasts_of_percentiles(windows, moves, model=SHOWN)
        best = attained(windows, forecasts, model=SHOWN, expected=_expected(windows, process=process))
        found = Attainable(general=general, asked=there, predictor=predictor, attained=best)
        (folder / OPTIMUM_FILE).write_text(found.model_dump_json(), encoding="utf-8")
        return {"windows": len(fitted[0])}

    ref = store.build(
        "optimum",
        {"process": relevant, "asked": asked, "features": features, "max_windows": evaluation.max_windows},
        build,
        code=code_version(
            "tickerforge.features",
            "tickerforge.evaluation.bench.known_markets",
            "tickerforge.evaluation.comparison.compare",
            "tickerforge.evaluation.core",
            "tickerforge.evaluation.metrics",
            "tickerforge.tasks.outputs.benchmark",
            libraries=("scikit-learn",),
        ),
    )
    return Attainable.model_validate_json((ref.path / OPTIMUM_FILE).read_bytes())


def _sample(windows: pd.DataFrame, *, process: SyntheticConfig, features: FeatureConfig) -> Sample:
    """Return windows of a market as arrays."""
    shown = np.concatenate([values for _, values in shown_numbers(windows, config=features)], axis=1)
    sigma = windows["sigma"].to_numpy(float)
    targets = to_model_units(
        np.stack(list(windows["target"])), origin_price=np.stack(list(windows["history"]))[:, -1], sigma=sigma
    )
    expected = UNITS_PER_SIGMA * _expected(windows, process=process) / sigma[:, None]
    return Sample(shown.astype(float), targets.astype(float), expected)


def _expected(windows: pd.DataFrame, *, process: SyntheticConfig) -> Floats:
    """Return the expected log returns of windows of a market, shape (n_windows, horizon)."""
    sessions = session_dates(market(process)["date"])
    rows = np.searchsorted(sessions, session_dates(windows["origin"]))
    return expected_moves(process, horizon=len(windows["target"].iloc[0]))[rows]


def only_test(windows: ArtifactRef, *, store: Store) -> ArtifactRef:
    """Store the test windows alone, to ask a model for nothing else.

    Args:
        windows: Artifact of `store_windows` or `store_pool`.
        store: Store of the artifact.

    Returns:
        Artifact of windows; its meta holds `ticker` and the count `test`.
    """

    def build(folder: Path) -> Mapping[str, Scalar]:
        frame = read_windows(windows, splits=("test",))
        frame.to_parquet(folder / WINDOWS_FILE, index=False)
        return {"ticker": str(windows.meta["ticker"]), "test": len(frame)}

    code = code_version("tickerforge.tasks.outputs.benchmark", libraries=("pandas", "pyarrow"))
    return store.build("windows", {"only": "test", "windows": windows}, build, code=code)


def score_forecasts(
    windows: ArtifactRef,
    forecasts: Mapping[str, ArtifactRef],
    *,
    process: SyntheticConfig,
    evaluation: EvaluationConfig,
    recalibrations: Mapping[str, Recalibration],
) -> tuple[Attained, ...]:
    """Score what knows the process, the free forecasters, fitted on the train windows beside, and each model.

    Args:
        windows: Artifact of `store_windows`.
        forecasts: Artifacts of `forecast_model` on these windows, by model name.
        process: Market of the windows.
        evaluation: Selection of the windows that were asked for.
        recalibrations: Recalibration of the models, by name.
    """
    everything = read_windows(windows)
    asked = select_windows(everything, config=evaluation).sort_values("origin")
    expected = _expected(asked, process=process)
    free = baseline_forecasts(asked, windows=everything, train=read_train_rows(windows))
    beside = pd.concat([known_forecasts(asked, process, seed=process.seed), free])
    return tuple(
        attained(asked, beside[beside["model"] == model], model=model, expected=expected) for model in (KNOWN, *FREE)
    ) + tuple(
        attained(
            asked,
            recalibrated_frame(
                asked,
                read_frame(answers.path / FORECASTS_FILE),
                recalibration=recalibrations.get(model, Recalibration()),
            ),
            model=model,
            expected=expected,
        )
        for model, answers in forecasts.items()
    )
