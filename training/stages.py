"""The training stages: GRPO, rejection sampling and SFT.

Each stage works in one folder. If it is killed, it resumes there and ends with the same result.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from tickerforge.features.atomic import atomic_path, write_atomically
from tickerforge.features.prompts import AnswerFormat, Chat
from tickerforge.features.stages import GRPO_1ST, AdapterStage
from tickerforge.training.backends import Backend, sampler_for, select
from tickerforge.training.backends.base import SamplingJob, TrainingJob
from tickerforge.training.config import TrainingConfig
from tickerforge.training.contracts import (
    ANSWERS_FILE,
    METRICS_FILE,
    SFT_DATA_FILE,
    Example,
    OnProgress,
    Progress,
    StageResult,
)
from tickerforge.training.errors import NoAcceptedAnswers, TrainingError
from tickerforge.training.launch import launch_training
from tickerforge.training.rejection import answers_frame, select_answers, spread_evenly, true_answers
from tickerforge.training.rewards import FormatReward, fault_shares

logger = logging.getLogger(__name__)

CHUNK_WINDOWS = 64


def run_grpo(
    examples: Sequence[Example],
    *,
    stage: AdapterStage,
    base_model: str,
    adapter: Path | None,
    config: TrainingConfig,
    out_dir: Path,
    seed: int,
    unit: float = 10.0,
    on_progress: OnProgress | None = None,
) -> StageResult:
    """Train an adapter by GRPO on train windows.

    Args:
        examples: Train windows.
        stage: One of the two GRPO stages; selects its settings.
        base_model: Hugging Face name or folder.
        adapter: Adapter to continue from; `None` starts a fresh one.
        config: Settings of all stages.
        out_dir: Folder of the checkpoints and the result; a killed run resumes there.
        seed: Seed of weights, order and sampling.
        unit: Size of one daily standard deviation in the units of the targets.
        on_progress: Called after each step.

    Raises:
        TrainingDiverged: If the run collapsed, or a step was NaN or infinite; names the last good adapter.
        BackendUnavailable: If the configured backend cannot run here.
        AdapterError: If `adapter` cannot be read.
    """
    if not examples:
        raise TrainingError(f"{stage}: there are no train windows to learn from")
    backend = chosen_backend(config)
    job = TrainingJob(
        stage, base_model, adapter, config, _make_folder(out_dir), seed, unit=unit, on_progress=on_progress
    )
    began = time.monotonic()
    return _result(job, launch_training(backend, examples, job=job), seconds=time.monotonic() - began)


def run_sft(
    sft_data: Path,
    *,
    stage: Literal["prime", "sft"] = "sft",
    base_model: str,
    adapter: Path | None,
    config: TrainingConfig,
    out_dir: Path,
    seed: int,
    on_progress: OnProgress | None = None,
) -> StageResult:
    """Fine-tune an adapter on the answers that `run_rejection` accepted; arguments and errors as in `run_grpo`."""
    accepted = pd.read_parquet(sft_data)
    if accepted.empty:
        raise NoAcceptedAnswers(f"{sft_data} holds no answers to fine-tune on")
    backend = chosen_backend(config)
    job = TrainingJob(stage, base_model, adapter, config, _make_folder(out_dir), seed, on_progress=on_progress)
    began = time.monotonic()
    return _result(job, launch_training(backend, accepted, job=job), seconds=time.monotonic() - began)


def run_rejection(
    examples: Sequence[Example],
    *,
    base_model: str,
    adapter: Path | None,
    config: TrainingConfig,
    out_dir: Path,
    seed: int,
    written: AnswerFormat = AnswerFormat(),
    on_progress: OnProgress | None = None,
) -> StageResult:
    """Draw N answers per train window and keep those that the configured rule accepts, as `sft_data.parquet`.

    All answers are in `answers.parquet`, and what they are like in `metrics.jsonl`, a line per chunk of windows.

    Each chunk of windows is saved as soon as it is drawn, so that a killed run resumes at the next chunk. Arguments and
    errors as in `run_grpo`; `written` is the format of the accepted answers.

    Raises:
        NoAcceptedAnswers: If the rule accepts no answer.
    """
    rejection = config.rejection
    chosen = [examples[i] for i in spread_evenly(len(examples), at_most=rejection.max_windows)]
    began = time.monotonic()
    chunks = _make_folder(out_dir / "chunks")
    if rejection.rule == "truth":
        answers = true_answers(chosen, written=written)
    else:
        answers = _draw_answers(
            chosen,
            out_dir=out_dir,
            chunks=chunks,
            base_model=base_model,
            adapter=adapter,
            config=config,
            seed=seed,
            on_progress=on_progress,
        )
    with atomic_path(out_dir / ANSWERS_FILE) as partial:
        answers_frame(chosen, answers).to_parquet(partial, index=False, compression="zstd")
    accepted = select_answers(chosen, answers, config=rejection, written=written)
    if accepted.empty:
        required, cure = "valid", ""
        if rejection.min_skill is not None and rejection.rule not in ("none", "truth"):
            required, cure = f"valid and reached a skill of {rejection.min_skill}", "lower rejection.min_skill, "
        raise NoAcceptedAnswers(
            f"none of {len(chosen) * rejection.answers} answers to {len(chosen)} windows was {required}: {cure}draw "
            f"more answers, or train {GRPO_1ST.name} longer"
        )
    with atomic_path(out_dir / SFT_DATA_FILE) as partial:
        accepted.to_parquet(partial, index=False)
    for path in chunks.iterdir():
        path.unlink()
    chunks.rmdir()
    summary = {
        "windows": float(len(chosen)),
        "answers": float(sum(map(len, answers))),
        "accepted": float(len(accepted)),
        # A window whose prices never moved has a skill only for the perfect answer.
        "mean_skill": float(accepted["skill"].replace(-np.inf, np.nan).mean()),
    }
    return StageResult("rejection", out_dir, len(chosen), time.monotonic() - began, summary)


def _draw_answers(
    chosen: Sequence[Example],
    *,
    out_dir: Path,
    chunks: Path,
    base_model: str,
    adapter: Path | None,
    config: TrainingConfig,
    seed: int,
    on_progress: OnProgress | None,
) -> list[list[str]]:
    """Draw N answers to each window, chunk by chunk; read the chunks that an earlier run has saved.

    `metrics.jsonl` gets a line for each chunk.
    """
    sampler = sampler_for(chosen_backend(config), config=config)
    answers: list[list[str]] = []
    rows: list[dict[str, str | float]] = []
    for start in range(0, len(chosen), CHUNK_WINDOWS):
        path = chunks / f"{start:08d}.json"
        part = chosen[start : start + CHUNK_WINDOWS]
        chunk = _read_chunk(path, windows=len(part))
        if chunk is None:
            lengths = _Lengths()
            job = SamplingJob(
                base_model,
                adapter,
                config,
                answers=config.rejection.answers,
                horizon=len(part[0].target),
                seed=seed + start,
                stage="rejection",
                on_drawn=lengths.add,
            )
            drawn = sampler.generate([example.prompt for example in part], job=job)
            texts = [text for each in drawn for text in each]
            valid = FormatReward(horizon=job.horizon)(completions=texts)
            metrics = {
                "valid_rate": float(np.mean(valid)),
                **fault_shares(texts, horizon=job.horizon),
                **lengths.metrics(),
            }
            chunk = {"answers": drawn, "metrics": metrics}
            write_atomically(path, json.dumps(chunk))
        answers += chunk["answers"]
        rows.append({"stage": "rejection", "step": len(answers), "total": len(chosen), **chunk["metrics"]})
        write_atomically(out_dir / METRICS_FILE, "".join(json.dumps(row) + "\n" for row in rows))
        if on_progress is not None:
            on_progress(Progress("rejection", len(answers), len(chosen), chunk["metrics"]))
    return answers


class _Lengths:
    """The lengths of the answers of one chunk in tokens, and how many of them were cut off."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._cut_off = 0

    def add(self, tokens: Sequence[int], cut_off: int) -> None:
        """Add some answers; the callback `SamplingJob.on_drawn`."""
        self._tokens += tokens
        self._cut_off += cut_off

    def metrics(self) -> dict[str, float]:
        """Return the figures, named as in the GRPO stages."""
        return {
            "answer_tokens": float(np.mean(self._tokens)),
            "longest_answer_tokens": float(max(self._tokens)),
            "cut_off_answers": self._cut_off / len(self._tokens),
        }


def answer_generator(
    *,
    base_model: str,
    adapter: Path | None,
    config: TrainingConfig,
    horizon: int,
    seed: int,
    stage: str = "forecast",
    on_progress: OnProgress | None = None,
) -> Callable[[Sequence[Chat], int], list[list[str]]]:
    """Return a function that draws n answers to each prompt, for evaluation and forecasts."""

    def generate(prompts: Sequence[Chat], n: int) -> list[list[str]]:
        sampler = sampler_for(chosen_backend(config), config=config)
        job = SamplingJob(
            base_model, adapter, config, answers=n, horizon=horizon, seed=seed, stage=stage, on_progress=on_progress
        )
        return sampler.generate(prompts, job=job)

    return generate


def chosen_backend(config: TrainingConfig) -> Backend:
    """Return the backend that trains with this configuration, and log why."""
    selection = select(config.backend, model=config.model)
    logger.info("backend %s", selection.reason)
    return selection.backend


def _result(job: TrainingJob, summary: dict[str, float], *, seconds: float) -> StageResult:
    lines = (job.out_dir / METRICS_FILE).read_text().splitlines()
    return StageResult(job.stage, job.out_dir, len(lines), seconds, summary)


def _make_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _read_chunk(path: Path, *, windows: int) -> dict[str, Any] | None:
    """Read the answers of a saved chunk and their metrics; `None` if there is none, or if it is incomplete."""
    try:
        chunk: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return chunk if len(chunk["answers"]) == windows else None
