"""Priming: a short fine-tuning that teaches a base model the answer format, before any ticker's training.

A pretrained language model does not know the format. GRPO learns nothing while no answer is valid, so the model first
learns from prompts of synthetic random walks and their continuations. These are draws of the calibrated random walk:
they teach the format and how far prices spread, and nothing about any market. So one primed adapter serves all tickers.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tickerforge.features.config import FeatureConfig
from tickerforge.features.prompts import answer_format, parse, render_answer
from tickerforge.features.units import UNITS_PER_SIGMA
from tickerforge.training.backends import sampler_for
from tickerforge.training.backends.base import SamplingJob
from tickerforge.training.config import TrainingConfig
from tickerforge.training.contracts import Example, OnProgress, Progress, StageResult
from tickerforge.training.examples import build_examples
from tickerforge.training.models.tiny import synthetic_windows
from tickerforge.training.stages import chosen_backend, run_sft

FIRST_PROMPTS = 4
"""Windows after whose answers a probe stops if the model cannot reach the valid rate that it needs."""
WALK_WINDOWS = 2_000
QUANTILES = 64
EXAMPLES_FILE = "examples.parquet"
_PROBE = "prime, probe"


@dataclass(frozen=True)
class PrimingWindows:
    """Windows of synthetic random walks.

    Attributes:
        asked: Windows that a model is asked about.
        learned: Windows that it learns from; none is among those asked.
        walk: The free random walk: evenly spaced quantiles of the moves of all windows, in tenths of a daily standard
            deviation, shape `(QUANTILES, horizon)`.
        units: Size of a tenth of a daily standard deviation in the units of the answers, shape `(asked,)`.
    """

    asked: list[Example]
    learned: list[Example]
    walk: NDArray[np.float64]
    units: NDArray[np.float64]


@dataclass(frozen=True)
class Probe:
    """What a model answered: `valid` of `drawn` answers, and the CRPS as a multiple of the free random walk's."""

    drawn: int
    valid: int
    crps: float = float("nan")

    @property
    def valid_rate(self) -> float:
        """Share of valid answers."""
        return self.valid / self.drawn


def priming_windows(config: TrainingConfig, *, features: FeatureConfig) -> PrimingWindows:
    """Make the windows of the probe and of the training, with prompts as `features` asks for them."""
    prime = config.prime
    defaults = FeatureConfig()
    features = features.model_copy(
        update={"train_fraction": defaults.train_fraction, "test_fraction": defaults.test_fraction}
    )
    wanted = max(WALK_WINDOWS, prime.prompts + prime.examples)
    frame = synthetic_windows(prime.seed, features=features, count=wanted, processes=("random_walk",))
    moves = np.stack(
        [
            UNITS_PER_SIGMA * np.log(np.asarray(target) / history[-1]) / sigma
            for target, history, sigma in zip(frame["target"], frame["history"], frame["sigma"], strict=True)
        ]
    )
    chosen = build_examples(frame.iloc[: prime.prompts + prime.examples], config=features)
    asked = frame.iloc[: prime.prompts]
    units = np.ones(len(asked))
    if features.units == "train_standard":
        last = np.array([history[-1] for history in asked["history"]])
        units = (asked["sigma"] * last / asked["train_std"]).to_numpy() / UNITS_PER_SIGMA
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return PrimingWindows(
        asked=chosen[: prime.prompts],
        learned=chosen[prime.prompts :],
        walk=np.quantile(moves, levels, axis=0),
        units=units,
    )


def probe(
    windows: PrimingWindows,
    *,
    base_model: str,
    adapter: Path | None,
    config: TrainingConfig,
    at_least: float = 0.0,
    on_progress: OnProgress | None = None,
) -> Probe:
    """Ask a model about the windows, without a grammar; stop early if it cannot reach a valid rate of `at_least`.

    Each window is asked twice with different seeds, because the CRPS needs pairs of independent answers. It is the CRPS
    to be expected if prices follow the free random walk, which depends less on chance than that of single outcomes.

    Returns:
        The CRPS is NaN if fewer than half of the answers are valid.
    """
    prime = config.prime
    free = config.model_copy(update={"sampling": config.sampling.model_copy(update={"constrained": False})})
    horizon = windows.walk.shape[1]
    sampler = sampler_for(chosen_backend(config), config=free)
    jobs = [
        SamplingJob(base_model, adapter, free, answers=size, horizon=horizon, seed=prime.seed + half, stage=_PROBE)
        for half, size in enumerate((prime.answers // 2, prime.answers - prime.answers // 2))
    ]
    read: list[list[list[tuple[float, ...] | None]]] = []
    for part in (windows.asked[:FIRST_PROMPTS], windows.asked[FIRST_PROMPTS:]):
        prompts = [example.prompt for example in part]
        drawn = [sampler.generate(prompts, job=job) for job in jobs]
        read += [
            [[parse(text, horizon=horizon) for text in texts] for texts in pair] for pair in zip(*drawn, strict=True)
        ]
        if on_progress is not None:
            on_progress(Progress(_PROBE, len(read), len(windows.asked)))
        invalid = sum(values is None for pair in read for half in pair for values in half)
        if invalid > (1 - at_least) * prime.answers * len(windows.asked):
            break
    answers = [values for pair in read for half in pair for values in half]
    valid = sum(values is not None for values in answers)
    crps = _crps(windows, read) if valid * 2 >= len(answers) else float("nan")
    return Probe(drawn=len(answers), valid=valid, crps=crps)


def _crps(windows: PrimingWindows, read: Sequence[Sequence[Sequence[tuple[float, ...] | None]]]) -> float:
    """Return the expected CRPS under the free random walk, as a multiple of its own."""
    walk = windows.walk
    own = np.abs(walk[:, None] - walk[None]).mean((0, 1)) / 2
    errors, spreads = [], []
    for example, unit, pair in zip(windows.asked, windows.units, read, strict=False):
        first, second = (
            (np.array([values for values in half if values]).reshape(-1, walk.shape[1]) - example.last_close) / unit
            for half in pair
        )
        for each in (first, second):
            errors += [np.abs(values - walk).mean(0) for values in each]
        spreads += [np.abs(one - other) for one in first for other in second]
    if not spreads:
        return float("nan")
    return float(np.mean((np.mean(errors, axis=0) - np.mean(spreads, axis=0) / 2) / own))


def run_prime(
    windows: PrimingWindows,
    *,
    base_model: str,
    config: TrainingConfig,
    features: FeatureConfig,
    out_dir: Path,
    on_progress: OnProgress | None = None,
) -> StageResult:
    """Fine-tune a fresh adapter on the windows' continuations; a killed run resumes in its folder.

    Raises:
        TrainingError: As in `training.stages.run_sft`.
    """
    written = answer_format(features)
    path = out_dir / EXAMPLES_FILE
    pd.DataFrame(
        {
            "prompt": [json.dumps(example.prompt, ensure_ascii=False) for example in windows.learned],
            "answer": [
                render_answer(example.target, decimals=written.decimals, style=written.style)
                for example in windows.learned
            ],
        }
    ).to_parquet(path, index=False)
    result = run_sft(
        path,
        stage="prime",
        base_model=base_model,
        adapter=None,
        config=config,
        out_dir=out_dir,
        seed=config.prime.seed,
        on_progress=on_progress,
    )
    path.unlink()
    return result
