"""Frames for the evaluation tests: real windows of synthetic markets, and forecasts of known quality."""

import numpy as np
import pandas as pd

from tickerforge.evaluation.baselines.simple import baseline_forecasts
from tickerforge.evaluation.comparison.compare import select_windows
from tickerforge.evaluation.core.config import EvaluationConfig
from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.features.splits import split_borders
from tickerforge.features.synthetic import market
from tickerforge.features.windows import build_windows

ALL_MODELS = ("base", "grpo_1st", "sft", "grpo_2nd")


def market_windows(
    process: str = "random_walk", *, sessions: int = 600, seed: int = 3
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Build windows of a synthetic ticker and the bars of its train split."""
    synthetic = SyntheticConfig.model_validate({"process": process, "sessions": sessions, "seed": seed})
    bars, features = market(synthetic), FeatureConfig()
    train = bars.iloc[: split_borders(len(bars), features).train_end]
    return build_windows(bars, ticker="DEMO", config=features), train


def noisy_forecasts(
    windows: pd.DataFrame, *, model: str, knowledge: float, noise: float = 0.3, samples: int = 16, seed: int = 0
) -> pd.DataFrame:
    """Build forecasts that know the share `knowledge` of each coming log return, plus an error of `noise` σ."""
    rng = np.random.default_rng(seed)
    origin = np.stack(windows["history"].to_list())[:, -1:]
    sigma = windows["sigma"].to_numpy()[:, None]
    returns = np.log(np.stack(windows["target"].to_list()) / origin)
    centre = knowledge * returns + noise * sigma * rng.standard_normal((len(windows), 1))
    steps = np.sqrt(np.arange(1, returns.shape[1] + 1))
    spread = sigma[:, None, :] * steps * rng.standard_normal((len(windows), samples, len(steps)))
    drawn = np.exp(centre[:, None, :] + spread * np.sqrt(1 - knowledge))
    return windows[["ticker", "origin", "split"]].assign(
        model=model,
        median=pd.Series((origin * np.exp(centre)).tolist(), index=windows.index, dtype=object),
        samples=pd.Series((origin[:, None] * drawn).tolist(), index=windows.index, dtype=object),
        n_samples=samples,
        n_valid=samples,
    )


def forecasts_of(
    windows: pd.DataFrame, train: pd.DataFrame, *, knowledge: dict[str, float], config: EvaluationConfig | None = None
) -> pd.DataFrame:
    """Build baselines and noisy forecasts of the selected windows."""
    selected = select_windows(windows, config=config or EvaluationConfig())
    frames = [baseline_forecasts(selected, windows=windows, train=train)]
    frames += [
        noisy_forecasts(selected, model=model, knowledge=share, seed=seed)
        for seed, (model, share) in enumerate(knowledge.items())
    ]
    return pd.concat(frames, ignore_index=True)
