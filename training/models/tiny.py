"""The tiny base model, which learns the answer format and simple price behaviour from synthetic markets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tickerforge.features.config import FeatureConfig
from tickerforge.features.prompts import Chat, answer_format, render_answer
from tickerforge.features.synthetic import bars_from_log_prices, log_prices
from tickerforge.features.windows import build_windows
from tickerforge.training.config import TinyConfig
from tickerforge.training.contracts import OnProgress
from tickerforge.training.examples import build_examples

SESSIONS = 700
STRIDE = 6
PROCESSES = ("random_walk", "mean_reverting", "momentum")


def build_tiny(
    out_dir: Path, *, config: TinyConfig, features: FeatureConfig, on_progress: OnProgress | None = None
) -> dict[str, float]:
    """Train the tiny base model into `out_dir`, as a Hugging Face folder; a killed build resumes there.

    A quarter of the prompts show prices only, so that one base model serves both prompt styles.

    Returns:
        The metrics of the last step.
    """
    from tickerforge.training.backends import tiny_model

    defaults, written = FeatureConfig(), answer_format(features)
    unrelated = ("train_fraction", "test_fraction", "sigma")
    features = features.model_copy(update={name: getattr(defaults, name) for name in unrelated})
    windows = synthetic_windows(config.seed, features=features, count=config.steps * config.batch_size)
    quarter = len(windows) // 4
    chats: list[Chat] = []
    answers: list[str] = []
    for style, rows in (("prices", windows.iloc[:quarter]), ("full", windows.iloc[quarter:])):
        styled = features.model_copy(update={"prompt_style": style})
        for example in build_examples(rows, config=styled):
            chats.append(example.prompt)
            answers.append(render_answer(example.target, style=written.style))
    return tiny_model.build(chats, answers, written=written, config=config, out_dir=out_dir, on_progress=on_progress)


def synthetic_windows(
    seed: int, *, features: FeatureConfig, count: int, processes: Sequence[str] = PROCESSES
) -> pd.DataFrame:
    """Make at least `count` windows of synthetic markets, shuffled by seed.

    Equal shares of the processes: random walks, mean-reverting log prices (φ from 0.5 to 0.98), trending returns (φ
    from 0.1 to 0.5).
    Daily volatility is from 0.6 to 4 %; shocks are Student-t with 3.5 to 12 degrees of freedom.

    Args:
        seed: Seed of the markets and of the order.
        features: Context, horizon and indicator scope.
        count: Number of windows wanted.
        processes: Names as in `features.synthetic.log_prices`.
    """
    rng = np.random.default_rng(seed)
    frames: list[pd.DataFrame] = []
    total = 0
    while total < count:
        process = processes[len(frames) % len(processes)]
        path = log_prices(
            process,
            phi=float(rng.uniform(0.5, 0.98) if process == "mean_reverting" else rng.uniform(0.1, 0.5)),
            sessions=SESSIONS,
            volatility=float(np.exp(rng.uniform(np.log(0.006), np.log(0.04)))),
            tail=float(rng.uniform(3.5, 12.0)),
            rng=rng,
        )
        windows = build_windows(bars_from_log_prices(path, rng=rng), ticker=f"SYNTHETIC-{len(frames)}", config=features)
        frames.append(windows.iloc[int(rng.integers(STRIDE)) :: STRIDE])
        total += len(frames[-1])
    return pd.concat(frames).sample(frac=1.0, random_state=seed).reset_index(drop=True)
